// Package model is what the proxy is told: plain data, compiled by the agent from
// Kubernetes objects and from nothing else. Everything the proxy does is derived from it.
//
// Values are immutable once built: whoever receives one shares it and never edits it.
// The package imports the standard library only, so that neither side drags the other's
// dependencies along.
package model

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
)

// ServiceKey names a Kubernetes Service. It is also the key of the unit of change.
type ServiceKey struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func (k ServiceKey) String() string { return k.Namespace + "/" + k.Name }

// Compare orders keys by namespace, then name.
func (k ServiceKey) Compare(o ServiceKey) int {
	return cmp.Or(cmp.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Name, o.Name))
}

// Service is the unit of change: one Service that has routes, with everything that traffic
// addressed to it needs. It is validated, refused and swapped as a whole.
type Service struct {
	ServiceKey
	Ports []Port `json:"ports"`
}

// Port is one TCP port of the Service's frontend (GEP-1294: a route binds to the frontend, A-30).
type Port struct {
	Number      uint16     `json:"number"`
	Name        string     `json:"name,omitempty"`
	AppProtocol string     `json:"appProtocol,omitempty"` // as the Service has it
	Frontends   []Frontend `json:"frontends"`             // one for each ClusterIP

	// Default names the Service's own endpoints: where traffic goes that no table applies to
	// (another kind of bytes, A-110; or the last route has just been deleted).
	Default EndpointsKey `json:"default"`

	// Producer serves every client whose namespace has no table of its own in Consumers.
	// nil: no producer route binds to the port.
	Producer *RouteTable `json:"producer,omitempty"`
	// Consumers are keyed by the client pod's namespace; a table there replaces Producer.
	Consumers map[string]*RouteTable `json:"consumers,omitempty"`
}

// Table returns the table that applies to a client of the given namespace, or nil when none does:
// then the traffic goes to Default as without a mesh.
func (p *Port) Table(clientNamespace string) *RouteTable {
	if t, ok := p.Consumers[clientNamespace]; ok {
		return t
	}
	return p.Producer
}

// EndpointSets are the endpoint sets that the Service names: its ports' own, its backends' and its mirrors'. Some come more than
// once.
func (s *Service) EndpointSets() iter.Seq[EndpointsKey] {
	return func(yield func(EndpointsKey) bool) {
		for i := range s.Ports {
			p := &s.Ports[i]
			if !yield(p.Default) || p.Producer != nil && !p.Producer.endpointSets(yield) {
				return
			}
			for _, t := range p.Consumers {
				if !t.endpointSets(yield) {
					return
				}
			}
		}
	}
}

// endpointSets tells whether there may be more of them.
func (t *RouteTable) endpointSets(yield func(EndpointsKey) bool) bool {
	for i := range t.Rules {
		for _, f := range t.Rules[i].Filters {
			if f.Mirror != nil && !yield(f.Mirror.Endpoints) {
				return false
			}
		}
		for _, b := range t.Rules[i].Backends {
			if b.Invalid == "" && !yield(b.Endpoints) {
				return false
			}
		}
	}
	return true
}

// Frontend is one address of a Service port. ID is what the kernel writes into the address that the
// proxy accepts on; 1 to MaxFrontendID, kept across restarts. The compiler leaves it 0, the agent numbers it.
type Frontend struct {
	ID      uint32     `json:"id"`
	Address netip.Addr `json:"address"`
}

// MaxFrontendID is the largest id that fits the host part of the redirect prefix 127.64.0.0/10.
const MaxFrontendID = 1<<22 - 1

// RouteTable holds the rules of one set of routes for one port, in the order that decides between
// equally specific matches: route age, then namespace/name, then the rule's place in its route.
type RouteTable struct {
	// Explicit: a route of the set names this port, so bytes that are no HTTP are an error.
	Explicit bool `json:"explicit,omitempty"`
	// GRPC: the rules are those of GRPCRoutes. Only calls of gRPC match, endpoints speak HTTP/2 whatever their
	// AppProtocol is, and what fails is answered as gRPC answers (B-20 to B-24).
	GRPC  bool   `json:"grpc,omitempty"`
	Rules []Rule `json:"rules"`
}

// RouteRef names the route that a rule came from.
type RouteRef struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func (r RouteRef) String() string { return r.Kind + " " + r.Namespace + "/" + r.Name }

