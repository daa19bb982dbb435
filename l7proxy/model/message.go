package model

import "net/netip"

// ProtocolVersion is spoken by both ends of the push socket; ends that differ refuse each other.
const ProtocolVersion = 2

// What travels over the push socket. The proxy connects and sends Register; the agent answers Hello, then
// one Update with Full set, then Pods and Updates as things change. Each Update and Pods carries a version of
// its own, from one rising sequence, and is answered by one Ack, in order.

// Register is the proxy's first message. It carries one descriptor: a pidfd of the process, from which the agent learns
// which one it is also where neither sees the other's process ids.
type Register struct {
	Protocol int `json:"protocol"`
	PID      int `json:"pid"`
}

// Hello is the agent's answer to Register. It carries one descriptor: the heartbeat map's, to be mapped shared
// and writable; its first 8 bytes are CLOCK_MONOTONIC in nanoseconds, native order, of the last proof of progress.
type Hello struct {
	Protocol int          `json:"protocol"`
	Node     string       `json:"node,omitempty"`
	Zone     string       `json:"zone,omitempty"`
	PrefixV4 netip.Prefix `json:"prefixV4"` // where redirected connections arrive: the id is in the low bits
	PrefixV6 netip.Prefix `json:"prefixV6"`
}

// Update changes services and endpoints. With Full set it is everything: what it does not name is gone.
type Update struct {
	Version          uint64         `json:"version"`
	Full             bool           `json:"full,omitempty"`
	Services         []Service      `json:"services,omitempty"`
	RemovedServices  []ServiceKey   `json:"removedServices,omitempty"`
	Endpoints        []EndpointSet  `json:"endpoints,omitempty"`
	RemovedEndpoints []EndpointsKey `json:"removedEndpoints,omitempty"`
}

// Pods changes the enrolled pods. For each of Added it carries, in order, the descriptor of the pod's network
// namespace, then of the listener for each of its Families. A pod that is added again replaces its listeners:
// what is queued on the old ones is accepted before they are closed.
type Pods struct {
	Version uint64        `json:"version"`
	Added   []EnrolledPod `json:"added,omitempty"`
	Removed []string      `json:"removed,omitempty"` // UIDs

	// Complete ends the list that follows Hello: a pod that no message since Hello has named is gone, such as one that
	// ended while the agent was away.
	Complete bool `json:"complete,omitempty"`
}

// EnrolledPod is a pod and the listeners that it has.
type EnrolledPod struct {
	Pod
	Families []Family `json:"families"`
}

// Family is an address family of a listener.
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Ack answers the Update or Pods of the same Version. What is not in Refused is in force.
type Ack struct {
	Version uint64    `json:"version"`
	Refused []Refusal `json:"refused,omitempty"`
}

// Refusal names one unit that was not taken: its previous version, if there is one, serves on.
type Refusal struct {
	Service   *ServiceKey   `json:"service,omitempty"` // exactly one of these three is set
	Endpoints *EndpointsKey `json:"endpoints,omitempty"`
	Pod       string        `json:"pod,omitempty"` // UID
	Reason    string        `json:"reason"`
}

// Draining is sent by a proxy that is about to stop. It goes on accepting until Released comes (two seconds at
// most), takes what is still queued, and then lets what it has come to an end.
type Draining struct{}

// Released answers Draining: no new connection is steered to the proxy's listeners, or its successor has them.
type Released struct{}
