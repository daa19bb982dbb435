// Package routes proves what routes with a Service for their parent do: for each test that the Gateway API has for Gateways
// an east-west twin, and the edge cases that no official test looks at. The cases are data, in cases/: objects, requests
// that a pod sends, and everything that is to come of them. They know nothing of what runs them, which is a Runner.
package routes

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

// Case is one twin or edge case. It has a namespace of its own, called $ns in its texts, with the Services of base.yaml.
type Case struct {
	Name     string         `yaml:"case"`     // that of the north-south test, or of what is proved
	What     string         `yaml:"what"`     // in a few words
	Rules    []string       `yaml:"rules"`    // ids of the rules that it proves
	Features []string       `yaml:"features"` // ids in features.yaml
	Wants    string         `yaml:"wants"`    // what it needs that runners do not have yet; "": it runs
	Echo     map[string]any `yaml:"echo"`     // laid over the spec of the parent Service
	Apply    `yaml:",inline"`
	Steps    []Step `yaml:"steps"`

	Namespace string `yaml:"-"`
}

// Apply is what is to be there.
type Apply struct {
	Routes  []Route          `yaml:"routes"`
	Objects []map[string]any `yaml:"objects"` // whole objects; apiVersion and namespace may be left out
}

// Route is a route without what most have alike.
type Route struct {
	Kind        string           `yaml:"kind"`      // default HTTPRoute
	Name        string           `yaml:"name"`      // default route
	Namespace   string           `yaml:"namespace"` // default $ns
	Created     string           `yaml:"created"`
	Annotations map[string]any   `yaml:"annotations"`
	Hostnames   []string         `yaml:"hostnames"`
	Parents     []map[string]any `yaml:"parents"` // default: port 80 of Service echo
	Rules       []map[string]any `yaml:"rules"`
}

// Step is a change, or something to look at. What is looked at between two changes has to be right all together.
type Step struct {
	Apply  *Apply   `yaml:"apply"`
	Delete []string `yaml:"delete"` // "Kind/name", of $ns, or "Kind/namespace/name"
	Status *Status  `yaml:"status"`
	Send   *Send    `yaml:"send"`
	Want   *Want    `yaml:"want"`
}

// Status is what a route's status has to say. Accepted and ResolvedRefs are true where they are not named.
type Status struct {
	Route        string         `yaml:"route"`   // "Kind/name" or "Kind/namespace/name"
	Parent       int            `yaml:"parent"`  // index in the route's parentRefs, of those that are ours
	None         bool           `yaml:"none"`    // the route has no status of ours
	Parents      int            `yaml:"parents"` // that there is a status for; 0: any number
	Accepted     string         `yaml:"accepted"`
	ResolvedRefs string         `yaml:"resolvedRefs"`
	Partially    string         `yaml:"partiallyInvalid"`
	Says         []string       `yaml:"says"`       // words of the messages
	ParentRef    map[string]any `yaml:"parentRef"`  // exactly
	Generation   int64          `yaml:"generation"` // at least
}

// Send is a request.
type Send struct {
	From     string        `yaml:"from"`  // pod; default client
	To       string        `yaml:"to"`    // "service:port", "service.namespace:port", or "pod/name:port"; default echo:80
	Over     string        `yaml:"over"`  // ipv6; default IPv4
	Proto    string        `yaml:"proto"` // http/1.1 (default), http/2, grpc, websocket or tcp
	Method   string        `yaml:"method"`
	Path     string        `yaml:"path"`
	Host     string        `yaml:"host"` // default: the Service's name
	Headers  []string      `yaml:"headers"`
	Do       string        `yaml:"do"` // what the backend is to do: see package echo
	Body     string        `yaml:"body"`
	Size     int           `yaml:"size"` // of the body, where it does not matter what is in it
	Trailers []string      `yaml:"trailers"`
	Count    int           `yaml:"count"`
	Workers  int           `yaml:"workers"`
	Pause    time.Duration `yaml:"pause"`
	Patience time.Duration `yaml:"patience"`
}

// Want is what every answer to a request has to be.
type Want struct {
	Status     Statuses           `yaml:"status"`  // any of them; default 200
	GRPC       *int               `yaml:"grpc"`    // default for calls: 0
	Backend    string             `yaml:"backend"` // expression
	Saw        *Saw               `yaml:"saw"`
	Headers    map[string]string  `yaml:"headers"` // as match describes
	Absent     []string           `yaml:"absent"`
	Trailers   map[string]string  `yaml:"trailers"`
	Location   string             `yaml:"location"`
	Body       string             `yaml:"body"`       // expression
	Error      string             `yaml:"error"`      // expression; the answer does not come, or not whole
	Backends   map[string]int     `yaml:"backends"`   // shares in percent
	Copies     map[string]Copies  `yaml:"copies"`     // what mirrors have to have seen; pods that are not named saw none
	Tries      map[string]int     `yaml:"tries"`      // how often a backend saw a request
	Sticky     bool               `yaml:"oneBackend"` // all answers are of one
	Balanced   []string           `yaml:"balanced"`   // each of these pods has a part of the requests
	AtLeast    time.Duration      `yaml:"atLeast"`    // that it took
	AtMost     time.Duration      `yaml:"atMost"`     // generous: the machine is shared
	Interim    []int              `yaml:"interim"`    // statuses before the last
	PerBackend map[string]Matched `yaml:"perBackend"` // what each backend has to have seen, by its name
}

// Matched is what the backend of that name saw.
type Matched struct {
	Headers map[string]string `yaml:"headers"`
	Absent  []string          `yaml:"absent"`
}

// Saw is what the backend has to have seen.
type Saw struct {
	Path     string            `yaml:"path"`
	Host     string            `yaml:"host"`
	Method   string            `yaml:"method"`
	Proto    string            `yaml:"proto"` // HTTP/1.1 or HTTP/2.0
	Port     int               `yaml:"port"`
	Client   string            `yaml:"client"` // pod whose address it came from
	Headers  map[string]string `yaml:"headers"`
	Absent   []string          `yaml:"absent"`
	Trailers map[string]string `yaml:"trailers"`
	Bytes    *int              `yaml:"bytes"`
}

// Copies are those of mirrors.
type Copies struct {
	Percent float64 `yaml:"percent"` // of the requests; default 100
	Saw     *Saw    `yaml:"saw"`
}

// Statuses are the ones that will do.
type Statuses []int

// UnmarshalYAML reads one number or a list.
func (s *Statuses) UnmarshalYAML(n *yaml.Node) error {
	var one int
	if err := n.Decode(&one); err == nil {
		*s = Statuses{one}
		return nil
	}
	var all []int
	if err := n.Decode(&all); err != nil {
		return fmt.Errorf("line %d: a status is a number or a list of them", n.Line)
	}
	*s = all
	return nil
}

// Key names an object.
type Key struct{ Kind, Namespace, Name string }

func (k Key) String() string { return k.Kind + " " + k.Namespace + "/" + k.Name }

// Object is an object as YAML has it.
type Object struct {
	Key
	Content map[string]any
}