// Rule is one rule of a route. Matches are alternatives and never empty: where the route has none, the
// compiler writes the API's default, path prefix "/" (M-10), or for a GRPCRoute an empty RPC (M-34).
type Rule struct {
	Route    RouteRef  `json:"route"`
	Index    int       `json:"index"` // place in the route, from 0
	Name     string    `json:"name,omitempty"`
	Matches  []Match   `json:"matches"`
	Filters  []Filter  `json:"filters,omitempty"`
	Backends []Backend `json:"backends,omitempty"` // empty: 500 (B-4), unless a filter answers (F-7)
	Timeouts Timeouts  `json:"timeouts,omitzero"`
	Retry    *Retry    `json:"retry,omitempty"` // nil: none (B-56)

	// Fail, when not nil, is what every request of the rule gets: the rule has a filter that is not
	// supported or not resolved, which must not be skipped (F-5, A-44b).
	Fail *Failure `json:"fail,omitempty"`
}

// Failure is an answer that the proxy makes by itself. Status is HTTP's in gRPC tables too; B-25 says what it is in gRPC.
type Failure struct {
	Status int    `json:"status"`
	Reason string `json:"reason"` // plain words for the dump and the log
}

// MatchType says how a value is compared.
type MatchType string

// The match types of the API. Regular expressions are RE2 and anchored at both ends (M-13).
const (
	Exact             MatchType = "Exact"
	PathPrefix        MatchType = "PathPrefix" // paths only, by element (M-12)
	RegularExpression MatchType = "RegularExpression"
)

// Match is one alternative of a rule; all of its conditions have to hold. In a gRPC table each has an RPC and neither Path,
// Method nor Query (M-36); in others none has an RPC.
type Match struct {
	RPC     *RPCMatch    `json:"rpc,omitempty"`
	Path    PathMatch    `json:"path,omitzero"`
	Method  string       `json:"method,omitempty"`  // "": any (M-19)
	Headers []ValueMatch `json:"headers,omitempty"` // names in lower case, no two alike (M-15)
	Query   []ValueMatch `json:"query,omitempty"`   // names case-sensitive, no two alike (M-18)
}

// PathMatch compares the request's path.
type PathMatch struct {
	Type  MatchType `json:"type"`
	Value string    `json:"value"`
}

// RPCMatch compares the service and the method that a call names by its path, "/service/method" (M-30 to M-34).
type RPCMatch struct {
	Type    MatchType `json:"type,omitempty"`    // of both; Exact or RegularExpression, "" only where both are ""
	Service string    `json:"service,omitempty"` // with its package; "": any
	Method  string    `json:"method,omitempty"`  // "": any
}

// ValueMatch compares a named value: a header field or a query parameter.
type ValueMatch struct {
	Name  string    `json:"name"`
	Type  MatchType `json:"type"` // Exact or RegularExpression
	Value string    `json:"value"`
}

// Backend is one weighted choice of a rule. An entry that could not be resolved stays, with its weight:
// its share of the requests is answered 500 (B-2).
type Backend struct {
	Weight    uint32       `json:"weight"`
	Endpoints EndpointsKey `json:"endpoints,omitzero"`
	Invalid   string       `json:"invalid,omitempty"` // why the reference is not usable; plain words
	Filters   []Filter     `json:"filters,omitempty"` // edits and rewrites, run when this backend is chosen (F-6)
}

// EndpointsKey names an endpoint set: one port of one backend Service.
type EndpointsKey struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Port      uint16 `json:"port"`
}

func (k EndpointsKey) String() string { return fmt.Sprintf("%s/%s:%d", k.Namespace, k.Name, k.Port) }

// Compare orders keys by namespace, name, port.
func (k EndpointsKey) Compare(o EndpointsKey) int {
	return cmp.Or(cmp.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Name, o.Name), cmp.Compare(k.Port, o.Port))
}

// EndpointSet is the unit of change of endpoints. A set without endpoints is known and empty: 503 (B-7).
type EndpointSet struct {
	EndpointsKey
	AppProtocol string `json:"appProtocol,omitempty"` // of the backend Service's port
	// Affinity is for how long after its last request a client pod stays with an endpoint; 0: each request chooses anew.
	Affinity  Duration   `json:"affinity,omitempty"`
	Endpoints []Endpoint `json:"endpoints"` // usable ones only, ordered, no two alike
}

// Endpoint is one address that serves a backend.
type Endpoint struct {
	Address netip.AddrPort `json:"address"`
	// Terminating: kept only because no endpoint of the set is ready.
	Terminating bool     `json:"terminating,omitempty"`
	Node        string   `json:"node,omitempty"`
	Zone        string   `json:"zone,omitempty"`
	ForZones    []string `json:"forZones,omitempty"` // hints of the EndpointSlice
	ForNodes    []string `json:"forNodes,omitempty"`
}

// Pod is a client pod that is enrolled: the identity of whoever connects through its listeners.
type Pod struct {
	UID            string `json:"uid"`
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	Workload       string `json:"workload,omitempty"` // what people call its Deployment
	Node           string `json:"node,omitempty"`
}
