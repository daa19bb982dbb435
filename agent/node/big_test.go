package node

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/push"
)

// quickKernel does what it is told, at once.
type quickKernel struct {
	Kernel
	frontends []datapath.Frontend
	numbered  int
}

func (k *quickKernel) Number(all []netip.AddrPort) (map[netip.AddrPort]uint32, error) {
	k.numbered++
	ids := make(map[netip.AddrPort]uint32, len(all))
	for i, a := range all {
		ids[a] = uint32(i + 1)
	}
	return ids, nil
}

func (k *quickKernel) Frontends() ([]datapath.Frontend, error)    { return k.frontends, nil }
func (k *quickKernel) SetFrontends(all []datapath.Frontend) error { k.frontends = all; return nil }
func (k *quickKernel) Pods() ([]uint64, error)                    { return nil, nil }
func (k *quickKernel) LastBeat() time.Duration                    { return 0 }
func (k *quickKernel) ProxyCgroups() [2]uint64                    { return [2]uint64{1} }
func (k *quickKernel) SetProxyCgroups([2]uint64) error            { return nil }

// quickProxies is one proxy, which takes everything at once.
type quickProxies struct {
	state *push.State
	set   int
}

func (p *quickProxies) Set(s *push.State)        { p.state = s; p.set++ }
func (p *quickProxies) Admit(uint64)             {}
func (p *quickProxies) Release(uint64)           {}
func (p *quickProxies) Changed() <-chan struct{} { return nil }
func (p *quickProxies) Proxies() []push.Proxy {
	one := push.Proxy{ID: 1, Cgroup: 1, Synced: p.state != nil, Admitted: true, Ready: p.state != nil}
	if p.state != nil {
		one.Services, one.Pods = p.state.Services, p.state.Pods
	}
	return []push.Proxy{one}
}

// noPods has none, and counts how often it was told which there are to be.
type noPods struct {
	Pods
	desired int
}

func (p *noPods) SetDesired([]enroll.Wanted) { p.desired++ }
func (p *noPods) View() enroll.View          { return enroll.View{Settled: true} }
func (p *noPods) Release(*enroll.Pod) error  { return nil }
func (p *noPods) Changed() <-chan struct{}   { return nil }

const (
	manyServices = 1000
	manyRoutes   = 5000
)

func manySlice(i, turn int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		Namespace: "shop", Name: fmt.Sprintf("s%d-a", i), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%d", i)},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(8080))}},
	}
	for j := range 10 {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", turn, i/200, i%200+j)}, NodeName: new(fmt.Sprintf("node-%d", j))})
	}
	return s
}

func manyRoute(i, turn int) *gatewayv1.HTTPRoute {
	r := &gatewayv1.HTTPRoute{Namespace: "shop", Name: fmt.Sprintf("r%d", i), Generation: int64(turn)}
	name := gatewayv1.ObjectName(fmt.Sprintf("s%d", i%manyServices))
	r.Spec.ParentRefs = []gatewayv1.ParentReference{{Group: new(gatewayv1.Group("")), Kind: new(gatewayv1.Kind("Service")), Name: name}}
	ref := gatewayv1.HTTPBackendRef{}
	ref.Name, ref.Port, ref.Weight = name, new(gatewayv1.PortNumber(80)), new(int32(turn))
	path := &gatewayv1.HTTPPathMatch{Type: new(gatewayv1.PathMatchPathPrefix), Value: new(fmt.Sprintf("/v%d", i))}
	for range 2 {
		r.Spec.Rules = append(r.Spec.Rules, gatewayv1.HTTPRouteRule{Matches: []gatewayv1.HTTPRouteMatch{{Path: path}}, BackendRefs: []gatewayv1.HTTPBackendRef{ref}})
	}
	return r
}

// many is the objects of a large cluster.
func many() *objects.Set {
	set := &objects.Set{}
	for i := range manyServices {
		ip := fmt.Sprintf("10.96.%d.%d", i/250, i%250+1)
		set.Services = append(set.Services, &corev1.Service{
			Namespace: "shop", Name: fmt.Sprintf("s%d", i), Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Port: 80}}},
		})
		set.EndpointSlices = append(set.EndpointSlices, manySlice(i, 1))
	}
	for i := range manyRoutes {
		set.HTTPRoutes = append(set.HTTPRoutes, manyRoute(i, 1))
	}
	return set
}

