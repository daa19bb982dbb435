package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func TestStatus(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { w.pods.failing["c3"] = errors.New("its namespace is gone") })
		w.node.Publish(setOf(service("a", "10.96.0.1", 80), closed(service("b", "10.96.0.2", 80)), route("r", "a", "gone"), client("c1"), client("c2"), client("c3")),
			[]kube.Problem{{File: "x.yaml", Line: 3, Reason: "it is odd"}})
		w.do(func() { w.kernel.refuse = refusing("add pod 101") })
		w.soon()
		s := w.status()
		var pods []string
		for _, p := range s.Pods {
			pods = append(pods, fmt.Sprint(p.Pod, " ", p.State, " ", p.Reason))
		}
		w.expect("pods", strings.Join(pods, "; "), "shop/c1 serving ; shop/c2 failed add pod 101: the kernel is out of order; shop/c3 failed its namespace is gone")
		if got := s.Pods[0]; got.UID != "c1" || got.Cookie != 100 || got.IPv4.String() != "10.0.0.1" || fmt.Sprint(got.Listen) != "[ipv4 ipv6]" {
			t.Errorf("the pod is reported as %+v", got)
		}
		if got := s.Proxies[0]; len(s.Proxies) != 1 || got.ID != p.view.ID || got.PID != p.view.PID || got.State != "serving" || !got.Since.Equal(p.view.Since) {
			t.Errorf("the proxies are reported as %+v", s.Proxies)
		}
		var frontends []string
		for _, f := range s.Frontends {
			frontends = append(frontends, fmt.Sprint(f.Address, " ", f.Service, " closed:", f.FailClosed, " in:", f.InKernel))
		}
		w.expect("frontends", strings.Join(frontends, "; "), "10.96.0.1:80 shop/a closed:false in:true; 10.96.0.2:80 shop/b closed:true in:true")
		w.expect("node", s.Node, "n1")
		w.expect("liveness", s.Liveness.State+": "+s.Liveness.Reason, "up: a proxy acked the full state")
		w.expect("problems", strings.Join(s.Problems, "; "), "x.yaml:3: it is odd")
		w.expect("routes", conditions(s.Routes[0].Parents[0].Conditions), "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound (rules[0].backendRefs[0]: Service shop/gone is not there)")
		if s.Kernel.Counters["redirected"] != 3 || s.Kernel.Problem != "" || !s.Kernel.InStep {
			t.Errorf("the kernel is reported as %+v", s.Kernel)
		}
	})
}

// Lists are [] and not null, also before there is anything.
func TestStatusOfANewNode(t *testing.T) {
	bubble(t, func(w *world) {
		w.soon()
		text, err := json.Marshal(w.status())
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("null")) {
			t.Errorf("there is a null in %s", text)
		}
		w.expect("liveness", w.status().Liveness.State, "waiting")
		w.expect("written to the kernel", strings.Join(w.told("kernel"), ", "), "")
		model, err := w.node.Config(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if text, err = json.Marshal(model); err != nil || string(text) != `{"services":[],"endpoints":[],"pods":[]}` {
			t.Errorf("the model is %s, %v", text, err)
		}
	})
}

func TestConfigIsWhatProxiesShouldHave(t *testing.T) {
	bubble(t, func(w *world) {
		w.connect()
		w.publish(service("b", "10.96.0.2", 80), service("a", "10.96.0.1", 80), client("c2"), client("c1"))
		w.soon()
		m, err := w.node.Config(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(m.Services[0].Name, m.Services[1].Name, m.Endpoints[0].Name, m.Endpoints[1].Name,
			m.Pods[0].UID, m.Pods[1].UID, m.Pods[0].Families)
		if w.expect("the model", got, "ababc1c2[ipv4 ipv6]"); len(m.Services)+len(m.Endpoints)+len(m.Pods) != 6 || m.Services[0].Ports[0].Frontends[0].ID == 0 {
			t.Errorf("the model is %+v", m)
		}
	})
}

func TestReady(t *testing.T) {
	bubble(t, func(w *world) {
		says := func(want string) {
			t.Helper()
			got := "ready"
			if err := w.node.Ready(w.ctx); err != nil {
				got = err.Error()
			}
			if err := w.node.Healthy(w.ctx); err != nil {
				t.Errorf("it is not healthy: %v", err)
			}
			w.expect("ready", got, want)
		}
		w.soon()
		says("the objects have not been read yet")
		w.publish(service("a", "10.96.0.1", 80))
		w.soon()
		says("ready") // a proxy is no part of it: without one, connections go direct
		w.connect()
		w.do(func() { w.kernel.refuse = refusing("set 10.96.0.2") })
		w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80))
		w.soon()
		says("the kernel refused a change; another attempt follows")
		w.do(func() { w.kernel.refuse = nil })
		w.after(10 * time.Second)
		says("ready")
		w.do(func() { w.kernel.checkErr = errors.New("the program is detached") })
		w.after(checkEvery)
		says("the program is detached")
		w.expect("problem", w.status().Kernel.Problem, "the program is detached")
		w.do(func() { w.kernel.checkErr = nil })
		w.after(checkEvery)
		says("ready")
	})
}

