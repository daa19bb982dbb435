// Package explain tells in plain words what is in force: what each route's traffic gets, and which rule a request is for and why
// no other. It is pure: a view goes in, and what comes out is for people as text and for scripts as JSON.
package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/cli/inforce"
	"github.com/sluice-mesh/sluice/cli/text"
	"github.com/sluice-mesh/sluice/l7proxy/filter"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/router"
)

// Question is a request that a client may send.
type Question struct {
	Namespace string // of the client
	Pod       string // its name; "": any of the namespace
	Service   model.ServiceKey
	Port      string           // number or name; "": the only one that is redirected
	Request   *message.Request // Authority "": what clients write for the Service and the port
}

// Answer is what becomes of it.
type Answer struct {
	Source   string   `json:"source"`
	Client   string   `json:"client"`
	Service  string   `json:"service"`
	Port     uint16   `json:"port,omitempty"` // 0: it was not named, and the Service has none that is redirected
	Request  string   `json:"request"`
	Applies  bool     `json:"applies"` // a rule of a route decides about the request
	Notes    []string `json:"notes,omitempty"`
	Winner   *Winner  `json:"winner,omitempty"`
	Outcome  []string `json:"outcome,omitempty"` // what happens, besides what the winner does
	Others   []Other  `json:"others"`
	Problems []string `json:"problems,omitempty"`

	service *model.Service
	port    *model.Port
}

// Winner is the rule that decides.
type Winner struct {
	Route model.RouteRef `json:"route"`
	Match string         `json:"match"` // the alternative that holds and is the most specific one
	Rule
}

// Explain tells which rule a request is for, what it does to it, and why it is for no other. An error says what is wrong with the
// question.
func Explain(v *inforce.View, q Question) (*Answer, error) {
	a := &Answer{Source: v.Source, Client: "a pod in namespace " + q.Namespace, Service: q.Service.String(), Others: []Other{}, Problems: v.Problems}
	a.Applies = true
	a.client(v, q)
	a.service = v.Service(q.Service)
	if err := a.findPort(q); err != nil {
		return nil, err
	}
	r := *q.Request
	r.Fields = slices.Clone(r.Fields)
	if r.Authority == "" {
		r.Authority = a.authority(q.Service)
	}
	a.Request = describeRequest(&r)
	if a.port == nil {
		a.Applies = false
		a.Outcome = append(a.Outcome, a.untouched())
		a.Others = others(v, q, nil, a.unrouted())
		return a, nil
	}
	table := a.port.Table(q.Namespace)
	a.Others = others(v, q, table, a.port)
	if table == nil {
		a.Applies = false
		a.Outcome = append(a.Outcome, fmt.Sprintf("no route applies to clients in namespace %s: the connection goes to the endpoints of the Service itself, as without a route", q.Namespace))
		return a, nil
	}
	compiled, err := router.Compile(table)
	if err != nil {
		return nil, fmt.Errorf("Service %s, port %d: what is in force is of another version: %w", a.Service, a.Port, err)
	}
	a.decide(v, table, compiled.Explain(&r), &r)
	return a, nil
}

// client names the client, and notes where its connections pass us by.
func (a *Answer) client(v *inforce.View, q Question) {
	if q.Pod == "" {
		return
	}
	a.Client = fmt.Sprintf("pod %s/%s", q.Namespace, q.Pod)
	i := slices.IndexFunc(v.Pods, func(p inforce.Pod) bool { return p.Namespace == q.Namespace && p.Name == q.Pod })
	switch {
	case i >= 0 && v.Pods[i].Direct != "":
		a.Applies = false
		a.Notes = append(a.Notes, fmt.Sprintf("connections of %s are not redirected (%s), so no route applies to them; what follows is for a pod beside it",
			a.Client, v.Pods[i].Direct))
	case i < 0 && v.AllPods:
		a.Notes = append(a.Notes, fmt.Sprintf("%s is none of this node's pods; what follows is for one that is", a.Client))
	}
}

// findPort finds the port that the question means.
func (a *Answer) findPort(q Question) error {
	number, numberErr := strconv.ParseUint(q.Port, 10, 16)
	if numberErr == nil {
		a.Port = uint16(number)
	}
	var ports []model.Port
	if a.service != nil {
		ports = a.service.Ports
	}
	var redirected []string
	for i := range ports {
		p := &ports[i]
		redirected = append(redirected, strings.TrimSuffix(fmt.Sprintf("%d %s", p.Number, p.Name), " "))
		if q.Port == "" && len(ports) == 1 || q.Port != "" && (p.Name == q.Port || numberErr == nil && p.Number == a.Port) {
			a.port, a.Port = p, p.Number
		}
	}
	switch {
	case a.port != nil, a.Port != 0, q.Port == "" && len(ports) == 0:
		return nil
	case q.Port == "":
		return fmt.Errorf("Service %s has several ports with routes: name one of %s", a.Service, strings.Join(redirected, ", "))
	}
	return fmt.Errorf("port %q of Service %s is none that routes apply to: those are %s; name another one by its number",
		q.Port, a.Service, cmp.Or(strings.Join(redirected, ", "), "none"))
}

