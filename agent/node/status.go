package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Status is what the node can say of itself.
type Status struct {
	Node      string                `json:"node"`
	Liveness  Liveness              `json:"liveness"`
	Kernel    KernelStatus          `json:"kernel"`
	Proxies   []ProxyStatus         `json:"proxies"`
	Pods      []PodStatus           `json:"pods"`
	Frontends []FrontendStatus      `json:"frontends"`
	Routes    []compile.RouteStatus `json:"routes"`
	Events    []string              `json:"events"`   // what an operator should notice of routes
	Problems  []string              `json:"problems"` // of files: file:line: object: reason
	Warnings  []string              `json:"warnings"` // of objects that have no status of ours
}

// Liveness says whether connections are steered to a proxy, and why or why not.
type Liveness struct {
	State  string `json:"state"` // up, waiting or down
	Reason string `json:"reason"`
}

// KernelStatus is the state of the redirect.
type KernelStatus struct {
	InStep   bool              `json:"inStep"`            // nothing is waiting to be written again
	Bypass   bool              `json:"bypass"`            // the kill switch: every connect is left alone
	Problem  string            `json:"problem,omitempty"` // why the programs do not run as they should
	Counters map[string]uint64 `json:"counters"`
}

// ProxyStatus is one registered proxy.
type ProxyStatus struct {
	ID      uint64          `json:"id"`
	PID     int             `json:"pid"`
	Since   time.Time       `json:"since"`
	State   string          `json:"state"` // syncing, serving, draining or released
	Refused []model.Refusal `json:"refused,omitempty"`
}

// States of a pod.
const (
	StateServing  = "serving"
	StateWaiting  = "waiting"  // for the proxy, or for a process of the pod
	StateFailed   = "failed"   // more attempts follow
	StateEnding   = "ending"   // it is let go of
	StateExcluded = "excluded" // it is not to be enrolled
)

// PodStatus is one pod of the node.
type PodStatus struct {
	Pod    string         `json:"pod"` // namespace/name
	UID    string         `json:"uid"`
	State  string         `json:"state"`            // serving, waiting, failed, ending or excluded
	Reason string         `json:"reason,omitempty"` // of every other state than serving
	Cookie uint64         `json:"cookie,omitempty"`
	IPv4   netip.Addr     `json:"ipv4,omitzero"`
	IPv6   netip.Addr     `json:"ipv6,omitzero"`
	Listen []model.Family `json:"listen,omitempty"`
	// EnrolledBy is how a pod that is enrolled was found: plugin (before its containers started), found (after it had
	// started), running (it ran already when the agent was started), predecessor (which served it until then), or name.
	EnrolledBy string `json:"enrolledBy,omitempty"`
	// UnenrolledSeconds is for how long it ran, and was to be enrolled, without being served: until it was, or until now.
	// What it connected meanwhile stays direct. 0: it was served before its containers started, or nothing is known.
	UnenrolledSeconds float64 `json:"unenrolledSeconds,omitempty"`
}

// FrontendStatus is an address that is to be redirected.
type FrontendStatus struct {
	Address    netip.AddrPort   `json:"address"`
	ID         uint32           `json:"id"`
	Service    model.ServiceKey `json:"service"`
	FailClosed bool             `json:"failClosed,omitempty"`
	InKernel   bool             `json:"inKernel"`
}

// Model is the model in force: what proxies should have by now.
type Model struct {
	Services  []*model.Service     `json:"services"`
	Endpoints []*model.EndpointSet `json:"endpoints"`
	Pods      []model.EnrolledPod  `json:"pods"`
}

// errBusy is returned when the loop does not come round.
var errBusy = errors.New("the agent's loop does not answer")

// call runs f in the loop and waits for it.
func (n *Node) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case n.calls <- func() { defer close(done); f() }:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errBusy, ctx.Err())
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errBusy, ctx.Err())
	}
}

// Healthy tells whether the loop turns.
func (n *Node) Healthy(ctx context.Context) error { return n.call(ctx, func() {}) }

// Ready tells whether the objects were read and the kernel follows them.
func (n *Node) Ready(ctx context.Context) error {
	var err error
	if callErr := n.call(ctx, func() {
		switch {
		case n.desired == nil:
			err = errors.New("the objects have not been read yet")
		case n.retry.delay > 0:
			err = errors.New("the kernel refused a change; another attempt follows")
		case n.checkErr != nil:
			err = n.checkErr
		}
	}); callErr != nil {
		return callErr
	}
	return err
}

// SetBypass turns the kill switch: while it is on, every connect on the node is left alone. Turned off, connections
// that went direct meanwhile are closed in the background, so that they come back through the proxy.
func (n *Node) SetBypass(ctx context.Context, on bool) error {
	var err error
	if callErr := n.call(ctx, func() {
		if err = n.kernel.SetBypass(on); err != nil {
			return
		}
		n.log.Warn("the bypass switch was turned", "on", on)
		for _, p := range n.podTable.pods {
			if !on && p.inForce {
				n.bypassed.add(p.Pod)
			}
		}
	}); callErr != nil {
		return callErr
	}
	return err
}

