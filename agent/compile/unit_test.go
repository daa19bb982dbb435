package compile_test

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
)

func annotated(key, ip string, annotations ...string) *corev1.Service {
	s := service(key, ip)
	s.Annotations = map[string]string{}
	for _, a := range annotations {
		name, value, _ := strings.Cut(a, "=")
		s.Annotations[name] = value
	}
	return s
}

func TestRedirectAlwaysRedirectsBeforeThereIsARoute(t *testing.T) {
	always := annotated("shop/web", "10.96.0.1", "sluice.dev/redirect=always")
	always.Spec.Ports = append(always.Spec.Ports, udp(53, "dns"))
	res := result(t, always, slice("shop/web", "s", some(endpointAt("10.0.0.1"))))
	p := portOf(res, "shop/web", 80)
	if p == nil || len(p.Frontends) != 1 || len(res.Services[0].Ports) != 1 {
		t.Fatalf("the Service's ports are %+v", res.Services)
	}
	expect(t, "rules", tableOf(res, "shop/web", 80, "shop"), "direct") // its own endpoints, as without a mesh
	expect(t, "its endpoints", endpointsOf(res, "shop/web"), "10.0.0.1:8080")

	res = result(t, annotated("shop/web", "10.96.0.1", "sluice.dev/redirect=Always"))
	if len(res.Services) != 0 {
		t.Error("an unknown value redirects")
	}
	expect(t, "warning", strings.Join(res.Warnings, "\n"), `Service shop/web: annotation sluice.dev/redirect: "Always" is not known, use ["always"]`)

	none := annotated("shop/web", "10.96.0.1", "sluice.dev/redirect=always")
	headless(none)
	expect(t, "headless", strings.Join(result(t, none).Warnings, "\n"),
		"Service shop/web: sluice.dev/redirect has no effect: Service shop/web is headless: clients reach its pods directly, so no route can apply")
}

func TestFailClosedIsAFlagOfEachFrontend(t *testing.T) {
	closed := annotated("shop/web", "10.96.0.1", "sluice.dev/fail=closed")
	closed.Spec.ClusterIPs = []string{"10.96.0.1", "fd00::1"}
	closed.Spec.Ports = append(closed.Spec.Ports, tcp(81, "admin"))
	r := route("shop/r", append(append(to("shop/web", port(80)), to("shop/open")...), to("shop/typo")...), rule("/", backend("shop/web")))
	res := result(t, closed, annotated("shop/open", "10.96.0.2", "sluice.dev/fail=open"), annotated("shop/typo", "10.96.0.3", "sluice.dev/fail=close"), r)
	want := map[string]bool{"10.96.0.1:80": true, "[fd00::1]:80": true} // what is not redirected cannot be refused
	for a, f := range res.Flags {
		if !want[a.String()] || f != (compile.Flags{FailClosed: true}) {
			t.Errorf("%s has the flags %+v", a, f)
		}
		delete(want, a.String())
	}
	if len(want) > 0 {
		t.Errorf("these do not fail closed: %v", want)
	}
	expect(t, "warning", strings.Join(res.Warnings, "\n"), `Service shop/typo: annotation sluice.dev/fail: "close" is not known, use ["closed" "open"]`)
	if len(result(t, closed).Flags) != 0 {
		t.Error("a Service without a route has flags")
	}
}

func TestFrontendsAreNotNumberedHere(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), rule("/")))
	if f := portOf(res, "shop/web", 80).Frontends; len(f) != 1 || f[0].ID != 0 || f[0].Address != netip.MustParseAddr("10.96.0.1") {
		t.Errorf("the frontends are %+v", f)
	}
}
