package state

import (
	"sync"

	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// connections are the client connections of one pod that are open.
type connections struct {
	mu     sync.Mutex
	closed bool
	open   map[*sock.Conn]struct{}
}

// Enter notes a connection of the pod that is about to be served. False: the pod is gone.
func (p *Pod) Enter(c *sock.Conn) bool {
	o := p.open
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	if o.open == nil {
		o.open = map[*sock.Conn]struct{}{}
	}
	o.open[c] = struct{}{}
	return true
}

// Leave notes the end of a connection that has entered.
func (p *Pod) Leave(c *sock.Conn) {
	p.open.mu.Lock()
	defer p.open.mu.Unlock()
	delete(p.open.open, c)
}

// Connections is the number of connections of the pod that are served now.
func (p *Pod) Connections() int {
	p.open.mu.Lock()
	defer p.open.mu.Unlock()
	return len(p.open.open)
}

// closeAll ends the connections: whoever reads or writes finds them closed. A deadline would not do, because who serves
// a connection sets its own.
func (o *connections) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for c := range o.open {
		c.Reset()
	}
}
