package check

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/cli/text"
)

// most is how many lines of a list people get to see.
const most = 20

// String is the report for people.
func (r *Report) String() string {
	t := &text.Page{}
	t.Line(0, "%s", r.head())
	r.findings(t, "Problems:", r.Problems)
	r.findings(t, "Notes:", r.Notes)
	r.nodes(t)
	r.services(t)
	r.pods(t)
	return t.String()
}

func (r *Report) head() string {
	about := r.Source
	if r.Kubernetes != "" {
		about += ", Kubernetes " + r.Kubernetes
	}
	if g := r.GatewayAPI; g != nil && len(g.Versions) > 0 {
		about += ", Gateway API " + strings.Join(g.Versions, " and ")
	}
	switch len(r.Problems) {
	case 0:
		return about + ": all is well"
	case 1:
		return about + ": 1 problem"
	}
	return fmt.Sprintf("%s: %d problems", about, len(r.Problems))
}

func (r *Report) findings(t *text.Page, heading string, all []Finding) {
	if len(all) == 0 {
		return
	}
	t.Blank()
	t.Line(0, "%s", heading)
	for _, f := range all[:min(len(all), most)] {
		line := f.What
		if f.Object != "" && f.Kind != PassedBy {
			line = f.Object + ": " + line
		}
		if where := r.where(f.Nodes); where != "" {
			line = where + ": " + line
		}
		t.Line(2, "%s", clip(line))
		if f.Todo != "" {
			t.Line(6, "-> %s", f.Todo)
		}
	}
	more(t, len(all))
}

// clip cuts what is too long to be read: a condition may have 32 KB to say.
func clip(s string) string {
	const longest = 600
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + " ... (--output json has all)"
}

// where names nodes: not at all if there is only one, and not one by one if it is all of them.
func (r *Report) where(nodes []string) string {
	switch {
	case len(nodes) == 0 || len(r.Nodes) == 1:
		return ""
	case len(nodes) == len(r.Nodes):
		return "every node"
	case len(nodes) == 1:
		return "node " + nodes[0]
	}
	return "nodes " + names(slices.Sorted(slices.Values(nodes)))
}

func more(t *text.Page, n int) {
	if n > most {
		t.Line(2, "and %d more: --output json has all", n-most)
	}
}

func (r *Report) nodes(t *text.Page) {
	if len(r.Nodes) == 0 {
		return
	}
	rows := [][]string{{"NODE", "AGENT", "PROXY", "REDIRECT", "PODS", "CNI", "VERSION", "KERNEL"}}
	for _, n := range r.Nodes[:min(len(r.Nodes), most)] {
		rows = append(rows, []string{n.Name, n.Agent, n.Proxy, dash(n.Redirect), n.counts(), dash(n.CNI), dash(n.Version), dash(n.Kernel)})
	}
	t.Blank()
	t.Table(0, rows)
	more(t, len(r.Nodes))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (n *Node) counts() string {
	if n.Redirect == "" {
		return "-"
	}
	s := strconv.Itoa(n.Enrolled) + " enrolled"
	if n.Excluded > 0 {
		s += fmt.Sprintf(", %d excluded", n.Excluded)
	}
	if n.Amiss > 0 {
		s += fmt.Sprintf(", %d not enrolled", n.Amiss)
	}
	return s
}

func (r *Report) services(t *text.Page) {
	if len(r.Services) == 0 {
		return
	}
	t.Blank()
	t.Line(0, "Services with routes:")
	for _, s := range r.Services[:min(len(r.Services), most)] {
		line := s.Service + " at " + names(s.Addresses)
		if s.FailClosed {
			line += ", fails closed"
		}
		t.Line(2, "%s", line)
	}
	more(t, len(r.Services))
}

func (r *Report) pods(t *text.Page) {
	if len(r.NotEnrolled) > 0 {
		t.Blank()
		t.Line(0, "Pods that are not enrolled, so no route applies to what they send:")
		why, by := []string{}, map[string][]string{}
		for _, p := range r.NotEnrolled {
			if _, seen := by[p.Reason]; !seen {
				why = append(why, p.Reason)
			}
			by[p.Reason] = append(by[p.Reason], p.Pod)
		}
		for _, w := range why[:min(len(why), most)] {
			t.Line(2, "%s: %s", w, names(by[w]))
		}
		more(t, len(why))
	}
	if len(r.Late) == 0 {
		return
	}
	t.Blank()
	t.Line(0, "Pods that ran before they were enrolled; what they connected in that time goes direct until it is closed:")
	longest := slices.SortedStableFunc(slices.Values(r.Late), func(a, b Late) int { return cmp.Compare(b.Seconds, a.Seconds) })
	const few = 5
	for _, p := range longest[:min(len(longest), few)] {
		t.Line(2, "%s on %s for %s", p.Pod, p.Node, seconds(p.Seconds))
	}
	if len(longest) > few {
		t.Line(2, "and %d more: --output json has all", len(longest)-few)
	}
}
