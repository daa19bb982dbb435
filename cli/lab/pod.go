package lab

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// PodSpec says what a pod is to be.
type PodSpec struct {
	Namespace, Name string
	Labels          map[string]string
	Annotations     map[string]string
	// ByCgroup: the manifest names no network namespace, so the agent has to find the pod by its processes' cgroup, whose
	// folder is named after the pod's UID as the kubelet does it.
	ByCgroup bool
}

// Pod is a network namespace with addresses of its own and a cgroup for its processes.
type Pod struct {
	PodSpec
	UID        string
	IPv4, IPv6 netip.Addr
	NetNS      string // path of the namespace
	Cgroup     string // folder of its processes' cgroup

	lab    *Lab
	thread *thread
	number int
}

// AddPod makes a pod and writes its manifest. Names are unique in the lab, whatever the namespace.
func (l *Lab) AddPod(spec PodSpec) (*Pod, error) {
	p, err := l.newPod(spec)
	if err != nil {
		return nil, fmt.Errorf("lab: pod %s: %w", spec.Name, err)
	}
	return p, nil
}

func (l *Lab) newPod(spec PodSpec) (*Pod, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made == maxPods {
		return nil, fmt.Errorf("the lab has room for %d pods", maxPods)
	}
	if slices.ContainsFunc(l.pods, func(p *Pod) bool { return p.Name == spec.Name }) {
		return nil, errors.New("there is one of this name")
	}
	p := &Pod{PodSpec: spec, UID: newUID(), NetNS: netnsPath(l.Name, spec.Name), lab: l, number: l.made}
	p.IPv4, p.IPv6 = podAddresses(p.number)
	p.Cgroup = filepath.Join(l.Cgroup, "pods", spec.Name)
	if spec.ByCgroup {
		p.Cgroup = filepath.Join(l.Cgroup, "pods", "pod"+p.UID, "main")
	}
	if err := os.MkdirAll(p.Cgroup, 0o755); err != nil {
		return nil, err
	}
	t, err := newThread(p.NetNS)
	if err != nil {
		return nil, err
	}
	p.thread = t
	l.pods, l.made = append(l.pods, p), l.made+1 // from here on Close takes it away
	ns, err := os.Open(p.NetNS)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := l.router.connect(p.number, t, int(ns.Fd()), p.IPv4, p.IPv6); err != nil {
		return nil, err
	}
	return p, errors.Join(p.remember(), l.WriteManifest(p.manifestName(), p.Manifest()))
}

func (p *Pod) manifestName() string { return "pod-" + p.Namespace + "-" + p.Name + ".yaml" }

// Delete ends the pod's processes and takes its manifest, its cgroup and its namespace's name away. Its addresses are not
// used again.
func (p *Pod) Delete() error {
	l := p.lab
	l.mu.Lock()
	l.pods = slices.DeleteFunc(slices.Clone(l.pods), func(o *Pod) bool { return o == p })
	l.mu.Unlock()
	err := errors.Join(os.Remove(filepath.Join(l.Manifests, p.manifestName())), killCgroup(p.Cgroup, 5e9))
	p.thread.close()
	return errors.Join(err, removeCgroup(p.Cgroup), removeNetNS(p.NetNS), os.Remove(statePath(l.Dir, p.Name)))
}

// newUID is a random UUID, as an API server would give.
func newUID() string {
	var b [16]byte
	// crypto/rand never fails: it ends the program instead.
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Manifest is the pod as a cluster would show it: with a node, addresses and readiness.
func (p *Pod) Manifest() []byte {
	annotations := maps.Clone(p.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	if !p.ByCgroup {
		annotations["sluice.dev/netns"] = p.NetNS
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: %s\n  uid: %s\n", p.Name, p.Namespace, p.UID)
	writeMap(&b, "labels", p.Labels)
	writeMap(&b, "annotations", annotations)
	fmt.Fprintf(&b, "spec:\n  nodeName: %s\n  containers:\n  - name: main\n    image: sluice\n", p.lab.options.Node)
	fmt.Fprintf(&b, "status:\n  phase: Running\n  conditions:\n  - type: Ready\n    status: \"True\"\n  podIP: %s\n  podIPs:\n  - ip: %s\n  - ip: %q\n",
		p.IPv4, p.IPv4, p.IPv6)
	return b.Bytes()
}

func writeMap(b *bytes.Buffer, name string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	fmt.Fprintf(b, "  %s:\n", name)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(b, "    %s: %s\n", k, strconv.Quote(m[k]))
	}
}

// entrance is what another process needs to enter a pod.
type entrance struct {
	NetNS  string `json:"netns"`
	Cgroup string `json:"cgroup"`
}

func statePath(dir, pod string) string { return filepath.Join(dir, "pods", pod+".json") }

func (p *Pod) remember() error {
	b, err := json.Marshal(entrance{NetNS: p.NetNS, Cgroup: p.Cgroup})
	if err != nil {
		return err
	}
	return os.WriteFile(statePath(p.lab.Dir, p.Name), b, 0o644)
}
