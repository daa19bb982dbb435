package node

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// leavePatience is for how long the connections of a pod that left us, and lives on, may go on through the proxy.
const leavePatience = 10 * time.Second

// podTable is what is known of pods on their way in and out.
type podTable struct {
	known bool // the kernel has told which it has
	pods  map[*enroll.Pod]*pod
	// inherited are the namespaces that the kernel knows and no pod has claimed: of pods that ended while no agent ran.
	// The value tells whether a listener may still be steered to.
	inherited map[uint64]bool
	settled   bool // every pod that is desired was tried: what has not been claimed by now will not be
	failed    []enroll.Failure
	excluded  []enroll.Excluded
	since     map[string]time.Time // when a pod that was excluded, or enrolled before, came to be enrolled, by UID
	board     *board               // read by others; never replaced
	// strangers is until when listeners that a predecessor made are steered to; zero: no proxy has served yet.
	strangers time.Time
}

// pod is one that is enrolled.
type pod struct {
	*enroll.Pod
	told    *push.Pod // what proxies are told; nil until the kernel has it
	added   bool      // the kernel has it
	err     error     // why the kernel does not
	retry   backoff
	by      enroll.By
	started time.Time // since when it has been running without us, if it has
	kept    bool      // a predecessor enrolled it
	served  time.Time // when it was served first
	steered bool      // the kernel may steer to a listener of the pod, ours or a predecessor's
	ours    bool      // and it may be one of ours
	strange bool      // and it may be a predecessor's
	inForce bool      // it steers to all of ours
	ending  string
	endedAt time.Time
	leaving bool // it ends only for us: its connections may go on for a while
}

func newPodTable() podTable {
	return podTable{
		pods: map[*enroll.Pod]*pod{}, inherited: map[uint64]bool{}, since: map[string]time.Time{}, board: newBoard(),
	}
}

// selectPods says which pods are to be enrolled, and keeps why others are not.
func (n *Node) selectPods(set *objects.Set, now time.Time) {
	t := &n.podTable
	wanted, excluded := enroll.Desired(set, n.cfg.Select), enroll.Exclusions(set, n.cfg.Select)
	before := map[string]bool{}
	for _, x := range t.excluded {
		before[x.UID] = true
	}
	since := map[string]time.Time{}
	for _, w := range wanted {
		if before[w.UID] {
			since[w.UID] = now
		} else if at, ok := t.since[w.UID]; ok {
			since[w.UID] = at
		}
	}
	t.excluded, t.since = excluded, since
	n.pods.SetDesired(wanted)
}

// readPods learns which pods a predecessor left in the kernel.
func (n *Node) readPods() {
	cookies, err := n.kernel.Pods()
	if !n.did("list the pods", err) {
		return
	}
	n.podTable.known = true
	for _, c := range cookies {
		n.podTable.inherited[c] = true
	}
}

// steered tells whether the kernel may steer a connection to any listener.
func (t *podTable) steered() bool {
	for _, p := range t.pods {
		if p.steered {
			return true
		}
	}
	return !t.known || slices.Contains(slices.Collect(maps.Values(t.inherited)), true)
}

// strange tells whether the kernel may steer a connection to a listener that a predecessor made. A proxy may accept there
// that has not registered with us yet, so nobody knows what it has in force.
func (t *podTable) strange() bool {
	for _, p := range t.pods {
		if p.strange {
			return true
		}
	}
	return !t.known || slices.Contains(slices.Collect(maps.Values(t.inherited)), true)
}

// told returns the pods that proxies should have: also one that is ending, for as long as it is steered to, and one
// that only leaves us, so that its connections may come to their end.
func (t *podTable) told() map[string]*push.Pod {
	pods := map[string]*push.Pod{}
	for _, p := range t.pods {
		if p.told != nil && (p.ending == "" || p.steered || p.leaving) {
			pods[p.UID] = p.told
		}
	}
	return pods
}

// sorted returns the pods by UID, so that what is done and logged has an order.
func (t *podTable) sorted() []*pod {
	return slices.SortedFunc(maps.Values(t.pods), func(a, b *pod) int {
		if a.UID < b.UID {
			return -1
		}
		return 1
	})
}

// trackPods learns which pods there are. Before it is known which ones the kernel has, nothing is done about any.
func (n *Node) trackPods(now time.Time) {
	t := &n.podTable
	if !t.known {
		if n.readPods(); !t.known {
			return
		}
	}
	view := n.pods.View()
	t.settled, t.failed = view.Settled, view.Failed
	held := map[*enroll.Pod]bool{}
	for _, h := range view.Pods {
		held[h.Pod] = true
		p := t.pods[h.Pod]
		if p == nil {
			p = &pod{Pod: h.Pod}
			p.steered = t.inherited[p.Cookie]
			p.strange, p.kept = p.steered, p.steered
			delete(t.inherited, p.Cookie)
			t.pods[h.Pod] = p
		}
		p.by, p.started = h.By, h.Started
		n.trackEnd(p, h, now)
	}
	maps.DeleteFunc(t.pods, func(h *enroll.Pod, _ *pod) bool { return !held[h] })
}