// Who asks a loop that does not turn is told so, and in time.
func TestALoopThatDoesNotTurn(t *testing.T) {
	bubble(t, func(w *world) {
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		_, statusErr := w.node.Status(ctx)
		_, configErr := w.node.Config(ctx)
		for what, err := range map[string]error{
			"healthy": w.node.Healthy(ctx), "ready": w.node.Ready(ctx), "bypass": w.node.SetBypass(ctx, true), "status": statusErr, "config": configErr,
		} {
			if !errors.Is(err, errBusy) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func TestBypass(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.do(func() { w.kernel.refuse = refusing("add pod 102") }) // c3 is not redirected, and has nothing to come back from
		w.publish(service("a", "10.96.0.1", 80), client("c1"), client("c2"), client("c3"))
		w.soon()
		before := len(w.told("close bypassed"))
		if err := w.node.SetBypass(w.ctx, true); err != nil || len(w.told("kernel: bypass true")) != 1 {
			t.Errorf("turned on: %v", err)
		}
		w.soon()
		if n := len(w.told("close bypassed")); n != before {
			t.Error("connections are closed when the bypass is turned on")
		}
		if !w.status().Kernel.Bypass {
			t.Error("the status does not say that the bypass is on")
		}
		if err := w.node.SetBypass(w.ctx, false); err != nil || len(w.told("kernel: bypass false")) != 1 {
			t.Errorf("turned off: %v", err)
		}
		w.soon()
		if n := len(w.told("close bypassed")); n != before+2 {
			t.Errorf("those of %d pods are closed, so that they come back, and there are 2", n-before)
		}
		w.do(func() { w.kernel.refuse = refusing("bypass") })
		if err := w.node.SetBypass(w.ctx, true); !errors.Is(err, errRefused) {
			t.Errorf("what the kernel refuses: %v", err)
		}
	})
}

// A pod that the kernel does not take is tried again, at first soon; the others do not wait for it.
func TestAPodThatTheKernelDoesNotTake(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { w.kernel.refuse = refusing("add pod 101") })
		w.publish(service("a", "10.96.0.1", 80), client("c1"), client("c2"), client("c3"))
		w.after(10 * time.Second)
		w.expect("others", w.steered(), "c1, c3")
		if n := len(w.told("refuses to add pod 101")); n < 6 || n > 9 {
			t.Errorf("in 10 s it is tried %d times", n)
		}
		if err := w.node.Ready(w.ctx); err != nil {
			t.Errorf("one pod makes the node unready: %v", err)
		}
		w.do(func() { w.kernel.refuse = nil; manual(p) })
		w.after(10 * time.Second)
		w.expect("then it waits like any other", w.status().Pods[1].State, "waiting")
		w.take(p)
		w.ack(p)
		w.soon()
		w.expect("all", w.steered(), "c1, c2, c3")
	})
}

func TestMetrics(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.do(func() { w.kernel.refuse = refusing("add pod 101") })
		w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), client("c1"), client("c2"))
		w.soon()
		got := gather(t, w.registry)
		for name, want := range map[string]float64{
			"sluice_agent_frontends":             2,
			`sluice_agent_pods{state="serving"}`: 1, `sluice_agent_pods{state="failed"}`: 1, `sluice_agent_pods{state="ending"}`: 0, `sluice_agent_pods{state="waiting"}`: 0,
			`sluice_agent_proxies{state="serving"}`: 1, "sluice_agent_refused_units": 0,
			`sluice_agent_liveness{state="up"}`: 1, `sluice_agent_liveness{state="down"}`: 0, `sluice_agent_liveness{state="waiting"}`: 0,
			`sluice_agent_kernel_errors_total{step="add a pod"}`: 1, "sluice_agent_reset_connections_total": 0,
			`sluice_agent_datapath_events_total{event="redirected"}`: 3, "sluice_agent_compile_seconds": 2,
		} {
			if v, there := got[name]; !there || v != want {
				t.Errorf("%s is %v (there: %t), want %v", name, v, there, want)
			}
		}
		// A kernel that does not answer costs its own series only.
		w.do(func() { w.kernel.refuse = refusing("read the counters") })
		if _, err := w.registry.Gather(); !errors.Is(err, errRefused) && (err == nil || !strings.Contains(err.Error(), errRefused.Error())) {
			t.Errorf("the error is %v", err)
		}
	})
}

