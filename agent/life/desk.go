package life

import (
	"context"
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sluice-mesh/sluice/agent/admin"
	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/cni/install"
)

// Node is what is asked and turned while the agent has the node.
type Node interface {
	Healthy(context.Context) error
	Ready(context.Context) error
	Status(context.Context) (*node.Status, error)
	Config(context.Context) (*node.Model, error)
	SetBypass(ctx context.Context, on bool) error
}

// Holding is what an agent has while it has the node.
type Holding struct {
	Node    Node
	Metrics prometheus.Gatherer
	CNI     func() install.Status // nil: the plugin is not to be installed
}

// ErrElsewhere is the answer of an agent that has given the node to its successor.
var ErrElsewhere = errors.New("another agent has this node: this one was replaced, and ends soon")

// errStarting is the answer of one that has not had it yet.
var errStarting = errors.New("the agent starts: it has not read the objects, or its predecessor has the node still")

// Desk answers for the agent whether it has the node or not. It is a Node, and a Gatherer of metrics. An agent that was
// replaced is healthy and ready until it is ended: that it has nothing to do is no reason to start it again.
type Desk struct {
	version string
	own     prometheus.Gatherer // metrics of the process

	mu  sync.Mutex
	has *Holding // nil: the agent has not the node
	had bool
}

// NewDesk makes a Desk of an agent of that version, which has not had the node yet.
func NewDesk(version string, own prometheus.Gatherer) *Desk { return &Desk{version: version, own: own} }

// Has says that the agent has the node from now on.
func (d *Desk) Has(h Holding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.has, d.had = &h, true
}

// HasNot says that it has given the node up.
func (d *Desk) HasNot() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.has = nil
}

// get returns what the agent has, or why it has nothing.
func (d *Desk) get() (*Holding, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.has != nil:
		return d.has, nil
	case d.had:
		return nil, ErrElsewhere
	}
	return nil, errStarting
}

// Healthy tells whether the agent works.
func (d *Desk) Healthy(ctx context.Context) error {
	if h, _ := d.get(); h != nil {
		return h.Node.Healthy(ctx)
	}
	return nil
}

// Ready tells whether the node is in step, whoever keeps it so.
func (d *Desk) Ready(ctx context.Context) error {
	h, err := d.get()
	switch {
	case h != nil:
		return h.Node.Ready(ctx)
	case errors.Is(err, ErrElsewhere):
		return nil
	}
	return err
}

// Status returns the node's.
func (d *Desk) Status(ctx context.Context) (*admin.Status, error) {
	h, err := d.get()
	if err != nil {
		return nil, err
	}
	s, err := h.Node.Status(ctx)
	if err != nil {
		return nil, err
	}
	all := &admin.Status{Status: s, Version: d.version}
	if h.CNI != nil {
		cni := h.CNI()
		all.CNI = &cni
	}
	return all, nil
}

// Config returns the model in force.
func (d *Desk) Config(ctx context.Context) (*node.Model, error) {
	h, err := d.get()
	if err != nil {
		return nil, err
	}
	return h.Node.Config(ctx)
}

// SetBypass turns the kill switch.
func (d *Desk) SetBypass(ctx context.Context, on bool) error {
	h, err := d.get()
	if err != nil {
		return err
	}
	return h.Node.SetBypass(ctx, on)
}

// Gather returns the process's metrics, and the node's.
func (d *Desk) Gather() ([]*dto.MetricFamily, error) {
	d.mu.Lock()
	all := prometheus.Gatherers{d.own}
	if d.has != nil {
		all = append(all, d.has.Metrics)
	}
	d.mu.Unlock()
	return all.Gather()
}
