package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Compiler derives one result after the other. What a step of the compilation gave for the last set it keeps, together
// with what the step asked for; only steps that would get another answer now are taken again, and what they give is
// replaced only where it differs. The result is that of Compile. A Compiler is not for concurrent use.
type Compiler struct {
	opts Options
	work Work
	pass uint64

	index   *index
	asking  reader
	routes  map[model.RouteRef]*route
	order   []*route                           // in the order of precedence
	byName  []*route                           // in the order of the statuses
	parents map[model.ServiceKey][]*attachment // by Service, in the order of precedence
	units   map[model.ServiceKey]*unit
	needed  []model.EndpointsKey // by the units; sorted, each once
	sets    map[model.EndpointsKey]*endpointSet
	result  *Result
}

// endpointSet is what follows for one port of a backend.
type endpointSet struct {
	set   *model.EndpointSet
	asked []question
}

// Work is how many of each were compiled.
type Work struct {
	Routes    int // read, with all that does not depend on other objects
	Parents   int // of routes: backends resolved
	Services  int
	Endpoints int // sets
	Statuses  int // of routes
}

// New makes a Compiler that has seen nothing.
func New(opts Options) *Compiler {
	return &Compiler{
		opts: opts, index: &index{set: &objects.Set{}}, result: &Result{Flags: map[netip.AddrPort]Flags{}},
		routes: map[model.RouteRef]*route{}, units: map[model.ServiceKey]*unit{}, sets: map[model.EndpointsKey]*endpointSet{},
	}
}

// Work is what the last Compile did.
func (c *Compiler) Work() Work { return c.work }

// Compile derives the result. It does not edit the objects, which nobody may edit afterwards.
func (c *Compiler) Compile(in *objects.Set) *Result {
	c.pass++
	c.work = Work{}
	before := c.index
	c.index = newIndex(in, before)
	changed := c.index.changesSince(before)

	routes := c.readRoutes(in, before.set)
	if c.attach(changed) || routes {
		c.group()
	}
	units, needs := c.compileUnits(changed)
	if needs {
		c.collectNeeds()
	}
	sets := c.compileSets(changed) || needs
	statuses := c.compileStatuses() || routes
	c.collect(units, sets, statuses)
	return c.result
}

// collect makes the result anew where there is something else to tell.
func (c *Compiler) collect(units, sets, statuses bool) {
	if !units && !sets && !statuses {
		return
	}
	next := *c.result
	if units {
		c.collectUnits(&next)
	}
	if sets {
		c.collectSets(&next)
	}
	if statuses {
		c.collectStatuses(&next)
	}
	if !next.equal(c.result) {
		c.result = &next
	}
}

// equal says whether two results are the same; the lists of both were kept where they could be.
func (r *Result) equal(o *Result) bool {
	return sameSlice(r.Services, o.Services) && sameSlice(r.Endpoints, o.Endpoints) && sameSlice(r.Statuses, o.Statuses) &&
		sameSlice(r.Events, o.Events) && sameSlice(r.Warnings, o.Warnings) && maps.Equal(r.Flags, o.Flags)
}

// reader is for one step. What it asked is to be cloned: the next step writes over it.
func (c *Compiler) reader() *reader {
	c.asking = reader{opts: &c.opts, index: c.index, asked: c.asking.asked[:0]}
	return &c.asking
}

