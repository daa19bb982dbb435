package compile

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// A step of the compilation sees other objects than its own through a reader only. What it asked there is kept beside its
// outcome, which holds until one of the answers changes; that there is nothing is an answer too. So nothing has to know
// what depends on what.

// topic is what a question is about.
type topic uint8

const (
	aboutService topic = iota
	aboutSlices        // those of a Service
	aboutGrants        // those of a namespace
	aboutOwner         // of a cluster IP
)

// question is what a step asked. What it is not about is zero.
type question struct {
	about   topic
	key     model.ServiceKey // for grants only its namespace
	address netip.Addr
}

// reader answers the questions of one step, and keeps them.
type reader struct {
	opts  *Options
	index *index
	asked []question
}

func (r *reader) ask(q question) {
	if !slices.Contains(r.asked, q) {
		r.asked = append(r.asked, q)
	}
}

// service is nil where there is none.
func (r *reader) service(key model.ServiceKey) *corev1.Service {
	r.ask(question{about: aboutService, key: key})
	return r.index.services[key]
}

func (r *reader) slices(of model.ServiceKey) sliceList {
	r.ask(question{about: aboutSlices, key: of})
	return r.index.slices[of]
}

func (r *reader) grants(namespace string) grantList {
	r.ask(question{about: aboutGrants, key: model.ServiceKey{Namespace: namespace}})
	return r.index.grants[namespace]
}

func (r *reader) owner(a netip.Addr) model.ServiceKey {
	r.ask(question{about: aboutOwner, address: a})
	return r.index.owners[a]
}

// changes are the questions whose answers differ between two indexes.
type changes struct {
	about   [aboutOwner + 1]bool // whether there are any of a topic: most steps need not look further
	answers map[question]bool
}

func (c *changes) add(q question) { c.about[q.about], c.answers[q] = true, true }

// any says whether one of the answers changed.
func (c *changes) any(asked []question) bool {
	return slices.ContainsFunc(asked, func(q question) bool { return c.about[q.about] && c.answers[q] })
}

// changesSince compares two indexes. Objects are compared by identity: one that was edited is another.
func (ix *index) changesSince(before *index) *changes {
	c := &changes{answers: map[question]bool{}}
	if !sameSlice(before.set.Services, ix.set.Services) {
		differing(before.services, ix.services, same, func(k model.ServiceKey) { c.add(question{about: aboutService, key: k}) })
		differing(before.owners, ix.owners, same, func(a netip.Addr) { c.add(question{about: aboutOwner, address: a}) })
	}
	if !sameSlice(before.set.EndpointSlices, ix.set.EndpointSlices) {
		differing(before.slices, ix.slices, slices.Equal, func(k model.ServiceKey) { c.add(question{about: aboutSlices, key: k}) })
	}
	if !sameSlice(before.set.ReferenceGrants, ix.set.ReferenceGrants) {
		differing(before.grants, ix.grants, slices.Equal, func(n string) {
			c.add(question{about: aboutGrants, key: model.ServiceKey{Namespace: n}})
		})
	}
	return c
}

func same[T comparable](a, b T) bool { return a == b }

// differing calls found with each key that two maps have different values for, or that only one has.
func differing[K comparable, V any](before, now map[K]V, equal func(a, b V) bool, found func(K)) {
	for k, v := range now {
		if was, is := before[k]; !is || !equal(was, v) {
			found(k)
		}
	}
	for k := range before {
		if _, is := now[k]; !is {
			found(k)
		}
	}
}
