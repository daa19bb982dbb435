package watch

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever happens to objects, watches, CRDs and the server: a while after it is over, the Set is what the server has.
func TestWhateverHappensTheSetIsWhatTheServerHas(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			f := newFakeAPI(t)
			f.noStream = seed%2 == 0
			f.fill()
			r := start(t, f)
			for range 60 {
				disturb(f, rnd)
				time.Sleep(time.Duration(rnd.Int64N(int64(2 * time.Second))))
			}
			f.listener.setAway(false)
			f.change(func() {
				f.versions = map[string][]string{httpRoutes: {"v1", "v1beta1"}, grpcRoutes: {"v1"}, grants: {"v1beta1"}}
			})
			synctest.Sleep(40 * time.Second)
			if got, want := contents(r), f.contents(); got != want {
				t.Errorf("seed %d: got\n%s\nwant\n%s\nlog:\n%s", seed, got, want, r.log.String())
			}
			if len(r.problems) != 0 || len(r.Waiting()) != 0 {
				t.Errorf("seed %d: problems %v, waiting for %v", seed, r.problems, r.Waiting())
			}
			for i := 1; i < len(r.sets); i++ {
				if r.at[i].Sub(r.at[i-1]) < holdOff {
					t.Errorf("seed %d: published %v after the one before", seed, r.at[i].Sub(r.at[i-1]))
				}
			}
		})
	}
}

func disturb(f *fakeAPI, rnd *rand.Rand) {
	name := fmt.Sprint("o", rnd.IntN(4))
	makers := map[string]func() any{
		services:   func() any { return aService(name) },
		endpoints:  func() any { return aSlice(name) },
		pods:       func() any { return aPod(name, thisNode) },
		httpRoutes: func() any { return anHTTPRoute(name) },
		grpcRoutes: func() any { return aGRPCRoute(name) },
		grants:     func() any { return aGrant(name) },
	}
	path := slices.Sorted(maps.Keys(makers))[rnd.IntN(len(makers))]
	switch rnd.IntN(12) {
	case 0:
		f.cutWatches(rnd.IntN(2) == 0)
	case 1:
		f.listener.setAway(rnd.IntN(2) == 0)
	case 2:
		versions := [][]string{nil, {"v1"}, {"v1beta1"}, {"v1", "v1beta1"}}[rnd.IntN(4)]
		resource := []string{httpRoutes, grpcRoutes, grants}[rnd.IntN(3)]
		if resource == grpcRoutes && len(versions) > 0 {
			versions = []string{"v1"}
		}
		f.change(func() { f.versions[resource] = versions })
		f.cutWatches(false)
	case 3, 4, 5:
		f.mu.Lock()
		there := f.tables[path].objects["ns/"+name] != nil
		f.mu.Unlock()
		if there {
			f.remove(path, "ns", name)
		}
	default:
		f.put(path, makers[path]())
	}
}

// contents are the objects that the server has for us, and in which version where that is read.
func (f *fakeAPI) contents() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for path, table := range f.tables {
		for key, o := range table.objects {
			line := table.kind + " " + strings.TrimPrefix(key, "/")
			if strings.HasSuffix(table.kind, "Route") {
				line += fmt.Sprint(" ", o["metadata"].(map[string]any)["resourceVersion"])
			}
			if path != pods || o["spec"].(map[string]any)["nodeName"] == thisNode {
				all = append(all, line)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// contents are those of the last Set.
func contents(r *running) string {
	s := r.last()
	var all []string
	for _, o := range s.Namespaces {
		all = append(all, "Namespace "+o.Name)
	}
	for _, o := range s.Services {
		all = append(all, "Service "+nameOf(o).String())
	}
	for _, o := range s.Pods {
		all = append(all, "Pod "+nameOf(o).String())
	}
	for _, o := range s.EndpointSlices {
		all = append(all, "EndpointSlice "+nameOf(o).String())
	}
	for _, o := range s.HTTPRoutes {
		all = append(all, "HTTPRoute "+nameOf(o).String()+" "+o.ResourceVersion)
	}
	for _, o := range s.GRPCRoutes {
		all = append(all, "GRPCRoute "+nameOf(o).String()+" "+o.ResourceVersion)
	}
	for _, o := range s.ReferenceGrants {
		all = append(all, "ReferenceGrant "+nameOf(o).String())
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}
