package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/cli/cluster"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// What is said of a program in one word or two.
const (
	ready    = "ready"
	notReady = "not ready"
	noAnswer = "no answer"
	none     = "none"
)

// byNode groups what was heard. During an upgrade a node has two pods of ours: the one that serves comes first.
func (b *builder) byNode() [][]*Asked {
	var all [][]*Asked
	at := map[string]int{}
	for i := range b.in.Asked {
		a := &b.in.Asked[i]
		name := nodeName(a)
		j, seen := at[name]
		if !seen {
			j, at[name] = len(all), len(all)
			all = append(all, nil)
		}
		all[j] = append(all[j], a)
	}
	for _, on := range all {
		slices.SortStableFunc(on, func(a, b *Asked) int { return cmp.Compare(serves(b), serves(a)) })
	}
	return all
}

func nodeName(a *Asked) string {
	if a.Pod != nil {
		return a.Pod.Node
	}
	if a.Status != nil {
		return a.Status.Node
	}
	return "this node"
}

// serves ranks the pods of one node.
func serves(a *Asked) int {
	switch {
	case a.Pod == nil:
		return 0
	case a.Pod.Ready && !a.Pod.Ending:
		return 3
	case a.Pod.Ready:
		return 2
	case !a.Pod.Ending:
		return 1
	}
	return 0
}

// node tells of one node. Of two pods the second is only told of when it does not become what it should.
func (b *builder) node(on []*Asked) {
	a := on[0]
	n := Node{Name: nodeName(a), Agent: state(a.Agent), Proxy: state(a.Proxy)}
	if p := a.Pod; p != nil {
		n.Pod, n.Version = p.String(), version(p.Agent.Image)
		n.Kernel = kernel(b.in.Cluster, p.Node)
		b.pod(p)
		b.restarts(p)
	}
	for _, other := range on[1:] {
		if other.Pod != nil && !other.Pod.Ready && !other.Pod.Ending {
			b.second(other.Pod)
		}
	}
	b.programs(a, n.Name)
	if a.Status != nil {
		n.Version = cmp.Or(a.Status.Version, n.Version)
		b.status(a.Status, &n)
	}
	b.report.Nodes = append(b.report.Nodes, n)
}

func state(p Program) string {
	switch {
	case p.NoAnswer != "":
		return noAnswer
	case p.NotReady != "":
		return notReady
	}
	return ready
}

func kernel(f *cluster.Facts, node string) string {
	for _, n := range f.Nodes {
		if n.Name == node {
			return n.Kernel
		}
	}
	return ""
}

// version is what is told apart in the name of an image: its tag or digest.
func version(image string) string {
	if _, digest, ok := strings.Cut(image, "@"); ok {
		return digest
	}
	if at := strings.LastIndex(image, ":"); at > strings.LastIndex(image, "/") {
		return image[at+1:]
	}
	return image
}

func (b *builder) pod(p *cluster.Pod) {
	if p.Ready || p.Ending {
		return
	}
	b.problem(Finding{
		Kind: PodNotReady, Object: "Pod " + p.String(), Nodes: []string{p.Node}, What: p.Why,
		Todo: fmt.Sprintf("kubectl describe pod -n %s %s, and kubectl logs -n %[1]s %[2]s --all-containers", p.Namespace, p.Name),
	})
}

// second tells of a successor that is not ready yet; if it was started again and again, it will not be.
func (b *builder) second(p *cluster.Pod) {
	if p.Agent.Restarts+p.Proxy.Restarts > 0 {
		b.pod(p)
		return
	}
	b.note(Finding{Kind: Rollout, Object: "Pod " + p.String(), Nodes: []string{p.Node}, What: "it is about to follow another one: " + p.Why})
}