// readRoutes reads the routes that are new or differ, and puts all in order. It tells whether there are others than before.
func (c *Compiler) readRoutes(in, last *objects.Set) bool {
	if sameSlice(in.HTTPRoutes, last.HTTPRoutes) && sameSlice(in.GRPCRoutes, last.GRPCRoutes) {
		return false
	}
	var fresh []*route
	fresh = readEach(c, fresh, kindHTTPRoute, in.HTTPRoutes, sameHTTPRoute, readHTTPRoute)
	fresh = readEach(c, fresh, kindGRPCRoute, in.GRPCRoutes, sameGRPCRoute, readGRPCRoute)
	c.work.Routes = len(fresh)
	before := len(c.order)
	c.order = c.update(c.order, fresh, comparePrecedence)
	c.byName = c.update(c.byName, fresh, func(a, b *route) int { return compareRefs(a.ref, b.ref) })
	if len(c.order) != len(c.routes) {
		maps.DeleteFunc(c.routes, func(_ model.RouteRef, r *route) bool { return r.seen != c.pass })
	}
	return len(fresh) > 0 || len(c.order) != before
}

// routeObject is an object of any kind of route.
type routeObject interface {
	comparable
	GetNamespace() string
	GetName() string
}

// readEach appends those that are not as before. Of two that have one name the last counts.
func readEach[T routeObject](c *Compiler, fresh []*route, kind string, all []T, same func(a, b T) bool, read func(T) *route) []*route {
	for _, o := range all {
		ref := model.RouteRef{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
		r := c.routes[ref]
		if r == nil || r.object != any(o) && !same(r.object.(T), o) {
			old := r
			r = read(o)
			if old != nil {
				old.seen = 0
				r.status, r.events = old.status, old.events // they may be the same again
			}
			c.routes[ref] = r
			fresh = append(fresh, r)
		}
		r.object, r.seen = o, c.pass
	}
	return fresh
}

// update replaces those that are gone by those that are fresh.
func (c *Compiler) update(list, fresh []*route, compare func(a, b *route) int) []*route {
	list = slices.DeleteFunc(append(list, fresh...), func(r *route) bool { return r.seen != c.pass })
	if len(fresh) > 0 {
		slices.SortFunc(list, compare)
	}
	return list
}

// comparePrecedence puts first the route that wins against equals: the oldest, then by "namespace/name".
func comparePrecedence(a, b *route) int {
	return cmp.Or(
		a.created.Compare(b.created),
		cmp.Compare(a.fullName, b.fullName),
		cmp.Compare(a.ref.Kind, b.ref.Kind), // they never meet in a table
	)
}

// attach resolves the parentRefs that are new, and those which asked for something that changed. It tells whether there were any.
func (c *Compiler) attach(changed *changes) bool {
	for _, r := range c.order {
		if r.attached {
			for i, a := range r.parents {
				if changed.any(a.asked) {
					r.parents[i] = c.attachment(r, a.ref)
				}
			}
			continue
		}
		r.attached = true
		for i := range r.parentRefs {
			if ref := &r.parentRefs[i]; isService(ref) { // else it is none of ours (A-13, S-8)
				r.parents = append(r.parents, c.attachment(r, ref))
			}
		}
	}
	return c.work.Parents > 0
}

func (c *Compiler) attachment(r *route, ref *gatewayv1.ParentReference) *attachment {
	c.work.Parents++
	r.told = false
	return attach(c.reader(), r, ref)
}

// group finds the attachments of each Service.
func (c *Compiler) group() {
	c.parents = make(map[model.ServiceKey][]*attachment, len(c.parents))
	for _, r := range c.order {
		for _, a := range r.parents {
			c.parents[a.service] = append(c.parents[a.service], a)
		}
	}
}

// compileUnits compiles the Services that have other attachments than before, or asked for something that changed. It tells
// whether there are other units than before, and whether they name other endpoints.
func (c *Compiler) compileUnits(changed *changes) (others, needs bool) {
	for _, key := range c.index.keys {
		before := c.units[key]
		if before != nil && !changed.any(before.asked) && slices.Equal(before.parents, c.parents[key]) {
			continue
		}
		c.work.Services++
		settleKinds(c.parents[key])
		q := c.reader()
		u := q.unit(key, c.parents[key])
		u.asked = slices.Clone(q.asked)
		if before != nil && reflect.DeepEqual(before.service, u.service) {
			u.service = before.service
		}
		others = others || before == nil || !before.equal(u)
		needs = needs || before == nil || !slices.Equal(before.needs, u.needs)
		c.units[key] = u
	}
	if len(c.units) != len(c.index.keys) {
		others, needs = true, true
		maps.DeleteFunc(c.units, func(key model.ServiceKey, _ *unit) bool { return c.index.services[key] == nil })
	}
	return others, needs
}

// collectNeeds finds out which endpoints the units name.
func (c *Compiler) collectNeeds() {
	named := make(map[model.EndpointsKey]bool, len(c.needed))
	for _, u := range c.units {
		for _, k := range u.needs {
			named[k] = true
		}
	}
	c.needed = slices.SortedFunc(maps.Keys(named), model.EndpointsKey.Compare)
	maps.DeleteFunc(c.sets, func(k model.EndpointsKey, _ *endpointSet) bool { return !named[k] })
}

func (c *Compiler) collectUnits(into *Result) {
	into.Services, into.Warnings, into.Flags = nil, nil, map[netip.AddrPort]Flags{}
	for _, key := range c.index.keys {
		u := c.units[key]
		into.Warnings = append(into.Warnings, u.warnings...)
		if len(u.service.Ports) > 0 {
			into.Services = append(into.Services, u.service)
			maps.Copy(into.Flags, u.flags)
		}
	}
	keep(&into.Services, c.result.Services)
	keep(&into.Warnings, c.result.Warnings)
}

// compileSets compiles the endpoints that are needed and not there, and those which asked for something that changed. It tells
// whether there are others than before.
func (c *Compiler) compileSets(changed *changes) bool {
	others := false
	for _, key := range c.needed {
		e := c.sets[key]
		if e != nil && !changed.any(e.asked) {
			continue
		}
		c.work.Endpoints++
		q := c.reader()
		next := &endpointSet{set: q.endpoints(key)}
		next.asked = slices.Clone(q.asked)
		if e != nil && reflect.DeepEqual(e.set, next.set) {
			next.set = e.set
		} else {
			others = true
		}
		c.sets[key] = next
	}
	return others
}

func (c *Compiler) collectSets(into *Result) {
	into.Endpoints = slices.Grow([]*model.EndpointSet(nil), len(c.needed))
	for _, key := range c.needed {
		into.Endpoints = append(into.Endpoints, c.sets[key].set)
	}
	keep(&into.Endpoints, c.result.Endpoints)
}

// keep keeps a list that has become the same again.
func keep[T comparable](list *[]T, before []T) {
	if slices.Equal(*list, before) {
		*list = before
	}
}

// compileStatuses derives the statuses and events of the routes that need it. It tells whether there are others than before.
func (c *Compiler) compileStatuses() bool {
	others := false
	for _, r := range c.order {
		if r.told {
			continue
		}
		r.told = true
		if len(r.parents) == 0 {
			continue
		}
		c.work.Statuses++
		status, events := r.compileStatus(c.opts.ControllerName), r.compileEvents()
		if !reflect.DeepEqual(status, r.status) || !slices.Equal(events, r.events) {
			r.status, r.events, others = status, events, true
		}
	}
	return others
}

func (c *Compiler) collectStatuses(into *Result) {
	into.Statuses, into.Events = nil, nil
	for _, r := range c.byName {
		if len(r.parents) > 0 {
			if into.Statuses == nil {
				into.Statuses = make([]RouteStatus, 0, len(c.byName))
			}
			into.Statuses = append(into.Statuses, r.status)
			into.Events = append(into.Events, r.events...)
		}
	}
	keep(&into.Events, c.result.Events)
	if slices.EqualFunc(into.Statuses, c.result.Statuses, func(a, b RouteStatus) bool { return a.Route == b.Route && sameSlice(a.Parents, b.Parents) }) {
		into.Statuses = c.result.Statuses // what differs was made anew with its parents
	}
}
