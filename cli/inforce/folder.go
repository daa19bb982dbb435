package inforce

import (
	"log/slog"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/objects"
)

// Folder says what folder of YAML to read, and as whom.
type Folder struct {
	Dir string
	// Node and Zone are where the agent would run. Without a node every endpoint is near, and without a zone hints for zones are of no use.
	Node, Zone string
	// ReferenceGrants: a backend in a third namespace needs one.
	ReferenceGrants bool
}

// Read reads the folder as an agent would.
func (f Folder) Read() (*View, error) {
	folder, err := kube.NewFolder(f.Dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	set, problems, err := folder.Load()
	if err != nil {
		return nil, err
	}
	result := compile.Compile(set, compile.Options{Node: f.Node, Zone: f.Zone, ReferenceGrants: f.ReferenceGrants})
	v := &View{
		Source: "the folder " + f.Dir, Routes: result.Statuses, Warnings: result.Warnings,
	}
	for _, s := range result.Services {
		v.Services = append(v.Services, *s)
	}
	for _, e := range result.Endpoints {
		v.Endpoints = append(v.Endpoints, *e)
	}
	for _, p := range problems {
		v.Problems = append(v.Problems, p.String())
	}
	for _, p := range set.Pods {
		v.Pods = append(v.Pods, Pod{p.Namespace, p.Name, direct(set.Namespaces, p)})
	}
	v.sort()
	return v, nil
}

// direct says why a pod would not be enrolled on its own node; "": it would be.
func direct(namespaces []*corev1.Namespace, p *corev1.Pod) string {
	alone := &objects.Set{Namespaces: namespaces, Pods: []*corev1.Pod{p}}
	if len(enroll.Desired(alone, enroll.Selector{Node: p.Spec.NodeName, Folder: true})) > 0 {
		return ""
	}
	return "it shares its node's network, has ended, or opted out with the label " + enroll.MeshLabel
}