func (b *builder) restarts(p *cluster.Pod) {
	for _, c := range []struct {
		name string
		cluster.Container
	}{{"agent", p.Agent}, {"proxy", p.Proxy}} {
		if c.Restarts == 0 {
			continue
		}
		what := fmt.Sprintf("its %s was started again (%d times)", c.name, c.Restarts)
		if c.LastEnd != "" {
			what += ", lastly because of " + c.LastEnd
		}
		b.note(Finding{
			Kind: Restarted, Object: "Pod " + p.String(), Nodes: []string{p.Node}, What: what,
			Todo: fmt.Sprintf("kubectl logs -n %s %s -c %s --previous", p.Namespace, p.Name, c.name),
		})
	}
}

// programs tells of those that are not well. That of a pod that is not ready anyway is told with it.
func (b *builder) programs(a *Asked, node string) {
	for _, of := range []struct {
		name string
		Program
	}{{"agent", a.Agent}, {"proxy", a.Proxy}} {
		f := Finding{Nodes: []string{node}, Todo: "see the log of sluice-" + of.name}
		if a.Pod != nil {
			f.Object = "Pod " + a.Pod.String()
			f.Todo = fmt.Sprintf("kubectl logs -n %s %s -c %s", a.Pod.Namespace, a.Pod.Name, of.name)
		}
		switch {
		case of.NoAnswer != "" && a.Pod != nil && !a.Pod.Ready:
		case of.NoAnswer != "":
			f.Kind, f.What = NoAnswer, fmt.Sprintf("the %s does not answer: %s", of.name, of.NoAnswer)
			b.problem(f)
		case of.NotReady != "":
			f.Kind, f.What = NotReady, fmt.Sprintf("the %s is not ready: %s", of.name, of.NotReady)
			b.problem(f)
		}
	}
}

// status tells what the agent says.
func (b *builder) status(s *ask.Status, n *Node) {
	here := []string{n.Name}
	b.redirect(s, n)
	switch {
	case s.Kernel.Problem != "":
		b.problem(Finding{Kind: KernelProblem, Nodes: here, What: s.Kernel.Problem, Todo: "the agent looks again by itself; its log has more"})
	case !s.Kernel.InStep:
		b.problem(Finding{Kind: KernelBehind, Nodes: here, What: "a write to the kernel failed: what was in force before is in force still", Todo: "the agent tries again by itself; its log says why it failed"})
	}
	b.cni(s.CNI, n)
	b.refused(s, n)
	b.pods(s, n)
	b.routes(s, n)
	b.passedBy(s, n)
	for _, p := range s.Problems {
		b.problem(Finding{Kind: ObjectProblem, Nodes: here, What: p})
	}
	for _, w := range s.Warnings {
		b.note(Finding{Kind: Warning, Nodes: here, What: w})
	}
	for _, e := range s.Events {
		b.note(Finding{Kind: Event, Nodes: here, What: e})
	}
}

// refused tells what the proxy did not take. One that goes does not matter any more.
func (b *builder) refused(s *ask.Status, n *Node) {
	for _, p := range s.Proxies {
		if p.State == "draining" || p.State == "released" {
			continue
		}
		for _, r := range p.Refused {
			b.problem(Finding{
				Kind: Refused, Object: unit(&r), Nodes: []string{n.Name},
				What: "the proxy refused its newest version, and the one before is in force: " + r.Reason,
				Todo: "change what it complains of; if that is right, it is a mistake of ours",
			})
		}
	}
}

// cni tells why the plugin is not in place. Where the CNI does not suffer it, that is no problem: pods are enrolled without it.
func (b *builder) cni(c *ask.CNI, n *Node) {
	if c == nil {
		return
	}
	n.CNI = cmp.Or(c.State, "unknown")
	if c.Problem == "" {
		return
	}
	f := Finding{
		Kind: CNIProblem, Nodes: []string{n.Name}, What: "the CNI plugin is not in place: " + c.Problem,
		Todo: "until it is, new pods are enrolled a moment after they start",
	}
	if c.State == "contested" || c.State == "unsupported" {
		f.Kind, f.Todo = CNIWithout, "new pods are enrolled a moment after they start"
		b.note(f)
		return
	}
	b.problem(f)
}

func unit(r *model.Refusal) string {
	switch {
	case r.Service != nil:
		return "Service " + r.Service.String()
	case r.Endpoints != nil:
		return "endpoints of " + r.Endpoints.String()
	}
	return "pod " + r.Pod
}

