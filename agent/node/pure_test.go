package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/agent/rollup"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func TestLiveness(t *testing.T) {
	start := time.Unix(1000, 0)
	type look struct {
		at    time.Duration // since the start
		acked bool
		age   time.Duration // of the heartbeat
		want  State
	}
	const fresh, limit = 50 * time.Millisecond, 2 * time.Second
	for name, looks := range map[string][]look{
		"a proxy comes":         {{0, false, limit, Waiting}, {100 * time.Millisecond, true, fresh, Up}},
		"none comes for 500 ms": {{499 * time.Millisecond, false, limit, Waiting}, {500 * time.Millisecond, false, limit, Down}},
		"an earlier agent's proxy beats, and does not come": {
			{499 * time.Millisecond, false, fresh, Waiting}, {1999 * time.Millisecond, false, fresh, Waiting}, {2 * time.Second, false, fresh, Down},
		},
		"it beats no more": {{time.Second, false, fresh, Waiting}, {1900 * time.Millisecond, false, time.Second, Down}},
		"it goes": {
			{0, true, fresh, Up}, {time.Hour, false, fresh, Waiting},
			{time.Hour + 499*time.Millisecond, false, 0, Waiting}, {time.Hour + 500*time.Millisecond, false, 0, Down},
		},
		"and comes back in time": {{0, true, fresh, Up}, {time.Hour, false, 0, Waiting}, {time.Hour + 400*time.Millisecond, true, fresh, Up}},
		"each absence has its own time": {
			{0, true, fresh, Up}, {time.Second, false, 0, Waiting}, {1400 * time.Millisecond, true, fresh, Up},
			{1500 * time.Millisecond, false, 0, Waiting}, {1900 * time.Millisecond, false, 0, Waiting}, {2 * time.Second, false, 0, Down},
		},
		"it hangs":                {{0, true, fresh, Up}, {time.Second, true, limit, Up}, {2 * time.Second, true, limit + 1, Down}},
		"it hangs from the start": {{0, true, time.Hour, Down}},
		"a late beat is no sign of life": {
			{0, true, time.Hour, Down}, {time.Second, true, limit, Down},
			{2 * time.Second, true, limit/2 + 1, Down}, {3 * time.Second, true, limit / 2, Up},
		},
		"a beat from the future":    {{0, true, -time.Millisecond, Up}},
		"down for good without one": {{0, false, limit, Waiting}, {time.Second, false, limit, Down}, {time.Hour, false, fresh, Down}},
		"a proxy that hung goes":    {{0, true, time.Hour, Down}, {time.Second, false, 0, Down}},
	} {
		l := newLiveness(limit, start)
		before := Waiting
		for i, look := range looks {
			changed := l.observe(start.Add(look.at), look.acked, look.age)
			if l.state != look.want || changed != (look.want != before) {
				t.Errorf("%s: look %d: %v, changed: %t; want %v", name, i, l.state, changed, look.want)
			}
			before = look.want
		}
	}
	if fmt.Sprint(Waiting, Up, Down) != "waiting up down" {
		t.Errorf("the states are called %v, %v, %v", Waiting, Up, Down)
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	now := time.Unix(1000, 0)
	if !b.due(now) {
		t.Error("the first attempt is not due")
	}
	var waits []time.Duration
	for range 9 {
		b.begin()
		b.failed(now)
		at, failed := b.end(now)
		if !failed || b.due(now) || !b.due(at) {
			t.Fatalf("after a failure the next attempt is due at %v", at)
		}
		// One that comes early does not put off the one that is due.
		b.begin()
		b.failed(now)
		if again, _ := b.end(now); !again.Equal(at) {
			t.Errorf("an early attempt moves the next one from %v to %v", at, again)
		}
		waits = append(waits, at.Sub(now))
		now = at
	}
	if got := fmt.Sprint(waits); got != "[100ms 200ms 400ms 800ms 1.6s 3.2s 6.4s 10s 10s]" {
		t.Errorf("the waits are %s", got)
	}
	b.begin()
	if _, failed := b.end(now); failed || !b.due(now) {
		t.Error("what went well is not over")
	}
}

