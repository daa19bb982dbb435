package upstream

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

var key = model.EndpointsKey{Namespace: "shop", Name: "web", Port: 80}

func unit(key model.EndpointsKey, from, to int) model.EndpointSet {
	u := model.EndpointSet{EndpointsKey: key}
	for i := from; i < to; i++ {
		u.Endpoints = append(u.Endpoints, model.Endpoint{Address: address(i)})
	}
	return u
}

func address(i int) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprintf("10.0.%d.%d:8080", i/256, i%256))
}

func TestB7AnEmptySetHasNoEndpoint(t *testing.T) {
	r := NewRegistry(nil)
	s := r.Set(key)
	if s.Known() || s.Pick(nil) != nil {
		t.Errorf("before anybody told of the set: known %v, pick %v", s.Known(), s.Pick(nil))
	}
	r.Apply([]model.EndpointSet{unit(key, 0, 0)}, nil)
	if !s.Known() || s.Pick(nil) != nil {
		t.Errorf("an empty set: known %v, pick %v", s.Known(), s.Pick(nil))
	}
}

func TestTheSetsPointerIsStable(t *testing.T) {
	r := NewRegistry(nil)
	s := r.Set(key)
	r.Apply([]model.EndpointSet{unit(key, 0, 1)}, nil)
	if got := s.Pick(nil); got == nil || got.Address != address(0) {
		t.Fatalf("picked %v", got)
	}
	r.Apply(nil, []model.EndpointsKey{key})
	if s.Known() || s.Pick(nil) != nil {
		t.Error("a removed set still has endpoints")
	}
	r.Apply([]model.EndpointSet{unit(key, 1, 2)}, nil)
	if got := s.Pick(nil); got == nil || got.Address != address(1) || r.Set(key) != s {
		t.Errorf("after the set came back: picked %v", got)
	}
}

func TestPruneForgetsOnlyWhatNobodyNeeds(t *testing.T) {
	r := NewRegistry(nil)
	other := model.EndpointsKey{Namespace: "shop", Name: "other", Port: 80}
	needed, known := r.Set(key), r.Set(other)
	gone := r.Set(model.EndpointsKey{Name: "gone"})
	r.Apply([]model.EndpointSet{unit(other, 0, 1)}, nil)
	r.Prune(func(k model.EndpointsKey) bool { return k == key })
	if r.Set(key) != needed || r.Set(other) != known {
		t.Error("a set that is needed or known was forgotten")
	}
	if r.Set(gone.Key) == gone {
		t.Error("a set that nobody needs is kept for ever")
	}
}

func TestOutstandingIsKeptByAddress(t *testing.T) {
	r := NewRegistry(nil)
	second := model.EndpointsKey{Namespace: "shop", Name: "web", Port: 81}
	r.Apply([]model.EndpointSet{unit(key, 0, 1), unit(second, 0, 1)}, nil)
	e := r.Set(key).Pick(nil)
	e.Acquire()
	if r.Set(second).Pick(nil).Outstanding() != 1 {
		t.Error("the same address in another set counts by itself")
	}
	r.Apply([]model.EndpointSet{unit(key, 0, 2)}, nil)
	if !slices.Contains(r.Set(key).current.Load().endpoints, e) {
		t.Error("an address that stayed got another Endpoint")
	}
	r.Apply(nil, []model.EndpointsKey{key})
	if e.Gone() {
		t.Error("gone, though another set has it")
	}
	r.Apply([]model.EndpointSet{unit(second, 5, 6)}, nil)
	if !e.Gone() {
		t.Error("not gone, though no set has it")
	}
	e.Release()
	if e.Outstanding() != 0 {
		t.Errorf("outstanding %d", e.Outstanding())
	}
}

func TestAnEndpointThatLeftGetsNoNewRequest(t *testing.T) {
	r := NewRegistry(nil)
	r.Apply([]model.EndpointSet{unit(key, 0, 3)}, nil)
	r.Apply([]model.EndpointSet{unit(key, 1, 3)}, nil)
	for range 200 {
		if e := r.Set(key).Pick(nil); e.Address == address(0) {
			t.Fatal("an endpoint was picked after it left")
		}
	}
}