// manyChanges are changes of one object, by what changes.
func manyChanges() map[string]func(set *objects.Set, turn int) {
	return map[string]func(set *objects.Set, turn int){
		"endpoints": func(set *objects.Set, turn int) {
			set.EndpointSlices = slices.Clone(set.EndpointSlices)
			set.EndpointSlices[7] = manySlice(7, turn)
		},
		"route": func(set *objects.Set, turn int) {
			set.HTTPRoutes = slices.Clone(set.HTTPRoutes)
			set.HTTPRoutes[7] = manyRoute(7, turn)
		},
		"status": func(set *objects.Set, _ int) {
			set.HTTPRoutes = slices.Clone(set.HTTPRoutes)
			set.HTTPRoutes[7] = set.HTTPRoutes[7].DeepCopy()
		},
		"pod": func(set *objects.Set, turn int) {
			set.Pods = []*corev1.Pod{{Name: fmt.Sprint(turn)}}
		},
	}
}

// bigNode is a node with a large cluster in force.
type bigNode struct {
	*Node
	kernel  *quickKernel
	proxies *quickProxies
	pods    *noPods
	now     time.Time
	set     *objects.Set
	turn    int
}

func newBigNode(tb testing.TB) *bigNode {
	b := &bigNode{kernel: &quickKernel{}, proxies: &quickProxies{}, pods: &noPods{}, now: time.Unix(1000, 0), set: many(), turn: 1}
	b.Node = New(Config{Compile: compile.New(options()).Compile, Select: enroll.Selector{Node: "n1"}}, b.kernel, b.proxies, b.pods)
	b.takeOver(b.now)
	b.publishSet()
	for range 4 {
		b.pass(b.now)
	}
	if len(b.kernel.frontends) != manyServices || len(b.proxies.state.Services) != manyServices || len(b.proxies.state.Endpoints) != manyServices {
		tb.Fatalf("%d frontends are in force", len(b.kernel.frontends))
	}
	return b
}

func (b *bigNode) publishSet() {
	b.Publish(b.set, nil)
	<-b.published
	b.dirty = true
}

func (b *bigNode) change(apply func(*objects.Set, int)) {
	b.turn = b.turn%100 + 1
	next := *b.set
	apply(&next, b.turn)
	b.set = &next
	b.publishSet()
}

// A change does no work for what it does not touch: ids are given out, pods selected and proxies told only where there is reason to.
func TestAChangeIsPassedOnWhereItMatters(t *testing.T) {
	b := newBigNode(t)
	for what, want := range map[string][3]int{"endpoints": {0, 1, 0}, "route": {1, 1, 0}, "status": {0, 0, 0}, "pod": {0, 0, 1}} {
		b.kernel.numbered, b.proxies.set, b.pods.desired = 0, 0, 0
		before := b.proxies.state
		b.change(manyChanges()[what])
		b.pass(b.now)
		b.pass(b.now)
		if got := [3]int{b.kernel.numbered, b.proxies.set, b.pods.desired}; got != want {
			t.Errorf("a change of %s: numbered, sent and selected %v times, want %v", what, got, want)
		}
		services, sets := 0, 0
		for key, s := range b.proxies.state.Services {
			if before.Services[key] != s {
				services++
			}
		}
		for key, s := range b.proxies.state.Endpoints {
			if before.Endpoints[key] != s {
				sets++
			}
		}
		if wantServices, wantSets := map[string]int{"route": 1}[what], map[string]int{"endpoints": 1}[what]; services != wantServices || sets != wantSets {
			t.Errorf("a change of %s: %d Services and %d endpoint sets are sent", what, services, sets)
		}
	}
}

// BenchmarkPass takes the time of a pass after a change of one object, and of one after none.
func BenchmarkPass(b *testing.B) {
	n := newBigNode(b)
	for what, apply := range manyChanges() {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				n.change(apply)
				b.StartTimer()
				n.pass(n.now)
			}
		})
	}
	b.Run("nothing", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n.pass(n.now)
		}
	})
}

// BenchmarkMemory tells what the compiled and the desired state of a large cluster hold, objects excluded.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		set := many()
		before := heap()
		c := compile.New(options())
		result := c.Compile(set)
		compiled := heap()
		k := quickKernel{}
		ids, err := k.Number(addressesOf(result.Services))
		if err != nil {
			b.Fatal(err)
		}
		d := derive(result, ids, nil)
		b.ReportMetric(float64(compiled-before)/1e6, "MB-compiled")
		b.ReportMetric(float64(heap()-compiled)/1e6, "MB-desired")
		runtime.KeepAlive(d)
		runtime.KeepAlive(c)
		runtime.KeepAlive(set)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
