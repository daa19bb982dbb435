// Package admission answers what the CNI plugin asks: a pod's sandbox is told to enrolment before the pod's containers
// start, and the plugin hears when the pod is served, or why it is not. A sandbox that is taken down is let go of at
// once.
//
// A request may come before the pod's object does, from the API server: it is waited for.
package admission

import (
	"context"

	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/cni/wire"
)

// Enroller is what admission needs of enrolment.
type Enroller interface {
	Announce(enroll.Sandbox) error
	Cookie(containerID string) uint64
	Started(containerID string)
	TakenDown(a enroll.Attachment, netns string)
	Keep(network string, valid []enroll.Attachment)
}

// Node is what admission needs of the node.
type Node interface {
	Pod(uid, namespace, name string) (s node.PodStatus, known bool, changed <-chan struct{})
	Status(context.Context) (*node.Status, error)
}

// What a pod waits for.
const (
	notKnown = "the agent has not heard of the pod from the API server yet"
	notYet   = "its sandbox is being enrolled; what is served still is an earlier one"
)

// Handler returns what answers the plugin.
func Handler(e Enroller, n Node) wire.Handler {
	h := handler{e, n}
	return func(ctx context.Context, r wire.Request) wire.Answer {
		switch r.Command {
		case wire.Add:
			return h.add(ctx, r)
		case wire.Check:
			a, _ := h.ask(r)
			return a
		case wire.Del:
			e.TakenDown(attachment(r), r.NetNS)
		case wire.GC:
			e.Keep(r.Network, attachments(r))
		case wire.Status:
			return h.status(ctx)
		}
		return wire.Answer{State: wire.Serving}
	}
}

type handler struct {
	enroller Enroller
	node     Node
}

// add announces a sandbox and waits until the pod is served, or is known not to be, or the context ends: then it says
// what is missing.
func (h handler) add(ctx context.Context, r wire.Request) wire.Answer {
	if r.Name == "" {
		return wire.Answer{State: wire.NotEnrolled, Reason: "no pod is named: what the sandbox is for was not started by a kubelet"}
	}
	if err := h.enroller.Announce(enroll.Sandbox{
		Attachment: attachment(r), UID: r.UID, Namespace: r.Namespace, Name: r.Name, NetNS: r.NetNS, IPs: r.IPs,
	}); err != nil {
		// It may have no namespace of its own that we could enroll, which its object tells.
		if a, _ := h.ask(r); a.State == wire.NotEnrolled {
			return a
		}
		return wire.Answer{Error: err.Error()}
	}
	for {
		a, changed := h.ask(r)
		if a.State != wire.Waiting {
			return a
		}
		select {
		case <-changed:
		case <-ctx.Done():
			h.enroller.Started(r.ContainerID) // which the runtime does now, unless it is told to wait
			return a
		}
	}
}

// ask says how things stand with the request's pod. The channel is closed when that may have changed.
func (h handler) ask(r wire.Request) (wire.Answer, <-chan struct{}) {
	s, known, changed := h.node.Pod(r.UID, r.Namespace, r.Name)
	switch {
	case !known:
		return wire.Answer{State: wire.Waiting, Reason: notKnown}, changed
	case s.State == node.StateExcluded:
		return wire.Answer{State: wire.NotEnrolled, Reason: s.Reason}, changed
	case s.State != node.StateServing:
		return wire.Answer{State: wire.Waiting, Reason: s.Reason}, changed
	case r.Command == wire.Add && s.Cookie != h.enroller.Cookie(r.ContainerID): // a pod may get another sandbox
		return wire.Answer{State: wire.Waiting, Reason: notYet}, changed
	}
	return wire.Answer{State: wire.Serving}, changed
}

// status tells whether a pod would be served now.
func (h handler) status(ctx context.Context) wire.Answer {
	s, err := h.node.Status(ctx)
	if err != nil {
		return wire.Answer{Error: err.Error()}
	}
	if s.Liveness.State != node.Up.String() {
		return wire.Answer{State: wire.Waiting, Reason: s.Liveness.Reason}
	}
	return wire.Answer{State: wire.Serving}
}

func attachment(r wire.Request) enroll.Attachment {
	return enroll.Attachment{Network: r.Network, ContainerID: r.ContainerID, IfName: r.IfName}
}

func attachments(r wire.Request) []enroll.Attachment {
	all := make([]enroll.Attachment, 0, len(r.Valid))
	for _, a := range r.Valid {
		all = append(all, enroll.Attachment{Network: r.Network, ContainerID: a.ContainerID, IfName: a.IfName})
	}
	return all
}
