package status

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (w *world) leases() string {
	var names []string
	for _, l := range w.all("leases") {
		names = append(names, field(l, "metadata", "name"))
	}
	return strings.Join(names, " ")
}

// At the end of the installation nothing is left that says that a route is accepted, although every agent is told at its
// own time and still sees routes without a status.
func TestWithdraw(t *testing.T) {
	bubble(t, func(w *world) {
		w.serve("xmeshes")
		w.route("r", service("a"), gatewayParent)
		w.write("r", foreign)
		w.put("/apis/gateway.networking.k8s.io/v1/namespaces/shop/grpcroutes/r", `{"spec": {"parentRefs": [`+service("a")+`]}}`)
		for i := range 1200 { // more than one page
			w.route(fmt.Sprintf("r%d", i), service("a"))
		}
		leader, other := w.two()
		w.after(10 * time.Second)
		w.expect("before", w.says("r")+w.says("r1100"), "a: "+fine+"a: "+fine)
		w.expect("Leases", w.leases(), "sluice-node-n1 sluice-node-n2 sluice-status")

		ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
		defer cancel()
		if err := leader.Withdraw(ctx); err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, o := range append(w.all("httproutes"), w.all("grpcroutes")...) {
			left += strings.Count(string(encodeObject(o)), controller)
		}
		w.expect("entries of ours", fmt.Sprint(left), "0")
		if got := w.entries("r"); len(got) != 1 || got[0] != canonical(foreign) {
			t.Errorf("entries: %v", got)
		}
		w.expect("XMesh", w.meshSays("sluice"), "Accepted=Unknown/Pending 0")
		if err := other.Withdraw(ctx); err != nil {
			t.Fatal(err)
		}
		before := w.writes()
		w.settle()
		w.after(time.Minute)
		w.expect("writes afterwards", fmt.Sprint(w.writes()), fmt.Sprint(before))
		if strings.Contains(w.leases(), nodeLease) {
			t.Errorf("Leases are left: %s", w.leases())
		}
	})
}

// The others leave the statuses to the elected one: only their own Lease goes.
func TestWithdrawOfOneThatIsNotElected(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		_, other := w.two()
		if err := other.Withdraw(w.t.Context()); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.expect("status", w.says("r"), "a: "+fine)
		w.expect("Leases", w.leases(), "sluice-node-n1 sluice-status")
	})
}

// Without any agent, as by hand; again when there is nothing; and where kinds are not served.
func TestRemove(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		a := w.start("n1", "p1")
		w.settle()
		w.after(2 * time.Second)
		a.end()
		delete(w.agents, "p1")
		w.missing["grpcroutes"] = true
		cfg := Config{Clients: w.clients(), Namespace: namespace, ControllerName: controller}
		conflict := true
		w.intercept(func(r request) *metav1.Status {
			if r.Method == http.MethodPatch && conflict {
				conflict = false
				w.edit(routePath("r"), "", func(o object) { o["spec"].(object)["hostnames"] = []any{"x"} })
			}
			return nil
		})
		for range 2 {
			if err := Remove(w.t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			w.expect("status", w.says("r"), "")
			w.expect("Leases", w.leases(), "")
		}
		if conflict {
			t.Error("nothing was written")
		}
	})
}

// Rights that are gone already are an error, at once and not once for each route.
func TestRemoveWithoutRights(t *testing.T) {
	bubble(t, func(w *world) {
		for i := range 300 {
			w.route(fmt.Sprintf("r%d", i), service("a"))
			w.write(fmt.Sprintf("r%d", i), `{"controllerName": "sluice.dev/mesh", "parentRef": {"name": "a"}}`)
		}
		w.latency = time.Millisecond
		w.intercept(func(r request) *metav1.Status {
			if r.Method == http.MethodPatch {
				return refusal(403, metav1.StatusReasonForbidden, "not you")
			}
			return nil
		})
		err := Remove(w.t.Context(), Config{Clients: w.clients(), Namespace: namespace, ControllerName: controller})
		if err == nil || !strings.Contains(err.Error(), "take our part out of the status of HTTPRoute shop/r") {
			t.Errorf("the error is %v", err)
		}
		if n := w.writes(); n > 3*removers {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	full := Config{Clients: newAPI(t).clients(), Node: "n", Namespace: "s", Identity: "p", ControllerName: "c"}
	if _, err := New(full); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Config){
		"node": func(c *Config) { c.Node = "" }, "namespace": func(c *Config) { c.Namespace = "" }, "pod": func(c *Config) { c.Identity = "" },
		"controller": func(c *Config) { c.ControllerName = "" }, "client": func(c *Config) { c.Clients = Clients{} },
	} {
		c := full
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without the %s: %v", want, err)
		}
	}
}
