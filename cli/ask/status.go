package ask

import (
	"net/netip"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Status is what of an agent's /status is of use here. What an older agent does not say is zero.
type Status struct {
	Node      string
	Version   string
	Liveness  Liveness
	Kernel    Kernel
	Proxies   []Proxy
	Pods      []Pod
	Frontends []Frontend
	Routes    []compile.RouteStatus
	Events    []string
	Problems  []string
	Warnings  []string
	CNI       *CNI
}

// Liveness says whether connections are steered to a proxy.
type Liveness struct{ State, Reason string }

// Kernel is the state of the redirect.
type Kernel struct {
	InStep   bool
	Problem  string
	Bypass   *bool // nil: the agent does not say
	Counters map[string]uint64
}

// Proxy is one that is registered with the agent.
type Proxy struct {
	PID     int
	State   string
	Version string
	Refused []model.Refusal
}

// Pod is one of the node's, enrolled or not.
type Pod struct {
	Pod    string // NAMESPACE/NAME
	State  string // serving, waiting, failed, ending or excluded
	Reason string
	// EnrolledBy is how an enrolled pod was found: plugin, found, running, predecessor or name.
	EnrolledBy string
	// UnenrolledSeconds is for how long it ran, and was to be enrolled, without being served.
	UnenrolledSeconds float64
}

// Frontend is an address that is to be redirected.
type Frontend struct {
	Address    netip.AddrPort
	Service    model.ServiceKey
	FailClosed bool
	InKernel   bool
}

// CNI is the state of the installer of the CNI plugin.
type CNI struct{ File, State, Problem string }

// State is what of a proxy's /config is of use here: the model in force, in which Services and sets are written as text.
type State struct {
	Services []struct {
		Service string
		Ports   []struct {
			model.Port
			Default string `json:"default"`
			Tables  []struct {
				model.RouteTable
				Namespace string `json:"namespace"`
			}
		}
	}
	Endpoints []struct {
		model.EndpointSet
		Set string `json:"set"`
	}
	Refused []model.Refusal
}