// trackEnd notes that a pod ends, that one which was only leaving has ended, or that it stays after all.
func (n *Node) trackEnd(p *pod, h enroll.Held, now time.Time) {
	switch {
	case h.Ending == p.ending && !(p.leaving && !h.Leaving):
		return
	case h.Ending == "":
		p.endedAt = time.Time{}
	case p.ending == "" || p.leaving:
		p.endedAt = now
	}
	p.ending, p.leaving = h.Ending, h.Leaving && !p.overdue(now)
	n.resend = true
}

// overdue tells whether a pod that leaves has had its time.
func (p *pod) overdue(now time.Time) bool {
	return !p.endedAt.IsZero() && !now.Before(p.endedAt.Add(leavePatience))
}

// addPods puts pods into the kernel: its programs run in their namespaces from then on, and nothing is steered yet.
func (n *Node) addPods(now time.Time) {
	for _, p := range n.podTable.sorted() {
		if p.added || p.ending != "" {
			continue
		}
		if !p.retry.due(now) {
			n.wake(p.retry.at)
			continue
		}
		p.retry.begin()
		err := p.Use(func(netns int, _ []enroll.Listener) error {
			return n.kernel.AddPod(datapath.Pod{Cookie: p.Cookie, NetNS: netns, IPv4: p.IPv4, IPv6: p.IPv6, Port: p.Port})
		})
		if err != nil {
			n.metrics.kernelErrors.WithLabelValues("add a pod").Inc()
			if p.err == nil || p.err.Error() != err.Error() {
				n.log.Error("the kernel does not take a pod; more attempts follow", "pod", p.String(), "error", err)
			}
			p.err = err
			p.retry.failed(now)
		} else {
			p.err, p.added = nil, true
			p.told = &push.Pod{
				Pod: p.Wanted.Pod, Families: p.Families(),
				Descriptors: p.Descriptors,
			}
			n.resend = true
		}
		if at, failed := p.retry.end(now); failed {
			n.wake(at)
		}
	}
}

// unsteer takes out the listeners that nobody accepts on, or soon will not.
func (n *Node) unsteer(now time.Time, proxies []push.Proxy) {
	all := n.live.state == Down || n.stepDown(now, proxies)
	late := n.strangersLeave(now)
	stay := staying(now, proxies)
	for _, p := range n.podTable.sorted() {
		lost := n.live.state == Up && p.ours && !accepted(p, stay)
		if !p.steered || !(all || p.ending != "" || lost || late && p.strange) {
			continue
		}
		p.inForce = false
		if n.clear(p.Cookie, now) {
			p.steered, p.ours, p.strange = false, false, false
			n.resend = n.resend || p.ending != ""
		}
	}
	for cookie, steered := range n.podTable.inherited {
		if steered && (all || late || n.podTable.settled) {
			n.podTable.inherited[cookie] = !n.clear(cookie, now)
		}
	}
}

// strangersLeave tells whether it is time to take out what is left of a predecessor's listeners. Ours replace them as
// soon as a proxy has acked the pods; where it cannot take one, the others must not wait for it: while a stranger may
// accept, no frontend is added.
func (n *Node) strangersLeave(now time.Time) bool {
	t := &n.podTable
	if n.live.state != Up || !t.strange() {
		return false
	}
	if t.strangers.IsZero() {
		t.strangers = now.Add(nextPatience)
	}
	if now.Before(t.strangers) {
		n.wake(t.strangers)
		return false
	}
	return true
}

// clear takes the listeners of a pod out of the kernel. What is queued on them by then is reset while the proxy is
// down; else the proxy takes it.
func (n *Node) clear(cookie uint64, now time.Time) bool {
	v4 := n.did("take out a listener", n.kernel.ClearListener(cookie, model.IPv4))
	v6 := n.did("take out a listener", n.kernel.ClearListener(cookie, model.IPv6))
	if n.live.state == Down {
		n.resetting = now.Add(stragglers)
	}
	return v4 && v6
}

// accepted tells whether a proxy that accepts has the pod's listeners.
func accepted(p *pod, proxies []push.Proxy) bool {
	return slices.ContainsFunc(proxies, func(x push.Proxy) bool { return x.Accepts() && x.Pods[p.UID] == p.told })
}

// resetQueued accepts and resets what nobody else will accept: what was queued when the proxy was declared down, and
// those whose handshake was under way.
func (n *Node) resetQueued(now time.Time) {
	if n.resetting.IsZero() {
		return
	}
	if n.live.state != Down {
		n.resetting = time.Time{}
		return
	}
	count := 0
	for _, p := range n.podTable.pods {
		count += p.Reset()
	}
	if count > 0 {
		n.metrics.reset.Add(float64(count))
		n.log.Warn("connections that no proxy accepted were reset", "count", count)
	}
	if !now.Before(n.resetting) && !n.podTable.steered() {
		n.resetting = time.Time{}
	}
}

