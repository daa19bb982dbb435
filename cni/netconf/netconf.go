// Package netconf is what stands for Sluice in a node's CNI configuration: the installer writes it, the plugin reads it.
package netconf

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

const (
	// Type names the plugin: its entry in a list of plugins, and its file among the node's plugins.
	Type = "sluice-cni"
	// DefaultSocket is where the agent listens, if nothing else is said.
	DefaultSocket = "/run/sluice/cni.sock"
	// SystemNamespace is exempt if nothing else is said: what a cluster needs to come up runs there.
	SystemNamespace = "kube-system"

	maxWaitSeconds = 60
)

// WhenAway is what becomes of a new pod when the agent does not take it: because it is away, hangs or fails, or because
// the node's proxy does not serve yet.
type WhenAway string

const (
	// Start lets the pod start all the same. It is enrolled when the agent is back.
	Start WhenAway = "start"
	// Wait asks again until the pod is taken, for WaitSeconds at most; then the pod fails with the CNI's "try again later"
	// and the kubelet makes it anew, until the agent is back.
	Wait WhenAway = "wait"
	// Refuse fails the pod at once. The kubelet tries again by its own back-off.
	Refuse WhenAway = "refuse"
)

// Entry is our entry in a list of plugins. Fields without a value stand for the defaults.
type Entry struct {
	Type string `json:"type"`
	// Socket is the agent's CNI socket, a path of the node.
	Socket string `json:"socket,omitempty"`
	// WhenAway is Start if nothing else is said.
	WhenAway WhenAway `json:"whenAway,omitempty"`
	// WaitSeconds are for how long Wait waits, 1 if nothing else is said.
	WaitSeconds int `json:"waitSeconds,omitempty"`
	// ExemptNamespaces are those whose pods start whatever WhenAway says: the agent's own, or it could never come back, and
	// those it needs. Nil stands for SystemNamespace; an empty list exempts none.
	ExemptNamespaces []string `json:"exemptNamespaces,omitzero"`
	// DerivedFrom is the file of which the installer made the list that this entry is in. It marks that list as the
	// installer's own; the plugin does not read it.
	DerivedFrom string `json:"derivedFrom,omitempty"`
}

// Complete fills in the defaults and says what is wrong.
func (e Entry) Complete() (Entry, error) {
	if e.Type == "" {
		e.Type = Type
	}
	if e.Socket == "" {
		e.Socket = DefaultSocket
	}
	if e.WhenAway == "" {
		e.WhenAway = Start
	}
	if e.WaitSeconds == 0 {
		e.WaitSeconds = 1
	}
	if e.ExemptNamespaces == nil {
		e.ExemptNamespaces = []string{SystemNamespace}
	}
	switch {
	case e.Type != Type:
		return e, fmt.Errorf("type %q is not %s", e.Type, Type)
	case !filepath.IsAbs(e.Socket):
		return e, fmt.Errorf("socket %q is no absolute path", e.Socket)
	case e.WhenAway != Start && e.WhenAway != Wait && e.WhenAway != Refuse:
		return e, fmt.Errorf("whenAway %q is none of start, wait, refuse", e.WhenAway)
	case e.WaitSeconds < 1 || e.WaitSeconds > maxWaitSeconds:
		return e, fmt.Errorf("waitSeconds %d is not within 1 and %d", e.WaitSeconds, maxWaitSeconds)
	case slices.Contains(e.ExemptNamespaces, ""):
		return e, fmt.Errorf("exemptNamespaces has an empty name")
	}
	return e, nil
}

// Lenient says whether a pod of the namespace starts although the agent does not take it.
func (e Entry) Lenient(namespace string) bool {
	return e.WhenAway == Start || slices.Contains(e.ExemptNamespaces, namespace)
}

// Patience is for how long the plugin may wait in all. It stays a little below the bound, which counts from when the
// runtime starts the plugin until it has ended.
func (e Entry) Patience() time.Duration {
	const margin = 100 * time.Millisecond
	if e.WhenAway == Wait {
		return time.Duration(e.WaitSeconds)*time.Second - margin
	}
	return time.Second - margin
}

// Versions are those of the CNI specification that the plugin speaks. Older ones know no lists of plugins.
func Versions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }
