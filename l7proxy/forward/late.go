package forward

import (
	"maps"
	"sync"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
)

// late is the calls of a connection whose client has its answer, and whose endpoint has not taken all of the request yet.
// Their streams are over, so nobody tells them when the connection ends.
type late struct {
	mu    sync.Mutex
	calls map[*call]uint64 // with the client's token
	over  bool
}

// linger makes a call known. False: the connection has ended.
func (n *session) linger(x *call, token uint64) bool {
	n.late.mu.Lock()
	defer n.late.mu.Unlock()
	if n.late.calls == nil {
		n.late.calls = map[*call]uint64{}
	}
	if !n.late.over {
		n.late.calls[x] = token
	}
	return !n.late.over
}

func (n *session) unlinger(x *call) {
	n.late.mu.Lock()
	defer n.late.mu.Unlock()
	delete(n.late.calls, x)
}

// endLate ends them with their connection.
func (n *session) endLate() {
	n.late.mu.Lock()
	n.late.over = true
	calls := maps.Clone(n.late.calls)
	n.late.mu.Unlock()
	var t http2.Turn
	for x, token := range calls {
		(*fromClient)(x).Gone(&t, token, &http2.StreamError{Code: http2.Cancel, Connection: true})
	}
	t.Flush()
}
