package model

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// What the Validate methods check is what the proxy relies on; a unit that passes can be compiled and served. The first
// mistake is returned, with its path in the unit's JSON form, as in "ports[0].producer.rules[2].matches[0].headers[1]: ...".

// MaxWeight is the largest weight of a backend, as the API has it.
const MaxWeight = 1_000_000

// Validate tells what in the Service the proxy cannot work with.
func (s *Service) Validate() error {
	if err := checkKey(s.Namespace, s.Name); err != nil {
		return err
	}
	numbers, ids, addresses := map[uint16]bool{}, map[uint32]bool{}, map[netip.AddrPort]bool{}
	for i := range s.Ports {
		p := &s.Ports[i]
		path := fmt.Sprintf("ports[%d]", i)
		switch {
		case p.Number == 0:
			return under(path, mistake("number", "0 is no port"))
		case numbers[p.Number]:
			return under(path, mistake("number", "port %d is there twice", p.Number))
		}
		numbers[p.Number] = true
		for j, f := range p.Frontends {
			at := fmt.Sprintf("frontends[%d]", j)
			address := netip.AddrPortFrom(f.Address, p.Number)
			if err := f.validate(); err != nil {
				return under(path, under(at, err))
			}
			if ids[f.ID] {
				return under(path, under(at, mistake("id", "%d is that of another frontend of the Service", f.ID)))
			}
			if addresses[address] {
				return under(path, under(at, mistake("address", "%s is there twice", address)))
			}
			ids[f.ID], addresses[address] = true, true
		}
		if err := p.validate(s.ServiceKey); err != nil {
			return under(path, err)
		}
	}
	return nil
}

func (f Frontend) validate() error {
	if f.ID == 0 || f.ID > MaxFrontendID {
		return mistake("id", "%d is not in 1 to %d", f.ID, MaxFrontendID)
	}
	return under("address", checkAddress(f.Address))
}

// validate checks what belongs to the port alone.
func (p *Port) validate(owner ServiceKey) error {
	if want := (EndpointsKey{owner.Namespace, owner.Name, p.Number}); p.Default != want {
		return mistake("default", "%s are not the Service's own endpoints: want %s", p.Default, want)
	}
	if p.Producer != nil {
		if err := p.Producer.validate(); err != nil {
			return under("producer", err)
		}
	}
	for _, ns := range slices.Sorted(maps.Keys(p.Consumers)) {
		path := fmt.Sprintf("consumers[%q]", ns)
		switch t := p.Consumers[ns]; {
		case !isName(ns):
			return mistake(path, "%q is no namespace", ns)
		case ns == owner.Namespace: // such a route is a producer's
			return mistake(path, "the Service's own namespace has no consumer routes")
		case t == nil:
			return mistake(path, "there is no table")
		default:
			if err := t.validate(); err != nil {
				return under(path, err)
			}
		}
	}
	return nil
}

func (t *RouteTable) validate() error {
	for i := range t.Rules {
		if err := t.Rules[i].validate(t.GRPC); err != nil {
			return under(fmt.Sprintf("rules[%d]", i), err)
		}
	}
	return nil
}

func (r *Rule) validate(grpc bool) error {
	everything := `path prefix "/"`
	if grpc {
		everything = "an empty rpc"
	}
	switch {
	case r.Route.Kind == "" || !isName(r.Route.Namespace) || !isName(r.Route.Name):
		return mistake("route", "%q names no route", r.Route)
	case r.Index < 0:
		return mistake("index", "%d is negative", r.Index)
	case len(r.Matches) == 0:
		return mistake("matches", "there are none: %s matches everything", everything)
	case r.Fail != nil && (r.Fail.Status < 400 || r.Fail.Status > 599):
		return mistake("fail.status", "%d is no error: want 400 to 599", r.Fail.Status)
	}
	for i := range r.Matches {
		if err := r.Matches[i].validate(grpc); err != nil {
			return under(fmt.Sprintf("matches[%d]", i), err)
		}
	}
	if err := r.validatePolicies(grpc); err != nil {
		return err
	}
	if err := validateFilters(r.Filters, grpc, false); err != nil {
		return err
	}
	for i := range r.Backends {
		if err := r.Backends[i].validate(grpc); err != nil {
			return under(fmt.Sprintf("backends[%d]", i), err)
		}
	}
	return nil
}

func (b *Backend) validate(grpc bool) error {
	if b.Weight > MaxWeight {
		return mistake("weight", "%d is more than %d", b.Weight, MaxWeight)
	}
	if b.Invalid == "" {
		if err := b.Endpoints.validate(); err != nil {
			return under("endpoints", err)
		}
	}
	return validateFilters(b.Filters, grpc, true)
}

func (k EndpointsKey) validate() error {
	if k.Port == 0 {
		return mistake("port", "0 is no port")
	}
	return checkKey(k.Namespace, k.Name)
}

// Validate tells what in the set the proxy cannot work with. A set without endpoints is in order (B-7).
func (s *EndpointSet) Validate() error {
	if err := s.EndpointsKey.validate(); err != nil {
		return err
	}
	seen := make(map[netip.AddrPort]bool, len(s.Endpoints))
	for i := range s.Endpoints {
		a := s.Endpoints[i].Address
		err := checkAddress(a.Addr())
		switch {
		case err != nil:
		case a.Port() == 0:
			err = mistake("", "0 is no port")
		case seen[a]:
			err = mistake("", "%s is there twice", a)
		}
		if err != nil {
			return under(fmt.Sprintf("endpoints[%d].address", i), err)
		}
		seen[a] = true
	}
	return nil
}

// Validate tells what in the pod the proxy cannot work with.
func (p *Pod) Validate() error {
	if p.UID == "" {
		return mistake("uid", "it is empty")
	}
	return checkKey(p.Namespace, p.Name)
}

func checkKey(namespace, name string) error {
	if !isName(namespace) {
		return mistake("namespace", "%q is no name of a namespace", namespace)
	}
	if !isName(name) {
		return mistake("name", "%q is no name of an object", name)
	}
	return nil
}

// isName tells whether s can be the name of an object in Kubernetes: a DNS subdomain, roughly. It rules out what would
// make "namespace/name" ambiguous.
func isName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	})
}

// checkAddress: an address that is written in two ways would be two addresses, and a zone means nothing in another
// namespace.
func checkAddress(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return mistake("", "there is no address")
	case a.IsUnspecified() || a.IsMulticast():
		return mistake("", "%s is no address to connect to", a)
	case a.Is4In6():
		return mistake("", "%s is an IPv4 address: want %s", a, a.Unmap())
	case a.Zone() != "":
		return mistake("", "%s has a zone", a)
	}
	return nil
}

func checkExpression(at, value string) error {
	if _, err := regexp.Compile(value); err != nil {
		return mistake(at, "%v", err)
	}
	return nil
}

// fieldError is a mistake and where it is.
type fieldError struct{ path, what string }

func (e *fieldError) Error() string {
	if e.path == "" {
		return e.what
	}
	return e.path + ": " + e.what
}

func mistake(path, format string, args ...any) error {
	return &fieldError{path, fmt.Sprintf(format, args...)}
}

// under puts path before where a mistake is.
func under(path string, err error) error {
	inner, ok := errors.AsType[*fieldError](err)
	switch {
	case err == nil:
		return nil
	case !ok:
		return &fieldError{path, err.Error()}
	case inner.path == "":
		return &fieldError{path, inner.what}
	}
	return &fieldError{path + "." + inner.path, inner.what}
}