// gather returns the values of all series; of a histogram, how many values it took in.
func gather(t *testing.T, from prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += fmt.Sprintf("{%s=%q}", l.GetName(), l.GetValue())
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// Each problem is logged once for as long as it is there, and so is its end.
func TestJournal(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	j := journal{log: log, lines: map[string]bool{}}
	odd := []kube.Problem{{File: "x.yaml", Reason: "odd"}}
	lost := []compile.Event{{Route: model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}, Reason: compile.PortLost, Message: "gone"}}
	j.problems(odd, []string{"a warning"}, nil)
	j.problems(odd, []string{"a warning"}, nil)
	j.problems(odd, nil, nil)
	j.problems(nil, []string{"a warning"}, nil)
	j.problems(nil, []string{"a warning"}, lost)
	j.problems(nil, []string{"a warning"}, lost)
	want := `level=WARN msg="problem in the objects" problem="a warning"
level=WARN msg="problem in the objects" problem="x.yaml: odd"
level=INFO msg="problem solved" problem="a warning"
level=WARN msg="problem in the objects" problem="a warning"
level=INFO msg="problem solved" problem="x.yaml: odd"
level=WARN msg="problem in the objects" problem="HTTPRoute shop/r: PortLost: gone"
`
	if out.String() != want {
		t.Errorf("logged:\n%s", out.String())
	}
}

// routes of two kinds may have one name. Each has its own status, which is logged as its own; a refusal is told
// of the one that is in force, and statuses follow when that one goes.
func TestA50StatusesOfTwoKindsOfRoutes(t *testing.T) {
	bubble(t, func(w *world) {
		var out bytes.Buffer
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		w.make(slog.New(slog.NewTextHandler(&out, nil)))
		w.run()
		p := w.connect()
		calls := &gatewayv1.GRPCRoute{Namespace: "shop", Name: "r", Generation: 1}
		calls.Spec.ParentRefs = route("r", "a").Spec.ParentRefs
		reported := func() string {
			var all []string
			for _, r := range w.status().Routes {
				all = append(all, r.Route.String()+" "+r.Parents[0].Conditions[0].Reason)
			}
			return strings.Join(all, ", ")
		}
		w.publish(service("a", "10.96.0.1", 80), route("r", "a", "a"), calls)
		w.soon()
		w.expect("both", reported(), "GRPCRoute shop/r Accepted, HTTPRoute shop/r Conflicted")
		if events := w.status().Events; len(events) != 1 || !strings.HasPrefix(events[0], "HTTPRoute shop/r: PortLost: ") {
			t.Errorf("events: %q", events)
		}
		m, err := w.node.Config(w.ctx)
		if err != nil || !m.Services[0].Ports[0].Producer.GRPC {
			t.Errorf("the proxies have %+v, %v", m, err)
		}

		w.do(func() { p.refuses = func(*model.Service) string { return "odd" } })
		w.publish(service("a", "10.96.0.1", 80, 81), route("r", "a", "a"), calls)
		w.soon()
		w.expect("refused", reported(), "GRPCRoute shop/r NotProgrammed, HTTPRoute shop/r Conflicted")

		w.do(func() { p.refuses = nil })
		w.publish(service("a", "10.96.0.1", 80), route("r", "a", "a"))
		w.soon()
		w.expect("one", reported(), "HTTPRoute shop/r Accepted")
		for _, line := range []string{
			`route="GRPCRoute shop/r" parent=shop/a conditions="Accepted=True/Accepted `,
			`route="GRPCRoute shop/r" parent=shop/a conditions="Accepted=False/NotProgrammed `,
			`route="HTTPRoute shop/r" parent=shop/a conditions="Accepted=True/Accepted `,
		} {
			if n := strings.Count(out.String(), line); n != 1 {
				t.Errorf("%s is logged %d times:\n%s", line, n, out.String())
			}
		}
	})
}

func TestConditionsAreLoggedWhenTheyChange(t *testing.T) {
	bubble(t, func(w *world) {
		var out bytes.Buffer
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		w.make(slog.New(slog.NewTextHandler(&out, nil)))
		w.run()
		w.connect()
		for range 3 {
			w.publish(service("a", "10.96.0.1", 80), route("r", "a", "a"))
			w.soon()
		}
		if n := strings.Count(out.String(), `msg="route status"`); n != 1 {
			t.Errorf("logged %d times:\n%s", n, out.String())
		}
		w.publish(service("a", "10.96.0.1", 80), route("r", "a", "gone"))
		w.soon()
		if n := strings.Count(out.String(), `msg="route status" route="HTTPRoute shop/r" parent=shop/a conditions="Accepted=True/Accepted ResolvedRefs=`); n != 2 {
			t.Errorf("logged %d times:\n%s", n, out.String())
		}
	})
}
