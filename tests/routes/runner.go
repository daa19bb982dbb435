package routes

import (
	"context"

	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

// Runner is where cases run: namespaces of one machine, or a cluster. It has the pods v1, v2, v3 and bad, which are backends, and
// the clients client and consumer, each in a namespace of its name. Its methods may be called at the same time.
type Runner interface {
	// Pods are the addresses of all pods.
	Pods() map[string]Addresses
	// Apply creates objects, or replaces them, and gives Services addresses as a cluster would. It returns when what
	// decides about them has seen them.
	Apply(ctx context.Context, objects []Object) error
	// Delete is Apply for objects that go.
	Delete(ctx context.Context, keys []Key) error
	// Status is what the status of a route says; nil: it has none.
	Status(ctx context.Context, route Key) (*RouteStatus, error)
	// ServiceAddress is the Service's address of the family. Somebody is about to send something to that port of it.
	ServiceAddress(namespace, name string, port int, ipv6 bool) (string, error)
	// Send makes a pod send a request.
	Send(ctx context.Context, pod string, r *echo.Request) ([]echo.Answer, error)
	// Seen is what a backend saw of a nonce.
	Seen(ctx context.Context, pod, nonce string) ([]echo.Saw, error)
}

// RouteStatus is the part of a route's status that is the mesh's own.
type RouteStatus struct {
	Generation int64 // of the route
	Parents    []ParentStatus
}

// ParentStatus is what is said about one parent.
type ParentStatus struct {
	ParentRef      map[string]any `json:"parentRef"`
	ControllerName string         `json:"controllerName"`
	Conditions     []Condition    `json:"conditions"`
}

// Condition is one condition.
type Condition struct {
	Type               string `json:"type"`
	Status             string `json:"status"`
	Reason             string `json:"reason"`
	Message            string `json:"message"`
	ObservedGeneration int64  `json:"observedGeneration"`
}