// authority is what clients write for the port, as a URL has it.
func (a *Answer) authority(s model.ServiceKey) string {
	if a.Port == 0 || a.Port == 80 {
		return hostOf(s)
	}
	return fmt.Sprintf("%s:%d", hostOf(s), a.Port)
}

func hostOf(s model.ServiceKey) string { return s.Name + "." + s.Namespace }

// unrouted stands for a port that no route has.
func (a *Answer) unrouted() *model.Port { return &model.Port{Number: a.Port} }

// untouched tells why nothing is redirected.
func (a *Answer) untouched() string {
	what := "Service " + a.Service
	if a.service != nil {
		what = fmt.Sprintf("port %d of Service %s", a.Port, a.Service)
	}
	return fmt.Sprintf("no route applies to %s, if there is one: connections to it are not redirected, and pass as without Sluice", what)
}

func describeRequest(r *message.Request) string {
	target, fields := r.Method+" "+r.Path, slices.Clone(r.Fields)
	if r.HasQuery {
		target += "?" + r.Query
	}
	if r.IsGRPC() {
		target = "gRPC call " + r.Path
		fields.Del("content-type")
	}
	return target + " to host " + r.Authority + describeFields(fields)
}

func describeFields(fields message.Fields) string {
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, ", %s: %s", f.Name, f.Value)
	}
	return b.String()
}

// decide fills in what the table makes of the request.
func (a *Answer) decide(v *inforce.View, t *model.RouteTable, e router.Explanation, r *message.Request) {
	a.Others = append(losers(t, e), a.Others...)
	grpc := r.IsGRPC()
	switch {
	case e.NoCall:
		a.Applies = false
		a.Outcome = append(a.Outcome,
			"answered 404: the port's routes are GRPCRoutes, and this is no call of gRPC, which has method POST and content-type application/grpc")
		return
	case e.Rule < 0:
		a.Applies = false
		a.Outcome = append(a.Outcome, fmt.Sprintf("answered %s: no rule matches", answered(404, grpc)))
		return
	}
	rule := &t.Rules[e.Rule]
	a.Winner = &Winner{Route: rule.Route, Match: describeMatch(&rule.Matches[e.Match]), Rule: describeRule(v, rule, grpc)}
	if rule.Fail == nil {
		a.Outcome = append(a.Outcome, a.filtered(rule, r)...)
	}
}

// filtered runs the rule's filters, and tells what they answer, or what of the request's target they change.
func (a *Answer) filtered(rule *model.Rule, r *message.Request) []string {
	chain, err := filter.Compile(rule.Filters)
	if err != nil { // refused by the proxy's validation too
		return []string{fmt.Sprintf("its filters cannot be run: %v", err)}
	}
	before := *r
	var s filter.Scratch
	in := filter.Input{Host: hostOf(a.service.ServiceKey), Port: a.Port}
	reply, answered := chain.Request(r, in, &s)
	if answered {
		return []string{fmt.Sprintf("answered %d by a filter%s, so no backend gets it", reply.Status, describeFields(reply.Fields))}
	}
	if r.Path != before.Path || r.Authority != before.Authority {
		return []string{fmt.Sprintf("a backend sees path %s and host %s, if its own filters do not change that", quote(r.Path), r.Authority)}
	}
	return nil
}

// String is the answer for people.
func (a *Answer) String() string {
	t := &text.Page{}
	t.Line(0, "From %s", a.Source)
	t.Blank()
	where := "Service " + a.Service
	if a.Port != 0 {
		where += fmt.Sprintf(", port %d", a.Port)
	}
	t.Line(0, "%s, from %s to %s:", a.Request, a.Client, where)
	for _, n := range a.Notes {
		t.Line(2, "note: %s", n)
	}
	if w := a.Winner; w != nil {
		t.Line(2, "%s, %s wins: %s", w.Route, label(w.Index, w.Name), w.Match)
		t.Lines(4, a.Outcome)
		w.write(t, 4)
	} else {
		t.Lines(2, a.Outcome)
	}
	if len(a.Others) > 0 {
		t.Blank()
		t.Line(0, "Why no other:")
	}
	for _, o := range a.Others {
		o.write(t)
	}
	t.List("Problems:", a.Problems)
	return t.String()
}
