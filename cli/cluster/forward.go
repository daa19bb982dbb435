package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/sluice-mesh/sluice/cli/ask"
)

// Agent is the agent in one of our pods.
func (c *Cluster) Agent(p Pod) ask.Program { return c.program("agent", p, ask.AgentPort) }

// Proxy is the proxy in one of our pods.
func (c *Cluster) Proxy(p Pod) ask.Program { return c.program("proxy", p, ask.ProxyPort) }

func (c *Cluster) program(name string, p Pod, port int) ask.Program {
	return ask.Program{
		Name: name, At: fmt.Sprintf("pod %s on node %s", p, p.Node),
		Dial: func(ctx context.Context) (net.Conn, error) { return c.dial(ctx, p, port) },
	}
}

// tunnelled marks a protocol of streams that a WebSocket carries, as kubectl does.
const tunnelled = "SPDY/3.1+"

// pingEvery keeps what is between us and the kubelet from closing a connection that is quiet.
const pingEvery = 10 * time.Second

// dial connects to a port on the loopback of a pod. The context is for making the connection, which is the caller's to close.
func (c *Cluster) dial(ctx context.Context, p Pod, port int) (net.Conn, error) {
	at := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("portforward").URL()
	at.RawQuery = "" // a time-out that is for answers
	streams, under, err := c.overWebSocket(ctx, at)
	if httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) { // a server or a proxy before Kubernetes 1.31
		streams, err = c.overSPDY(ctx, at)
	}
	if err != nil {
		return nil, err
	}
	conn := &conn{streams: streams, under: under, failed: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { _ = conn.closeAll() }) // a kubelet that says nothing is waited for half a minute
	defer stop()
	if err := conn.open(port); err != nil {
		_ = conn.closeAll() // the other error tells more
		return nil, err
	}
	return conn, nil
}

// overWebSocket also returns what is below the streams.
func (c *Cluster) overWebSocket(ctx context.Context, at *url.URL) (httpstream.Connection, io.Closer, error) {
	transport, holder, err := websocket.RoundTripperFor(c.config)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody) // RFC 6455 section 4.1
	if err != nil {
		return nil, nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, req, tunnelled+portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, nil, err
	}
	tunnel := portforward.NewTunnelingConnection("client", conn)
	streams, err := streamspdy.NewClientConnectionWithPings(tunnel, pingEvery)
	return streams, tunnel, err
}

// overSPDY returns late where a server takes the request and does not answer: the library waits for it.
func (c *Cluster) overSPDY(ctx context.Context, at *url.URL) (httpstream.Connection, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	streams, _, err := spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, req, portforward.PortForwardProtocolV1Name)
	return streams, err
}

// conn is a connection through one port-forward, which is its own.
type conn struct {
	streams httpstream.Connection
	data    httpstream.Stream
	under   io.Closer // closes what streams leave open for a far end that says nothing; nil: unknown

	once    sync.Once
	failed  chan struct{} // closed when the far end has said all that it has to say of errors
	failure error
}

// open makes the two streams that a connection has: first that of errors.
func (c *conn) open(port int) error {
	h := http.Header{}
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	failures, err := c.streams.CreateStream(h)
	if err != nil {
		return fmt.Errorf("port-forward: %w", err)
	}
	if err := failures.Close(); err != nil { // nothing is written to it
		return fmt.Errorf("port-forward: %w", err)
	}
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	c.data, err = c.streams.CreateStream(h)
	if err != nil {
		return fmt.Errorf("port-forward: %w", err)
	}
	go c.readFailure(failures)
	return nil
}

const maxFailure = 4 << 10

func (c *conn) readFailure(failures io.Reader) {
	defer close(c.failed)
	said, _ := io.ReadAll(io.LimitReader(failures, maxFailure)) // how it ended does not matter
	if said = bytes.TrimSpace(said); len(said) > 0 {
		c.failure = errors.New(farEnd(string(said)))
		c.data.Reset() //nolint:errcheck // a reader that waits is woken up
	}
}

// farEnd leaves of a runtime's error what says why. Before it are identifiers of the pod's sandbox; after it containerd tells of IPv6, by
// which nobody can be reached who listens on 127.0.0.1.
func farEnd(s string) string {
	if at := strings.Index(s, "dial tcp"); at >= 0 {
		s, _, _ = strings.Cut(s[at:], " IPv6 ")
	}
	return s
}

// Read tells, where the far end said why there is nothing to read, that.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.data.Read(b)
	if err == nil || n > 0 {
		return n, nil
	}
	select {
	case <-c.failed:
	case <-time.After(failurePatience):
		return 0, err
	}
	if c.failure != nil {
		return 0, c.failure
	}
	return 0, err
}

// failurePatience is for the reason of an end, which may come after the end.
const failurePatience = time.Second

func (c *conn) Write(b []byte) (int, error) { return c.data.Write(b) }

func (c *conn) Close() error {
	var err error
	c.once.Do(func() {
		err = errors.Join(c.data.Reset(), c.closeAll())
	})
	return err
}

func (c *conn) closeAll() error {
	err := c.streams.Close()
	if c.under != nil {
		err = errors.Join(err, c.under.Close())
	}
	return err
}

// What a net.Conn has besides. Who uses it closes it when time is up.
func (c *conn) LocalAddr() net.Addr              { return address{} }
func (c *conn) RemoteAddr() net.Addr             { return address{} }
func (c *conn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *conn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *conn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// address is that of a pod's loopback.
type address struct{}

func (address) Network() string { return "portforward" }
func (address) String() string  { return "portforward" }