// redirect tells whether connections are redirected at all.
func (b *builder) redirect(s *ask.Status, n *Node) {
	here := []string{n.Name}
	closed := failClosed(s)
	n.Redirect = s.Liveness.State
	switch {
	case s.Kernel.Bypass != nil && *s.Kernel.Bypass:
		n.Redirect = "bypassed"
		what := "the bypass is on: no connection is redirected, and no route applies"
		if closed > 0 {
			what += "; Services that fail closed are reached directly as well"
		}
		b.problem(Finding{Kind: BypassOn, Nodes: here, What: what, Todo: "sluice bypass off"})
	case s.Liveness.State != "up":
		what := "connections go direct, and no route applies: " + s.Liveness.Reason
		if closed > 0 {
			what += "; those to Services that fail closed are refused"
		}
		b.problem(Finding{Kind: NotRedirecting, Nodes: here, What: what, Todo: "look at the proxy: a node redirects again as soon as one is in service"})
	default:
		b.up = append(b.up, upNode{n.Name, s})
	}
	if s.Kernel.Bypass == nil {
		b.note(Finding{Kind: CannotTell, Nodes: here, What: "the agent does not say whether the bypass is on"})
	}
}

func failClosed(s *ask.Status) int {
	n := 0
	for _, f := range s.Frontends {
		if f.FailClosed {
			n++
		}
	}
	return n
}

// pods tells which are not enrolled.
func (b *builder) pods(s *ask.Status, n *Node) {
	here := []string{n.Name}
	for _, p := range s.Pods {
		out := NotEnrolled{Pod: p.Pod, Node: n.Name, State: p.State, Reason: p.Reason}
		switch p.State {
		case "serving":
			n.Enrolled++
			if p.UnenrolledSeconds > 0 {
				b.report.Late = append(b.report.Late, Late{p.Pod, n.Name, p.EnrolledBy, p.UnenrolledSeconds})
			}
			continue
		case "ending":
			continue
		case "excluded":
			n.Excluded++
		case "failed":
			n.Amiss++
			b.problem(Finding{Kind: PodFailed, Object: "Pod " + p.Pod, Nodes: here, What: "it cannot be enrolled, and its connections go direct: " + p.Reason})
		default:
			n.Amiss++
			if n.Redirect == "up" { // else the node is told of
				b.problem(Finding{
					Kind: PodWaiting, Object: "Pod " + p.Pod, Nodes: here, What: "it is not enrolled yet, and its connections go direct: " + p.Reason + since(p),
					Todo: "for a pod that has just started this is a matter of a moment",
				})
			}
		}
		b.report.NotEnrolled = append(b.report.NotEnrolled, out)
	}
}

// since tells how long a pod has been waiting.
func since(p ask.Pod) string {
	if p.UnenrolledSeconds <= 0 {
		return ""
	}
	return " (for " + seconds(p.UnenrolledSeconds) + " now)"
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d > time.Second {
		return d.Round(time.Second).String()
	}
	return d.Round(time.Millisecond).String()
}

// passedBy tells of connections to redirected Services that went direct or were dropped, since the maps were made.
func (b *builder) passedBy(s *ask.Status, n *Node) {
	for _, c := range []struct{ counter, what string }{
		{"not_enrolled", "connections to Services with routes came from pods that are not enrolled, and went direct"},
		{"bound_to_device", "connections to Services with routes were of sockets bound to a device (SO_BINDTODEVICE), and went direct: they cannot be redirected"},
		{"no_memory", "connections to Services with routes went direct because the kernel had no memory"},
		{"steer_no_listener", "connections were dropped because the proxy went away in that moment"},
		{"steer_failed", "connections were dropped because a listener did not take them"},
	} {
		if count := s.Kernel.Counters[c.counter]; count > 0 {
			b.note(Finding{Kind: PassedBy, Object: c.counter, Nodes: []string{n.Name}, What: fmt.Sprintf("%d %s", count, c.what)})
		}
	}
}
