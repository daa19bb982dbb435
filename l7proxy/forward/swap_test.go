package forward

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// swap brings another version of the Service into force.
func (l *lab) swap(change func(*model.Port)) {
	l.tb.Helper()
	unit := unitOf(nil)
	change(&unit.Ports[0])
	l.port.Swap(l.compile(unit))
}

// exchange makes one on a connection, whose endpoint's connection is not kept.
func (l *lab) exchange(c *peer, b *origin) {
	l.tb.Helper()
	c.send(get)
	p := b.accept()
	defer p.close()
	p.want(get)
	p.send(bye)
	c.want(okay)
}

// A request takes the table that is in force when it comes, also in the middle of a connection.
func TestSwapBetweenTwoRequests(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b, r := l.origin(), l.originOf(routedKey)
	c := l.dial()
	l.exchange(c, b)
	l.swap(func(p *model.Port) { p.Producer = routes(ruleFor("/", to(routedKey))) })
	l.exchange(c, r)
	l.swap(func(p *model.Port) { p.Producer = routes(ruleFor("/other", to(routedKey))) })
	c.send(get)
	c.wantRefusal(404, "no rule", false)
	l.swap(func(p *model.Port) { p.Producer = everything() })
	l.exchange(c, b)
}

// What runs keeps the table that it began with.
func TestSwapDuringAnExchange(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b, r := l.origin(), l.originOf(routedKey)
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	l.swap(func(p *model.Port) { p.Producer = routes(failing(501, "not any more")) })
	p.send(okay)
	c.want(okay)
	c.send(get)
	c.wantRefusal(501, "not any more", false)
	b.untouched()
	r.untouched()
}

// when the last route goes, the next request on a connection that was kept goes as without a mesh.
func TestA40SwapToNoTable(t *testing.T) {
	l := newLab(t, routes(ruleFor("/", to(routedKey))), Limits{})
	b, r := l.origin(), l.originOf(routedKey)
	c := l.dial()
	l.exchange(c, r)
	l.swap(func(*model.Port) {})
	l.exchange(c, b)
	l.record()
	if rec := l.record(); rec.Service != "web" || rec.Route != "" || rec.Backend != "" || rec.Status != 200 {
		t.Errorf("recorded as %+v", rec)
	}
	r.untouched()
	// A new connection is not looked into.
	d := l.dial()
	d.send("anything")
	b.accept().want("anything")
}

// A port that is not redirected any more: what is open there ends as in a drain, and other ports are not concerned. What
// comes back into force goes on.
func TestRetiredPort(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	other := NewPort(l.compile(unitOf(everything())), 80)
	elsewhere := l.dialTo(l.listenOn(l.client, other))
	idle, used, running := l.dial(), l.dial(), l.dial()
	l.exchange(elsewhere, b)
	running.send(get)
	p := b.accept()
	p.want(get)
	if !eventually(func() bool { return l.server.Open() == 4 }) {
		t.Fatal("the connections are not open")
	}

	l.server.Retire(l.port)
	used.send(get)
	q := b.accept()
	q.want(get)
	q.send(bye)
	used.want(bye)
	used.wantEnd()
	idle.wantEnd()
	p.send(bye)
	running.want(bye)
	running.wantEnd()
	l.exchange(elsewhere, b)
	late := l.dial() // who was on the way when the port was retired
	late.send(get)
	q = b.accept()
	q.want(get)
	q.send(bye)
	late.want(bye)
	late.wantEnd()

	l.swap(func(p *model.Port) { p.Producer = everything() })
	c := l.dial()
	l.exchange(c, b)
	l.exchange(c, b)
}

// A port that the new version does not have stays as it is.
func TestSwapWithoutThePort(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	unit := unitOf(nil)
	unit.Ports[0].Number, unit.Ports[0].Default.Port = 81, 81
	l.port.Swap(l.compile(unit))
	l.exchange(l.dial(), b)
}

// a client's namespace has its own table or the producer's, never both, and no fall-through.
func TestA22ConsumerTables(t *testing.T) {
	both := func(p *model.Port) {
		p.Producer = everything()
		p.Consumers = map[string]*model.RouteTable{"eats": routes(ruleFor("/mine", to(routedKey)))}
	}
	l := setup{table: everything(), port: both}.start(t)
	b, r := l.origin(), l.originOf(routedKey)
	eater, stranger := l.newClient("eats", "x"), l.newClient("elsewhere", "y")
	atEater, atStranger := l.listen(eater), l.listen(stranger)

	c := l.dialTo(atEater)
	const mine = "GET /mine HTTP/1.1\r\nHost: web\r\n\r\n"
	c.send(mine)
	p := r.accept()
	p.want(mine)
	p.send(bye)
	c.want(okay)
	c.send(get)
	c.wantRefusal(404, "no rule", false) // not the producer's
	l.exchange(l.dial(), b)
	l.exchange(l.dialTo(atStranger), b)

	l.swap(func(p *model.Port) { p.Producer = everything() }) // the consumer route goes
	l.exchange(c, b)
	l.swap(func(p *model.Port) { // and the producer's, while there is a consumer's
		both(p)
		p.Producer = nil
	})
	c.send(get)
	c.wantRefusal(404, "no rule", false)
	d := l.dialTo(atStranger)
	d.send("anything")
	b.accept().want("anything")
}

// Tables and endpoints change with each request, while others run: each request is answered by one of the versions.
func TestSwapUnderLoad(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	answer := func(w io.Writer, _ *http.Request) bool {
		_, err := io.WriteString(w, okay)
		return err == nil
	}
	b, r := l.origin(), l.originOf(routedKey)
	b.serve(answer)
	r.serve(answer)
	var load sync.WaitGroup
	served := make(chan struct{})
	for range 4 {
		c := l.dial()
		load.Go(func() {
			for range 300 {
				if err := once(c); err != nil {
					t.Error(err)
					return
				}
				served <- struct{}{}
			}
		})
	}
	go func() {
		load.Wait()
		close(served)
	}()
	keys, n := []model.EndpointsKey{webKey, routedKey}, 0
	for range served {
		n++
		l.swap(func(p *model.Port) { p.Producer = routes(ruleFor("/", to(keys[n%2]))) })
		l.apply(webKey, b.addr)
	}
	if n != 4*300 {
		t.Errorf("%d requests were served", n)
	}
}

func once(c *peer) error {
	if _, err := io.WriteString(c, get); err != nil {
		return err
	}
	got := make([]byte, len(okay))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != okay {
		return fmt.Errorf("%q, %w", got, err)
	}
	return nil
}
