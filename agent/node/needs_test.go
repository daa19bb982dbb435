package node

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// The endpoints travel of whatever a unit sends requests to: its own, those of backends, and those that mirror (F-50).
func TestEndpointsOfMirrorsAreNeeded(t *testing.T) {
	key := func(name string) model.EndpointsKey {
		return model.EndpointsKey{Namespace: "shop", Name: name, Port: 80}
	}
	table := func(backend, mirror string) *model.RouteTable {
		return &model.RouteTable{Rules: []model.Rule{{
			Backends: []model.Backend{{Endpoints: key(backend)}},
			Filters:  []model.Filter{{Mirror: &model.Mirror{Endpoints: key(mirror)}}},
		}}}
	}
	unit := &model.Service{Ports: []model.Port{{
		Default: key("web"), Producer: table("v1", "shadow"), Consumers: map[string]*model.RouteTable{"far": table("v2", "other")},
	}}}
	got := map[model.EndpointsKey]bool{}
	needs(map[model.ServiceKey]*model.Service{unit.ServiceKey: unit}, got)
	want := []model.EndpointsKey{key("other"), key("shadow"), key("v1"), key("v2"), key("web")}
	if diff := cmp.Diff(want, slices.SortedFunc(maps.Keys(got), model.EndpointsKey.Compare)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