// Config returns the model in force.
func (n *Node) Config(ctx context.Context) (*Model, error) {
	m := &Model{Services: []*model.Service{}, Endpoints: []*model.EndpointSet{}, Pods: []model.EnrolledPod{}}
	var sent *push.State
	if err := n.call(ctx, func() { sent = n.sent }); err != nil {
		return nil, err
	}
	if sent == nil {
		return m, nil
	}
	m.Services = append(m.Services, sortedBy(sent.Services, func(s *model.Service) string { return s.ServiceKey.String() })...)
	m.Endpoints = append(m.Endpoints, sortedBy(sent.Endpoints, func(e *model.EndpointSet) string { return e.EndpointsKey.String() })...)
	for _, p := range sortedBy(sent.Pods, func(p *push.Pod) string { return p.UID }) {
		m.Pods = append(m.Pods, p.EnrolledPod)
	}
	return m, nil
}

// Status returns what there is to say.
func (n *Node) Status(ctx context.Context) (*Status, error) {
	var s *Status
	if err := n.call(ctx, func() { s = n.describe(n.proxies.Proxies()) }); err != nil {
		return nil, err // s may be written to later
	}
	return s, nil
}

func (n *Node) describe(proxies []push.Proxy) *Status {
	s := &Status{
		Node:     n.cfg.Select.Node,
		Liveness: Liveness{State: n.live.state.String(), Reason: n.live.why},
		Kernel:   n.describeKernel(),
		Proxies:  []ProxyStatus{}, Pods: n.describePods(), Frontends: []FrontendStatus{},
		Routes: []compile.RouteStatus{}, Events: []string{}, Problems: []string{}, Warnings: []string{},
	}
	for _, p := range proxies {
		s.Proxies = append(s.Proxies, ProxyStatus{ID: p.ID, PID: p.PID, Since: p.Since, State: stateOf(p), Refused: p.Refused})
	}
	if n.desired == nil {
		return s
	}
	for _, f := range sortedBy(n.desired.frontends, func(f frontend) string { return f.Addr.String() }) {
		_, in := n.frontends.may[f.Addr]
		s.Frontends = append(s.Frontends, FrontendStatus{
			Address: f.Addr, ID: f.ID, Service: f.unit, FailClosed: f.Flags&datapath.FailClosed != 0,
			InKernel: in && n.frontends.exact,
		})
	}
	s.Routes = append(s.Routes, n.status.routes...)
	s.Warnings = append(s.Warnings, n.desired.result.Warnings...)
	for _, e := range n.desired.result.Events {
		s.Events = append(s.Events, e.String())
	}
	for _, p := range n.desired.problems {
		s.Problems = append(s.Problems, p.String())
	}
	return s
}

func (n *Node) describeKernel() KernelStatus {
	k := KernelStatus{InStep: n.retry.delay == 0, Bypass: n.kernel.Bypass()}
	if n.checkErr != nil {
		k.Problem = n.checkErr.Error()
	}
	counters, err := n.kernel.Counters()
	if err != nil {
		n.log.Error("the kernel's counters cannot be read", "error", err)
	}
	k.Counters = counters
	return k
}

func stateOf(p push.Proxy) string {
	switch {
	case p.Released:
		return "released"
	case p.Draining:
		return "draining"
	case p.Ready:
		return "serving"
	}
	return "syncing"
}

func (n *Node) describePods() []PodStatus {
	all := []PodStatus{}
	now := time.Now()
	for _, p := range n.podTable.sorted() {
		s := PodStatus{
			Pod: p.String(), UID: p.UID, State: StateWaiting, Reason: "the proxy has not acked it yet",
			Cookie: p.Cookie, IPv4: p.IPv4, IPv6: p.IPv6, Listen: p.Families(),
			EnrolledBy: string(p.by), UnenrolledSeconds: n.podTable.unenrolled(p, now).Seconds(),
		}
		if p.kept {
			s.EnrolledBy = "predecessor"
		}
		switch {
		case p.ending != "":
			s.State, s.Reason = StateEnding, p.ending
		case n.outside[p.UID] != nil:
			s.State, s.Reason = StateFailed, n.outside[p.UID].Error()
		case p.inForce:
			s.State, s.Reason = StateServing, ""
		case p.err != nil:
			s.State, s.Reason = StateFailed, p.err.Error()
		case n.live.state != Up:
			s.Reason = n.live.why
		}
		all = append(all, s)
	}
	for _, f := range n.podTable.failed {
		s := PodStatus{Pod: f.String(), UID: f.UID, State: StateFailed, Reason: f.Err.Error()}
		if errors.Is(f.Err, enroll.ErrNoProcess) {
			s.State = StateWaiting
		}
		all = append(all, s)
	}
	for _, x := range n.podTable.excluded {
		all = append(all, PodStatus{Pod: x.String(), UID: x.UID, State: StateExcluded, Reason: x.Reason})
	}
	return all
}