func TestPickPrefersFewerOutstandingAndAnother(t *testing.T) {
	r := NewRegistry(nil)
	r.Apply([]model.EndpointSet{unit(key, 0, 2)}, nil)
	s := r.Set(key)
	busy := s.current.Load().endpoints[0]
	busy.Acquire()
	for range 100 {
		if s.Pick(nil) == busy {
			t.Fatal("of two, the one with more outstanding was picked")
		}
	}
	free := s.current.Load().endpoints[1]
	for range 100 {
		if s.Pick(free) != busy {
			t.Fatal("the endpoint not to be picked was picked, though there is another")
		}
	}
	r.Apply([]model.EndpointSet{unit(key, 0, 1)}, nil)
	if s.Pick(busy) != busy {
		t.Error("the only endpoint is better than none")
	}
}

// Two random choices reach every endpoint, evenly when all are equally loaded, and leave a slow one alone.
func TestPickSpreadsRequests(t *testing.T) {
	r := NewRegistry(nil)
	const n, rounds = 10, 20_000
	r.Apply([]model.EndpointSet{unit(key, 0, n)}, nil)
	s := r.Set(key)
	count := map[*Endpoint]int{}
	for range rounds {
		count[s.Pick(nil)]++
	}
	for e, got := range count {
		if got < rounds/n*8/10 || got > rounds/n*12/10 {
			t.Errorf("%v was picked %d times of %d", e.Address, got, rounds)
		}
	}
	slow := s.current.Load().endpoints[0]
	for range 1000 {
		slow.Acquire()
	}
	for range 1000 {
		if s.Pick(nil) == slow {
			t.Fatal("the slowest of all was picked")
		}
	}
}

func TestReadersAndTheWriterOfASet(t *testing.T) {
	r := NewRegistry(nil)
	s := r.Set(key)
	r.Apply([]model.EndpointSet{unit(key, 0, 4)}, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				e := s.Pick(nil)
				e.Acquire()
				e.Release()
			}
		})
	}
	for i := range 200 {
		r.Apply([]model.EndpointSet{unit(key, i, i+4)}, nil)
	}
	close(stop)
	wg.Wait()
	if got := len(r.endpoints); got != 4 {
		t.Errorf("%d endpoints are remembered of 4", got)
	}
}

func TestAClientUsesAStableSubsetOfALargeSet(t *testing.T) {
	const size, n = 20, 400
	pools := NewPools(Limits{Subset: size})
	r := NewRegistry(pools)
	r.Apply([]model.EndpointSet{unit(key, 0, n)}, nil)
	s := r.Set(key)
	used := func(c *Client) map[netip.AddrPort]bool {
		set := map[netip.AddrPort]bool{}
		for range 2000 {
			set[c.Pick(s, nil).Address] = true
		}
		return set
	}
	one := NewClient(-1, pools)
	before := used(one)
	if len(before) != size {
		t.Fatalf("%d endpoints are used, want %d", len(before), size)
	}
	// The first half of the addresses leaves: what stays of the subset is still used.
	r.Apply([]model.EndpointSet{unit(key, n/2, n)}, nil)
	after := used(one)
	for a := range before {
		if a.Compare(address(n/2)) >= 0 && !after[a] {
			t.Errorf("%v was in the subset, stayed in the set, and is not used any more", a)
		}
	}
	if len(after) != size {
		t.Errorf("%d endpoints are used, want %d", len(after), size)
	}
	all := map[netip.AddrPort]bool{}
	const clients = 300 // one of them all is missed once in 10^11 runs
	for range clients {
		for a := range used(NewClient(-1, pools)) {
			all[a] = true
		}
	}
	if len(all) != n/2 {
		t.Errorf("%d clients together use %d of %d endpoints", clients, len(all), n/2)
	}
}

func BenchmarkPick(b *testing.B) {
	r := NewRegistry(nil)
	r.Apply([]model.EndpointSet{unit(key, 0, 50)}, nil)
	s := r.Set(key)
	b.ReportAllocs()
	for b.Loop() {
		e := s.Pick(nil)
		e.Acquire()
		e.Release()
	}
}
