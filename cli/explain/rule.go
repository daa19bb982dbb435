package explain

import (
	"fmt"
	"slices"

	"github.com/sluice-mesh/sluice/cli/inforce"
	"github.com/sluice-mesh/sluice/cli/text"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Rule is a rule of a route and what its requests get.
type Rule struct {
	Index    int       `json:"rule"` // in its route
	Name     string    `json:"name,omitempty"`
	LeftOut  string    `json:"leftOut,omitempty"` // why it is not in force; then there is nothing else
	Matches  []string  `json:"matches,omitempty"` // alternatives
	Does     []string  `json:"does,omitempty"`    // filters and policies
	Answers  string    `json:"answers,omitempty"` // what every request is answered by the proxy itself
	Backends []Backend `json:"backends,omitempty"`
}

// Backend is one weighted choice of a rule.
type Backend struct {
	Weight    uint32   `json:"weight"`
	Share     string   `json:"share"` // of the rule's requests
	To        string   `json:"to,omitempty"`
	Endpoints int      `json:"endpoints"`
	Answers   string   `json:"answers,omitempty"` // what its share is answered by the proxy itself
	State     string   `json:"state"`             // in words
	Does      []string `json:"does,omitempty"`
}

func label(index int, name string) string {
	if name == "" {
		return fmt.Sprintf("rules[%d]", index)
	}
	return fmt.Sprintf("rules[%d] (%s)", index, name)
}

// describeRule tells of a rule. grpc: its requests are answered as calls are.
func describeRule(v *inforce.View, r *model.Rule, grpc bool) Rule {
	d := Rule{Index: r.Index, Name: r.Name, Does: append(describeFilters(r.Filters), describePolicies(r, grpc)...)}
	for i := range r.Matches {
		d.Matches = append(d.Matches, describeMatch(&r.Matches[i]))
	}
	sum := uint64(0)
	for _, b := range r.Backends {
		sum += uint64(b.Weight)
	}
	for i := range r.Backends {
		d.Backends = append(d.Backends, describeBackend(v, &r.Backends[i], sum, grpc))
	}
	redirects := slices.ContainsFunc(r.Filters, func(f model.Filter) bool { return f.Redirect != nil })
	switch {
	case r.Fail != nil: // F-5
		d.Answers = fmt.Sprintf("%s: %s", answered(r.Fail.Status, grpc), r.Fail.Reason)
	case redirects:
	case len(r.Backends) == 0: // B-4
		d.Answers = answered(500, grpc) + ": the rule has no backend"
	case sum == 0: // B-5
		d.Answers = answered(500, grpc) + ": the weights of its backends add up to 0"
	}
	return d
}

func describeBackend(v *inforce.View, b *model.Backend, sum uint64, grpc bool) Backend {
	d := Backend{Weight: b.Weight, Share: percent(uint64(b.Weight), max(sum, 1)), Does: describeFilters(b.Filters)}
	if b.Invalid != "" { // B-2
		d.Answers = answered(500, grpc)
		d.State = fmt.Sprintf("answered %s: %s", d.Answers, b.Invalid)
		return d
	}
	d.To = b.Endpoints.String()
	terminating, affinity := 0, model.Duration(0)
	if set := v.EndpointSet(b.Endpoints); set != nil {
		d.Endpoints, affinity = len(set.Endpoints), set.Affinity
		for _, e := range set.Endpoints {
			if e.Terminating {
				terminating++
			}
		}
	}
	d.State = count(d.Endpoints, "endpoint")
	if affinity > 0 {
		d.State += fmt.Sprintf(", of which a client pod keeps one until it was idle for %v", affinity)
	}
	switch {
	case d.Endpoints == 0: // B-7
		d.Answers = answered(503, grpc)
		d.State = fmt.Sprintf("no endpoint is ready: answered %s", d.Answers)
	case terminating > 0:
		d.State += ", terminating: none is ready"
	}
	return d
}

// write tells what requests of the rule get, its matches excepted.
func (r *Rule) write(t *text.Page, indent int) {
	t.Lines(indent, r.Does)
	if r.Answers != "" {
		t.Line(indent, "every request is answered %s", r.Answers)
	}
	for _, b := range r.Backends {
		to := ""
		if b.To != "" {
			to = " to " + b.To
		}
		t.Line(indent, "%s%s: %s", b.Share, to, b.State)
		t.Lines(indent+2, b.Does)
	}
}
