package forward

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// lockedBuffer is a log's output.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) has(s string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.all.Bytes(), []byte(s))
}

// A bug costs the connection that meets it: it is reset, logged and recorded, and nothing else is concerned.
func TestPanicCostsOneConnection(t *testing.T) {
	var log lockedBuffer
	table := routes(ruleFor("/bug", to(webKey)), ruleFor("/", to(webKey)))
	l := setup{table: table, log: &log}.start(t)
	b := l.origin()
	other, running := l.dial(), l.dial()
	p := l.keep(b, other)
	running.send(get)
	p.want(get)
	broken := l.compile(unitOf(table))
	broken.ports[80].producer.rules[0].model = nil // no unit compiles to this
	l.port.Swap(broken)
	const bug = "GET /bug HTTP/1.1\r\nHost: web\r\n\r\n"
	for range 3 {
		c := l.dial()
		c.send(bug)
		c.wantReset()
		if rec := l.record(); rec.Path != "/bug" || rec.Status != 0 || rec.Failure != proxyBug {
			t.Errorf("recorded as %+v", rec)
		}
	}
	used := l.dial() // one that has been served before
	used.send(get)
	q := b.accept()
	q.want(get)
	q.send(okay)
	used.want(okay)
	used.send(bug)
	used.wantReset()

	p.send(okay)
	running.want(okay)
	other.send(get)
	p.want(get)
	p.send(okay)
	other.want(okay)
	for _, want := range []string{"the proxy has a bug", "pod=shop/client", "exchange.go"} {
		if !log.has(want) {
			t.Errorf("the log does not have %q", want)
		}
	}
}

// The same where the endpoint has a request, or half of one: it must not look complete, and the pump has ended when the
// memory goes back.
func TestPanicResetsTheEndpoint(t *testing.T) {
	l := setup{table: everything(), log: io.Discard}.start(t)
	b := l.origin()
	ln := listenTCP(t)
	for i := range 20 {
		c := l.dialTo(ln.Addr().String())
		c.send(post("Content-Length: 100\r\n", "hello"))
		fd, err := acceptFD(ln)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := sock.New(fd)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- panicsMidway(l, conn, i%2 == 0) }()
		p := b.accept()
		p.wantReset()
		c.wantReset()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if rec := l.record(); rec.Failure != proxyBug {
			t.Errorf("recorded as %+v", rec)
		}
	}
	l.serves(b)
}

// panicsMidway is Serve with a bug that shows when there is a connection to the endpoint, and the body is on its way or
// not yet.
func panicsMidway(l *lab, conn *sock.Conn, pumping bool) error {
	s := l.server
	n := &session{server: s, conn: conn, client: l.client, port: l.port}
	n.in.Reset(conn, &s.buffers)
	s.enter(n)
	l.recorder.ConnectionOpened(l.client.Pod)
	l.client.connections.Add(1)
	defer s.served(n)
	x := n.take()
	x.start()
	var err error
	if x.head, err = x.in.Request(&x.req, s.limits, time.Minute); err != nil {
		return err
	}
	if err := x.body.begin(x.in.Buffered(), &x.head); err != nil {
		return err
	}
	e := l.registry.Set(webKey).Pick(nil)
	if x.to, err = l.client.Upstream.Dial(e, 0); err != nil {
		return err
	}
	e.Acquire()
	x.endpoint = e
	if x.body.pumping = pumping; pumping {
		go x.body.pump(&x.in, x.to)
	}
	panic("a bug of the test's")
}
