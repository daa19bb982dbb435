package node

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/agent/rollup"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Whoever writes statuses is told when there is something new to say of a route, and not otherwise: of a new model, of
// what a proxy refused, of objects that the server has changed in their statuses only.
func TestReports(t *testing.T) {
	bubble(t, func(w *world) {
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		w.make()
		var mu sync.Mutex
		var reports []rollup.Report
		w.node.cfg.Report = func(r rollup.Report) {
			mu.Lock()
			defer mu.Unlock()
			reports = append(reports, r)
		}
		last := func(what string, want int) rollup.Report {
			t.Helper()
			w.soon()
			w.after(time.Second)
			mu.Lock()
			defer mu.Unlock()
			if len(reports) != want {
				t.Fatalf("%s: %d reports, not %d", what, len(reports), want)
			}
			return reports[want-1]
		}
		w.run()
		p := w.connect()
		set := setOf(service("a", "10.96.0.1", 80), route("r", "a", "a"))
		w.node.Publish(set, nil)
		first := last("a model", 1)
		if first.Objects != set || len(first.Routes) != 1 || len(first.Refused) != 0 || first.Generation != 1 {
			t.Errorf("the report is %+v", first)
		}

		written := *set.HTTPRoutes[0] // as it comes back from the server
		written.Status.Parents = first.Routes[0].Parents
		after := *set
		after.HTTPRoutes = append(after.HTTPRoutes[:0:0], &written)
		w.node.Publish(&after, nil)
		if r := last("a status", 2); r.Objects != &after {
			t.Error("the report has the objects of before")
		}

		w.do(func() { p.refuses = func(*model.Service) string { return "odd" } })
		changed := setOf(service("a", "10.96.0.1", 80, 81), route("r", "a", "a"))
		w.node.Publish(changed, nil)
		w.soon()
		w.after(time.Second)
		mu.Lock()
		refused := reports[len(reports)-1]
		count := len(reports)
		mu.Unlock()
		key := model.ServiceKey{Namespace: "shop", Name: "a"}
		if got := refused.Refused[key]; got != (rollup.Refusal{Reason: "odd", ServesOn: true}) {
			t.Errorf("refused: %+v", refused.Refused)
		}
		if c := refused.Routes[0].Parents[0].Conditions[0]; c.Status != "True" {
			t.Errorf("the report has folded the refusal in: %+v", c)
		}
		w.after(time.Minute)
		last("nothing new", count)
	})
}

// Endpoints that a proxy refused are told of the Services that send requests there.
func TestRefusedEndpoints(t *testing.T) {
	unit := func(name string, to ...string) *model.Service {
		table := &model.RouteTable{Rules: []model.Rule{{}}}
		for _, b := range to {
			table.Rules[0].Backends = append(table.Rules[0].Backends, model.Backend{Endpoints: model.EndpointsKey{Namespace: "shop", Name: b, Port: 80}})
		}
		return &model.Service{Namespace: "shop", Name: name, Ports: []model.Port{{Producer: table}}}
	}
	services := map[model.ServiceKey]*model.Service{}
	for _, s := range []*model.Service{unit("a", "v1", "v2"), unit("b", "v2"), unit("c", "v1")} {
		services[s.ServiceKey] = s
	}
	c := model.ServiceKey{Namespace: "shop", Name: "c"}
	got := refusals(services, []push.Proxy{{Refused: []model.Refusal{
		{Service: &c, Reason: "odd"}, {Endpoints: &model.EndpointsKey{Namespace: "shop", Name: "v1", Port: 80}, Reason: "bad address"}, {Pod: "p", Reason: "no"},
	}}})
	want := "map[shop/a:{endpoints of shop/v1:80: bad address true} shop/c:{odd false}]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}