// serving returns the newest proxy that serves and goes on doing so, or nil.
func serving(proxies []push.Proxy) *push.Proxy {
	for i := len(proxies) - 1; i >= 0; i-- {
		if p := &proxies[i]; p.Ready && !p.Draining && !p.Released {
			return p
		}
	}
	return nil
}

// steer puts in the listeners of the pods that the active proxy acked, if it has everything in force that may be
// steered to it. Connections of these pods that went direct in the meantime are closed in the background.
func (n *Node) steer(now time.Time, proxies []push.Proxy) {
	active := serving(proxies)
	if n.live.state != Up || active == nil || !n.exempt.done ||
		slices.ContainsFunc(proxies, func(p push.Proxy) bool { return p.Accepts() && !covers(p, n.frontends.may) }) {
		return
	}
	strange := n.podTable.strange()
	for _, p := range n.podTable.sorted() {
		if p.inForce || !p.added || p.ending != "" || active.Pods[p.UID] != p.told {
			continue
		}
		p.steered, p.ours = true, true
		err := p.Use(func(_ int, listeners []enroll.Listener) error {
			for _, l := range listeners {
				if err := n.kernel.SetListener(p.Cookie, l.Family, l.FD); err != nil {
					return err
				}
			}
			return nil
		})
		if p.inForce = n.did("put in a listener", err); p.inForce {
			p.strange = false
			n.noteServed(p, now)
			n.bypassed.add(p.Pod)
		}
	}
	if strange && !n.podTable.strange() {
		n.wake(now) // frontends wait for that
	}
}

// noteServed notes when a pod was served first, and says for how long it ran without us.
func (n *Node) noteServed(p *pod, now time.Time) {
	if !p.served.IsZero() {
		return
	}
	p.served = now
	if d := n.podTable.unenrolled(p, now); d > 0 {
		n.log.Info("pod is served, and ran without the mesh until now", "pod", p.String(), "by", p.by, "unenrolled", d)
	}
}

// unenrolled is for how long a pod that was to be served was not. What its predecessor served, and what was to be left
// alone, does not count.
func (t *podTable) unenrolled(p *pod, now time.Time) time.Duration {
	if p.kept || p.started.IsZero() {
		return 0
	}
	since, until := p.started, now
	if at := t.since[p.UID]; at.After(since) {
		since = at
	}
	if !p.served.IsZero() {
		until = p.served
	}
	return max(0, until.Sub(since))
}

// stepOut takes pods that leave us out of the kernel, although proxies have them still: new connections are not even
// looked at there, so that what fails closed does not refuse them.
func (n *Node) stepOut() {
	for _, p := range n.podTable.sorted() {
		if p.leaving && p.added && !p.steered {
			p.added = !n.did("remove a pod", n.kernel.RemovePod(p.Cookie))
		}
	}
}

// endPods lets go of pods that ended: once no proxy has them, and soon in any case. One that only leaves us has longer.
func (n *Node) endPods(now time.Time, proxies []push.Proxy) {
	n.stepOut()
	defer n.tell()
	for _, p := range n.podTable.sorted() {
		if p.ending == "" {
			continue
		}
		if p.leaving && p.overdue(now) {
			p.leaving, p.endedAt, n.resend = false, now, true
			n.wake(now)
		}
		deadline := p.endedAt.Add(endPatience)
		if p.leaving {
			deadline = p.endedAt.Add(leavePatience)
		}
		has := func(x push.Proxy) bool { return p.told != nil && x.Pods[p.UID] == p.told }
		if slices.ContainsFunc(proxies, has) && now.Before(deadline) {
			n.wake(deadline)
			continue
		}
		if !n.did("remove a pod", n.kernel.RemovePod(p.Cookie)) {
			n.podTable.inherited[p.Cookie] = p.steered
		}
		if err := n.pods.Release(p.Pod); err != nil {
			n.log.Warn("a pod was not left as it was", "error", err)
		}
		delete(n.podTable.pods, p.Pod)
		if !p.served.IsZero() {
			n.podTable.since[p.UID] = now
		}
		n.resend = true
	}
	for cookie, steered := range n.podTable.inherited {
		if n.podTable.settled && !steered && n.did("remove a pod", n.kernel.RemovePod(cookie)) {
			delete(n.podTable.inherited, cookie)
		}
	}
}

// TearDown takes every frontend and every pod out of the kernel, after Run has ended: what is connected from then on
// goes direct.
func (n *Node) TearDown() error {
	err := n.kernel.SetFrontends(nil)
	for _, p := range n.podTable.sorted() {
		err = errors.Join(err,
			n.kernel.ClearListener(p.Cookie, model.IPv4),
			n.kernel.ClearListener(p.Cookie, model.IPv6),
			n.kernel.RemovePod(p.Cookie),
			n.pods.Release(p.Pod))
	}
	for cookie := range n.podTable.inherited {
		err = errors.Join(err, n.kernel.RemovePod(cookie))
	}
	return err
}