// unit is a Service of shop with frontends at 10.96.0.N:80, N being the id.
func unit(name string, ids ...uint32) *model.Service {
	s := &model.Service{Namespace: "shop", Name: name}
	p := model.Port{Number: 80, Default: model.EndpointsKey{Namespace: "shop", Name: name, Port: 80}}
	for _, id := range ids {
		p.Frontends = append(p.Frontends, model.Frontend{ID: id, Address: address(id).Addr()})
	}
	s.Ports = []model.Port{p}
	return s
}

func address(id uint32) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, byte(id)}), 80)
}

func units(all ...*model.Service) map[model.ServiceKey]*model.Service {
	m := map[model.ServiceKey]*model.Service{}
	for _, s := range all {
		m[s.ServiceKey] = s
	}
	return m
}

func there(ids ...uint32) map[netip.AddrPort]datapath.Frontend {
	m := map[netip.AddrPort]datapath.Frontend{}
	for _, id := range ids {
		m[address(id)] = datapath.Frontend{Addr: address(id), ID: id}
	}
	return m
}

func wanting(all ...*model.Service) *desired {
	d := &desired{services: units(all...), frontends: map[netip.AddrPort]frontend{}}
	for _, s := range all {
		for a, id := range addresses(s) {
			d.frontends[a] = frontend{datapath.Frontend{Addr: a, ID: id}, s.ServiceKey}
		}
	}
	return d
}

