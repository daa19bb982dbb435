package forward

import (
	"sync"

	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// Why a connection is relayed, and not served as HTTP: values of a label.
const (
	noRoute     = "no_route"     // no route binds to the port for this client
	byName      = "by_name"      // appProtocol or the port's name say that it is no HTTP
	tls         = "tls"          // the client speaks TLS
	otherBytes  = "other"        // ... something else
	serverFirst = "server_first" // the server spoke first, or does so on this port
)

// relayTo passes the connection on to an endpoint of the set, byte by byte. Where there is none, the client is reset,
// as it would have been refused without us.
func (n *session) relayTo(set *upstream.Set) {
	to, e := n.connect(set)
	if to == nil {
		n.conn.Reset()
		return
	}
	e.Acquire()
	defer e.Release()
	n.passOn(to)
}

// passOn relays, what has been read of the client first.
func (n *session) passOn(to *sock.Conn) {
	p := n.port.current.Load()
	n.server.cfg.Recorder.Relayed(p.service, p.number, n.relayed)
	if early := n.in.Buffered(); len(early) > 0 {
		if _, err := to.Write(early); err != nil {
			to.Reset()
			n.conn.Reset()
			return
		}
		n.in.Use(len(early))
	}
	n.in.Release()
	n.upstream.Store(to)
	n.server.relay(n.conn, to)
}

// relay passes bytes on in both directions until both have ended, and closes b. The end of one half is passed on, and
// so is a reset. It returns the bytes from a to b and from b to a.
func (s *Server) relay(a, b *sock.Conn) (there, back int64) {
	var other sync.WaitGroup
	other.Go(func() {
		defer func() { s.caught(recover(), a, b) }()
		back = s.oneWay(a, b)
	})
	there = s.oneWay(b, a)
	other.Wait()
	_ = b.Close() // nothing more comes
	return there, back
}

// oneWay passes on what comes from src until its half ends.
func (s *Server) oneWay(dst, src *sock.Conn) int64 {
	n, err := s.pipes.Splice(dst, src)
	if err == nil && dst.CloseWrite() == nil {
		return n
	}
	// One of the two is broken: neither may believe that it has seen all.
	src.Reset()
	dst.Reset()
	return n
}
