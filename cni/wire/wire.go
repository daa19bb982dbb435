// Package wire is what the CNI plugin and the agent say to each other over the agent's CNI socket, a unix stream socket
// that only root may use: on each connection one request and one answer, each a line of JSON.
//
// Members that a reader does not know are skipped, so that plugin and agent may be of different releases while a node is
// upgraded; a change that the other side must not skip gets another Version.
package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

const (
	// Version is the version of the protocol that this package speaks.
	Version = 1
	// MaxRequest is the longest request in bytes, its newline counted. A GC names every sandbox of the node.
	MaxRequest = 1 << 20
	// MaxAnswer is the longest answer in bytes, its newline counted.
	MaxAnswer = 64 << 10
)

// Command is what the container runtime asked of the plugin.
type Command string

// The commands of the CNI specification that reach the agent.
const (
	Add    Command = "ADD"
	Del    Command = "DEL"
	Check  Command = "CHECK"
	GC     Command = "GC"
	Status Command = "STATUS"
)

// Attachment is one interface of one sandbox, as the runtime names it.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// Request is what the plugin tells the agent.
type Request struct {
	Version int     `json:"version"`
	Command Command `json:"command"`

	// Network is the name of the network in the node's configuration. The Valid of a GC are this network's alone.
	Network string `json:"network,omitempty"`

	// ContainerID is the sandbox's. ADD, DEL and CHECK have it.
	ContainerID string `json:"containerID,omitempty"`
	// NetNS is the path of the pod's network namespace, as the container runtime sees the file system. ADD and CHECK
	// have it; a DEL may come without, when the namespace is gone already.
	NetNS  string `json:"netns,omitempty"`
	IfName string `json:"ifName,omitempty"`

	// Namespace, Name and UID are the pod's. All are empty when what started the container is not a kubelet, and UID is
	// when the runtime does not tell it.
	Namespace string `json:"podNamespace,omitempty"`
	Name      string `json:"podName,omitempty"`
	UID       string `json:"podUID,omitempty"`
	// IPs are the addresses that the plugins before ours gave to the pod. ADD and CHECK have them.
	IPs []netip.Addr `json:"ips,omitempty"`

	// Valid are the attachments of a GC that exist. All others of Network are gone, without a DEL.
	Valid []Attachment `json:"valid,omitempty"`

	// WaitMillis is for how long the plugin will wait for the answer, in milliseconds.
	WaitMillis int64 `json:"waitMillis,omitempty"`
}

// State is how things stand with a pod.
type State string

const (
	// Serving says that the pod's connections are redirected from now on. It also answers what is no pod's: DEL, GC, and
	// a STATUS when the node can take pods.
	Serving State = "serving"
	// Waiting says that the pod is to be enrolled but is not yet; Reason says what is missing. For STATUS: that no pod
	// would be served now.
	Waiting State = "waiting"
	// NotEnrolled says that the pod is none of the mesh's; Reason says why.
	NotEnrolled State = "not-enrolled"
)

// Answer is what the agent says. Either Error is set, or State is.
type Answer struct {
	Version int    `json:"version"`
	State   State  `json:"state,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Error says that the request was not carried out: it is wrong, or the agent failed at it.
	Error string `json:"error,omitempty"`
}

// Validate says what is wrong with a request.
func (r *Request) Validate() error {
	if r.Version != Version {
		return fmt.Errorf("version %d of the protocol is not spoken here, but %d: plugin and agent are of different releases", r.Version, Version)
	}
	switch r.Command {
	case Add, Check:
		if r.NetNS == "" {
			return r.lacks("netns")
		}
	case Del:
	case GC, Status:
		return nil
	case "":
		return errors.New("command is missing")
	default:
		return fmt.Errorf("command %.20q is none of ADD, DEL, CHECK, GC, STATUS", string(r.Command))
	}
	switch {
	case r.ContainerID == "":
		return r.lacks("containerID")
	case r.NetNS != "" && (!filepath.IsAbs(r.NetNS) || strings.ContainsRune(r.NetNS, 0)):
		return fmt.Errorf("netns %.100q of %s is no absolute path", r.NetNS, r.Command)
	}
	return nil
}

func (r *Request) lacks(member string) error { return fmt.Errorf("%s needs %s", r.Command, member) }

// Validate says what is wrong with an answer.
func (a *Answer) Validate() error {
	if a.Version != Version {
		return fmt.Errorf("version %d of the protocol is not spoken here, but %d: plugin and agent are of different releases", a.Version, Version)
	}
	if a.Error != "" {
		return nil
	}
	switch a.State {
	case Serving, Waiting, NotEnrolled:
		return nil
	}
	return fmt.Errorf("state %.20q is none of serving, waiting, not-enrolled", string(a.State))
}

// wait is for how long the one who asked waits.
func (r *Request) wait() time.Duration {
	if r.WaitMillis <= 0 {
		return defaultWait
	}
	// The smaller first: a very long one would overflow.
	return time.Duration(min(r.WaitMillis, maxWait.Milliseconds())) * time.Millisecond
}

const (
	defaultWait = time.Second
	maxWait     = time.Minute
)
