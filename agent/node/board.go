package node

import "sync"

// board is what the loop has last said of the pods, for whoever waits for one.
type board struct {
	mu      sync.Mutex
	pods    map[string]PodStatus // by UID
	changed chan struct{}        // closed when it is replaced
}

func newBoard() *board { return &board{pods: map[string]PodStatus{}, changed: make(chan struct{})} }

// tell posts what there is to say of the pods.
func (n *Node) tell() {
	pods := map[string]PodStatus{}
	for _, p := range n.describePods() {
		// A pod that is enrolled anew is also one that ends: the new one counts.
		if old, twice := pods[p.UID]; !twice || old.State == StateEnding {
			pods[p.UID] = p
		}
	}
	b := n.podTable.board
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pods = pods
	close(b.changed)
	b.changed = make(chan struct{})
}

// Pod returns what there is to say of one pod, as of the last pass; false: its object is not known. Where the UID is ""
// it is the one of that namespace and name. The channel is closed after the next pass. Pod does not wait for the loop.
func (n *Node) Pod(uid, namespace, name string) (s PodStatus, known bool, changed <-chan struct{}) {
	b := n.podTable.board
	b.mu.Lock()
	defer b.mu.Unlock()
	s, known = b.pods[uid]
	if uid == "" {
		for _, p := range b.pods {
			if p.Pod == namespace+"/"+name {
				s, known = p, true
			}
		}
	}
	return s, known, b.changed
}
