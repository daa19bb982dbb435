package cluster

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// describePod says what of our pod is of use.
func describePod(p *corev1.Pod) Pod {
	d := Pod{
		Namespace: p.Namespace, Name: p.Name, Node: cmp.Or(p.Spec.NodeName, target(p)), Ending: p.DeletionTimestamp != nil,
		Agent: container(p, "agent"), Proxy: container(p, "proxy"),
	}
	d.Ready = slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	if !d.Ready {
		d.Why = notReady(p)
	}
	return d
}

// target is the node that the DaemonSet made a pod for that is not scheduled yet.
func target(p *corev1.Pod) string {
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// notReady says what keeps a pod from being ready: the most particular that Kubernetes knows.
func notReady(p *corev1.Pod) string {
	all := slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
	for i := range all {
		s := &all[i]
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing":
			return fmt.Sprintf("container %s waits: %s", s.Name, words(s.State.Waiting.Reason, s.State.Waiting.Message))
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			return fmt.Sprintf("container %s ended: %s", s.Name, ended(s.State.Terminated))
		}
	}
	for _, c := range p.Status.Conditions { // PodScheduled comes before Ready in importance
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
			return "it is not scheduled: " + words(c.Reason, c.Message)
		}
	}
	for i := range all {
		if s := &all[i]; s.State.Running != nil && !s.Ready {
			return fmt.Sprintf("container %s runs and is not ready", s.Name)
		}
	}
	return words(cmp.Or(p.Status.Reason, string(p.Status.Phase), "nothing is known of it yet"), p.Status.Message)
}

func container(p *corev1.Pod, name string) Container {
	var c Container
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == name {
			c.Image = p.Spec.Containers[i].Image
		}
	}
	for i := range p.Status.ContainerStatuses {
		if s := &p.Status.ContainerStatuses[i]; s.Name == name {
			c.Restarts = s.RestartCount
			if s.LastTerminationState.Terminated != nil {
				c.LastEnd = ended(s.LastTerminationState.Terminated)
			}
		}
	}
	return c
}

func ended(t *corev1.ContainerStateTerminated) string {
	return words(cmp.Or(t.Reason, "ended"), fmt.Sprintf("exit code %d", t.ExitCode), t.Message)
}

// words joins what is there.
func words(reason string, more ...string) string {
	for _, m := range more {
		if m != "" {
			reason += ": " + m
		}
	}
	return reason
}