func TestWantFrontends(t *testing.T) {
	a, b := unit("a", 1, 2), unit("b", 3)
	older := unit("a", 1) // an earlier version
	has := func(all ...*model.Service) push.Proxy { return push.Proxy{Synced: true, Services: units(all...)} }
	for name, c := range map[string]struct {
		proxies []push.Proxy
		there   map[netip.AddrPort]datapath.Frontend
		away    bool
		strange bool
		want    string
	}{
		"a proxy has all":                        {[]push.Proxy{has(a, b)}, nil, false, false, "1 2 3"},
		"a proxy has one unit":                   {[]push.Proxy{has(b)}, nil, false, false, "3"},
		"two proxies":                            {[]push.Proxy{has(a, b), has(b)}, nil, false, false, "3"},
		"two proxies, and what is there already": {[]push.Proxy{has(a, b), has(b)}, there(1, 3), false, false, "3"},
		"an earlier version that is there":       {[]push.Proxy{has(older)}, there(1), false, false, "1"},
		"an earlier version that is not":         {[]push.Proxy{has(older)}, nil, false, false, ""},
		"under another id":                       {[]push.Proxy{has(b)}, map[netip.AddrPort]datapath.Frontend{address(3): {Addr: address(3), ID: 9}}, false, true, ""},
		"what nobody wants":                      {[]push.Proxy{has(a, b, unit("c", 4))}, there(4), false, false, "1 2 3"},
		"no proxy, listeners steered to":         {nil, there(2, 4), false, false, "2"},
		"no proxy and no listener":               {nil, nil, true, false, "1 2 3"},
		"a proxy counts, away or not":            {[]push.Proxy{has(b)}, nil, true, false, "3"},
		"a stranger":                             {[]push.Proxy{has(a, b)}, there(2), false, true, "2"},
	} {
		got := wantFrontends(wanting(a, b), c.proxies, c.there, c.away, c.strange)
		var ids []string
		for _, f := range slices.SortedFunc(maps.Values(got), func(x, y datapath.Frontend) int { return x.Addr.Compare(y.Addr) }) {
			ids = append(ids, fmt.Sprint(f.ID))
		}
		if s := strings.Join(ids, " "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
	}
}

func TestCovers(t *testing.T) {
	for name, c := range map[string]struct {
		has   []*model.Service
		there map[netip.AddrPort]datapath.Frontend
		want  bool
	}{
		"nothing in the kernel":   {nil, nil, true},
		"everything":              {[]*model.Service{unit("a", 1), unit("b", 2)}, there(1, 2), true},
		"more":                    {[]*model.Service{unit("a", 1, 2)}, there(1), true},
		"less":                    {[]*model.Service{unit("a", 1)}, there(1, 2), false},
		"the same address, under": {[]*model.Service{unit("a", 1)}, map[netip.AddrPort]datapath.Frontend{address(1): {Addr: address(1), ID: 2}}, false},
	} {
		if got := covers(push.Proxy{Services: units(c.has...)}, c.there); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	both := unit("b", 2)
	both.Ports[0].Frontends[0].Address = address(1).Addr() // an earlier version of b has a's address as id 2
	if !covers(push.Proxy{Services: units(unit("a", 1), both)}, there(1)) {
		t.Error("an address that two units have counts for one of them only")
	}
}

func TestPublishable(t *testing.T) {
	a1, a2, a12 := unit("a", 1), unit("a", 2), unit("a", 1, 2)
	b1, b2, b3 := unit("b", 1), unit("b", 2), unit("b", 3)
	c2, c3 := unit("c", 2), unit("c", 3)
	for name, c := range map[string]struct {
		before, desired []*model.Service
		there           []uint32
		want            []*model.Service
	}{
		"new":                               {nil, []*model.Service{a1}, nil, []*model.Service{a1}},
		"changed, the frontend stays":       {[]*model.Service{a1}, []*model.Service{a12}, []uint32{1}, []*model.Service{a12}},
		"gone, out of the kernel":           {[]*model.Service{a1}, nil, nil, nil},
		"gone, and in the kernel":           {[]*model.Service{a1}, nil, []uint32{1}, []*model.Service{a1}},
		"a frontend less":                   {[]*model.Service{a12}, []*model.Service{a1}, []uint32{1}, []*model.Service{a1}},
		"a frontend less, in the kernel":    {[]*model.Service{a12}, []*model.Service{a1}, []uint32{1, 2}, []*model.Service{a12}},
		"others go on":                      {[]*model.Service{a1, b3}, []*model.Service{b2}, []uint32{1}, []*model.Service{a1, b2}},
		"an address moves":                  {[]*model.Service{a1}, []*model.Service{b1}, nil, []*model.Service{b1}},
		"an address moves, in the kernel":   {[]*model.Service{a1}, []*model.Service{b1}, []uint32{1}, []*model.Service{a1}},
		"and the other had another":         {[]*model.Service{a1, b3}, []*model.Service{b1}, []uint32{1}, []*model.Service{a1, b3}},
		"who waits keeps what others want":  {[]*model.Service{a1, b2}, []*model.Service{a2, b1, c3}, []uint32{1}, []*model.Service{a1, b2, c3}},
		"a chain of them":                   {[]*model.Service{a1, b2}, []*model.Service{b1, c2}, []uint32{1}, []*model.Service{a1, b2}},
		"it is in the kernel as another id": {[]*model.Service{a1}, nil, []uint32{2}, nil},
	} {
		for range 20 { // maps have no order
			got := publishable(units(c.before...), units(c.desired...), there(c.there...))
			if want := units(c.want...); !maps.Equal(got, want) {
				t.Errorf("%s: %v, want %v", name, slices.Collect(maps.Keys(got)), slices.Collect(maps.Keys(want)))
				break
			}
		}
	}
}

func TestSpareEndpoints(t *testing.T) {
	sets := func(names ...string) map[model.EndpointsKey]*model.EndpointSet {
		m := map[model.EndpointsKey]*model.EndpointSet{}
		for _, n := range names {
			key := model.EndpointsKey{Namespace: "shop", Name: n, Port: 80}
			m[key] = &model.EndpointSet{EndpointsKey: key}
		}
		return m
	}
	// a sends to x at first, then to y.
	toBackend := func(name string) *model.Service {
		a := unit("a", 1)
		a.Ports[0].Consumers = map[string]*model.RouteTable{"ns": {Rules: []model.Rule{{Backends: []model.Backend{
			{Endpoints: model.EndpointsKey{Namespace: "shop", Name: name, Port: 80}},
		}}}}}
		return a
	}
	first, second := toBackend("x"), toBackend("y")
	refusal := model.Refusal{Service: &first.ServiceKey, Reason: "no"}
	synced := func(s *model.Service, refused ...model.Refusal) push.Proxy {
		return push.Proxy{Synced: true, Services: units(s), Refused: refused}
	}
	state := func(s *model.Service, e ...string) *push.State {
		return &push.State{Services: units(s), Endpoints: sets(e...)}
	}
	for name, c := range map[string]struct {
		before  *push.State
		next    *model.Service
		proxies []push.Proxy
		want    string
	}{
		"about to be sent":               {state(first, "a", "x"), second, []push.Proxy{synced(first)}, "x"},
		"sent, not acked":                {state(second, "a", "x", "y"), second, []push.Proxy{synced(first)}, "x"},
		"acked":                          {state(second, "a", "x", "y"), second, []push.Proxy{synced(second)}, ""},
		"acked by one of two":            {state(second, "a", "x", "y"), second, []push.Proxy{synced(second), synced(first)}, "x"},
		"refused":                        {state(second, "a", "x", "y"), second, []push.Proxy{synced(first, refusal)}, "x"},
		"refused, and of no use":         {state(second, "a", "x", "y", "z"), second, []push.Proxy{synced(first, refusal)}, "x"},
		"another unit was refused":       {state(second, "a", "x", "y", "z"), second, []push.Proxy{synced(first, model.Refusal{Pod: "p"})}, "x z"},
		"a proxy that has answered none": {state(second, "a", "x", "y"), second, []push.Proxy{{}}, "x"},
		"no proxy":                       {state(second, "a", "x", "y"), second, nil, ""},
		"a unit that stays for now":      {state(first, "a", "x"), first, nil, "x"},
		"its own, of an earlier version": {
			&push.State{Services: units(second, unit("b", 2)), Endpoints: sets("a", "y", "b", "z")}, second,
			[]push.Proxy{{
				Synced: true, Services: units(second, unit("b", 3)), Refused: []model.Refusal{{Service: &unit("b").ServiceKey}},
			}}, "b",
		},
		"a unit that is still to be gone": {state(second, "a", "y", "z"), second, []push.Proxy{{Synced: true, Services: units(second, unit("b", 2))}}, "z"},
	} {
		var got []string
		for key := range spareEndpoints(c.before, units(c.next), sets("a", "y"), c.proxies) {
			got = append(got, key.Name)
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
	}
}

func TestServing(t *testing.T) {
	ready := push.Proxy{ID: 1, Synced: true, Admitted: true, Ready: true}
	with := func(id uint64, edit func(*push.Proxy)) push.Proxy {
		p := ready
		p.ID = id
		edit(&p)
		return p
	}
	for name, c := range map[string]struct {
		proxies []push.Proxy
		want    uint64 // 0: none
	}{
		"none":                {nil, 0},
		"one":                 {[]push.Proxy{ready}, 1},
		"the newest":          {[]push.Proxy{ready, with(2, func(*push.Proxy) {})}, 2},
		"not one that syncs":  {[]push.Proxy{ready, with(2, func(p *push.Proxy) { p.Ready = false })}, 1},
		"not one that drains": {[]push.Proxy{ready, with(2, func(p *push.Proxy) { p.Draining = true })}, 1},
		"nor one that did":    {[]push.Proxy{with(2, func(p *push.Proxy) { p.Released = true })}, 0},
	} {
		id := uint64(0)
		if p := serving(c.proxies); p != nil {
			id = p.ID
		}
		if id != c.want {
			t.Errorf("%s: %d, want %d", name, id, c.want)
		}
	}
}

func TestSuccessor(t *testing.T) {
	began := time.Unix(1000, 0)
	leaves := push.Proxy{ID: 2, Draining: true, DrainAt: began}
	for name, c := range map[string]struct {
		others []push.Proxy
		want   bool
	}{
		"nobody":                {nil, false},
		"a newer one":           {[]push.Proxy{{ID: 3}}, true},
		"an older one":          {[]push.Proxy{{ID: 1}}, false},
		"one that leaves too":   {[]push.Proxy{{ID: 3, Draining: true}}, false},
		"one of them will stay": {[]push.Proxy{{ID: 3, Draining: true}, {ID: 4}}, true},
	} {
		until, expected := successor(leaves, append(c.others, leaves))
		if expected != c.want || !until.Equal(began.Add(time.Second)) {
			t.Errorf("%s: %t until %v", name, expected, until)
		}
	}
}

func TestExemptions(t *testing.T) {
	in := func(cgroups ...uint64) []push.Proxy {
		var all []push.Proxy
		for i, c := range cgroups {
			all = append(all, push.Proxy{ID: uint64(i + 1), Cgroup: c})
		}
		return all
	}
	for name, c := range map[string]struct {
		before  [2]uint64
		proxies []push.Proxy
		want    [2]uint64
	}{
		"none":                               {[2]uint64{}, nil, [2]uint64{}},
		"the first":                          {[2]uint64{}, in(5), [2]uint64{5}},
		"two in one":                         {[2]uint64{}, in(5, 5), [2]uint64{5}},
		"a second":                           {[2]uint64{5}, in(5, 6), [2]uint64{6, 5}},
		"the first is gone":                  {[2]uint64{6, 5}, in(6), [2]uint64{6, 5}},
		"all are gone":                       {[2]uint64{6, 5}, nil, [2]uint64{6, 5}},
		"the newest two":                     {[2]uint64{6, 5}, in(5, 6, 7), [2]uint64{7, 6}},
		"a cgroup that nobody could tell":    {[2]uint64{5}, in(0, 6), [2]uint64{6, 5}},
		"the same two":                       {[2]uint64{5, 6}, in(5, 6), [2]uint64{5, 6}},
		"one whose cgroup nobody could tell": {[2]uint64{5}, in(0), [2]uint64{5}},
	} {
		if got := exemptions(c.before, c.proxies); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// What a node could not program is not reported as accepted; what was compiled is not edited.
func TestStatuses(t *testing.T) {
	condition := func(kind gatewayv1.RouteConditionType, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: string(kind), Status: status, Reason: reason, Message: "as compiled", ObservedGeneration: 4}
	}
	parent := func(namespace *gatewayv1.Namespace, name string, status metav1.ConditionStatus, reason string) gatewayv1.RouteParentStatus {
		return gatewayv1.RouteParentStatus{
			ParentRef: gatewayv1.ParentReference{Namespace: namespace, Name: gatewayv1.ObjectName(name)},
			Conditions: []metav1.Condition{
				condition(gatewayv1.RouteConditionAccepted, status, reason), condition(gatewayv1.RouteConditionResolvedRefs, metav1.ConditionTrue, "ResolvedRefs"),
			},
		}
	}
	compiled := []compile.RouteStatus{{
		Route: model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"},
		Parents: []gatewayv1.RouteParentStatus{
			parent(nil, "a", metav1.ConditionTrue, "Accepted"),
			parent(nil, "b", metav1.ConditionTrue, "Accepted"),
			parent(new(gatewayv1.Namespace("other")), "a", metav1.ConditionTrue, "Accepted"),
			parent(nil, "c", metav1.ConditionFalse, "NoMatchingParent"),
		},
	}}
	show := func(all []compile.RouteStatus) string {
		var s []string
		for _, p := range all[0].Parents {
			s = append(s, conditions(p.Conditions))
		}
		return strings.Join(s, "; ")
	}
	before := show(compiled)
	refused := map[model.ServiceKey]string{
		{Namespace: "shop", Name: "a"}: "the proxy refused", {Namespace: "other", Name: "b"}: "of no concern", {Namespace: "shop", Name: "c"}: "not accepted anyhow",
	}
	got := show(rollup.Fold(compiled, refused))
	const resolved = " ResolvedRefs=True/ResolvedRefs"
	want := strings.Join([]string{
		"Accepted=False/NotProgrammed (the proxy refused)" + resolved, "Accepted=True/Accepted" + resolved,
		"Accepted=True/Accepted" + resolved, "Accepted=False/NoMatchingParent (as compiled)" + resolved,
	}, "; ")
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if c := rollup.Fold(compiled, refused)[0].Parents[0].Conditions[0]; c.ObservedGeneration != 4 { // S-6
		t.Errorf("the condition lost its generation: %+v", c)
	}
	if after := show(compiled); after != before {
		t.Errorf("what was compiled became %s", after)
	}
	if got := show(rollup.Fold(compiled, nil)); got != before {
		t.Errorf("without a refusal it is %s", got)
	}
}

func TestConditionsInALogLine(t *testing.T) {
	got := conditions([]metav1.Condition{
		{Type: "Accepted", Status: "True", Reason: "Accepted", Message: "fine"},
		{Type: "ResolvedRefs", Status: "False", Reason: "BackendNotFound", Message: "not there"},
		{Type: "PartiallyInvalid", Status: "True", Reason: "UnsupportedValue", Message: "Dropped Rule"},
	})
	if want := "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound (not there) PartiallyInvalid=True/UnsupportedValue (Dropped Rule)"; got != want {
		t.Errorf("got %s", got)
	}
}

// A unit that did not change keeps its pointer: that is how package push sees what to send.
func TestDeriveKeepsWhatDidNotChange(t *testing.T) {
	compiled := func(name string, id uint32, port string) *model.Service {
		s := unit(name, 0)
		s.Ports[0].Frontends[0].Address, s.Ports[0].Name = address(id).Addr(), port
		return s
	}
	set := func(name string) *model.EndpointSet { return &model.EndpointSet{Name: name} }
	a, b, c := compiled("a", 1, "x"), compiled("b", 2, "x"), compiled("c", 3, "x")
	sets := []*model.EndpointSet{set("a"), set("b")}
	flags := map[netip.AddrPort]compile.Flags{address(2): {FailClosed: true}}
	ids := map[netip.AddrPort]uint32{address(1): 11, address(2): 12, address(3): 13}
	first := derive(&compile.Result{Services: []*model.Service{a, b, c}, Endpoints: sets, Flags: flags}, ids, nil)
	if f := first.frontends[address(2)]; f.ID != 12 || f.Flags != datapath.FailClosed || f.unit.Name != "b" || len(first.frontends) != 3 {
		t.Errorf("the frontend is %+v", f)
	}
	if a.Ports[0].Frontends[0].ID != 0 || !hasIDs(first.services[a.ServiceKey], ids) {
		t.Error("what was compiled was edited, or not numbered")
	}
	ids[address(3)] = 23 // b is another, c has another id
	second := derive(&compile.Result{Services: []*model.Service{a, compiled("b", 2, "y"), c}, Endpoints: []*model.EndpointSet{sets[0], set("b")}}, ids, first)
	for key, s := range first.services {
		if same := second.services[key] == s; same != (key.Name == "a") {
			t.Errorf("%s is the same: %t", key, same)
		}
	}
	for key, s := range first.endpoints {
		if same := second.endpoints[key] == s; same != (key.Name == "a") {
			t.Errorf("the endpoints of %s are the same: %t", key, same)
		}
	}
	if !second.sends(first) || !first.sends(nil) {
		t.Error("another model is not sent")
	}
	third := derive(&compile.Result{Services: second.result.Services, Endpoints: second.result.Endpoints, Warnings: []string{"w"}}, ids, second)
	if third.sends(second) || third.services[c.ServiceKey] != second.services[c.ServiceKey] || third.frontends[address(3)].ID != 23 {
		t.Errorf("a warning changes the model: %+v", third)
	}
	if got := addressesOf([]*model.Service{b, a, b}); len(got) != 2 || got[0] != address(1) {
		t.Errorf("of three frontends two are different: %v", got)
	}
}
