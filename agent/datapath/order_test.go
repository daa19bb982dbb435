package datapath

import (
	"slices"
	"strconv"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// The order of the writes is what keeps connections from meeting a half-made state; the reasons are said in the code.
func TestOrderOfWrites(t *testing.T) {
	m := newMachine(t, 1)
	p := m.pods[0]
	var written []string
	m.cfg.write = func(what string, do func() error) error {
		written = append(written, what)
		return write(what, do)
	}
	check := func(what string, err error, want ...string) {
		t.Helper()
		m.must(err)
		if !slices.Equal(written, want) {
			t.Errorf("%s writes\n%q, want\n%q", what, written, want)
		}
		written = nil
	}
	link := "detach " + m.cfg.podLinks() + "/" + strconv.FormatUint(p.Cookie, 10)
	d, err := Open(m.cfg)
	m.must(err)
	defer d.Close()
	var attachedLast []string
	for _, h := range hooks() {
		attachedLast = append(attachedLast, "attach our program for "+h.name+" to "+m.cfg.Cgroup, "pin the link "+h.name)
	}
	if last := written[len(written)-len(attachedLast):]; !slices.Equal(last, attachedLast) || hooks()[4].name != "connect4" {
		t.Errorf("the last that a start writes is %q", last)
	}
	written = nil
	check("a pod that is new", d.AddPod(p.Pod), "make a folder for the pods' links",
		"remove a pod", "clear a listener", "clear a listener", link,
		"attach the pod's program", "pin the pod's link", "add a pod")
	check("a pod that is known", d.AddPod(p.Pod), "make a folder for the pods' links", "swap the pod's program", "add a pod")
	check("a listener", d.SetListener(p.Cookie, model.IPv4, p.listeners[model.IPv4]), "set a listener")
	check("the first frontends", d.SetFrontends([]Frontend{{addrB, 2, 0}, {addrA, 1, 0}}),
		"set frontend 10.96.0.10:80", "set frontend 10.96.0.11:80")
	check("others", d.SetFrontends([]Frontend{{addrC, 3, 0}, {addrB, 2, FailClosed}}),
		"remove frontend 10.96.0.10:80", "set frontend 10.96.0.11:80", "set frontend [fd96::10]:80")
	check("the same", d.SetFrontends([]Frontend{{addrC, 3, 0}, {addrB, 2, FailClosed}}))
	check("settings that are as they were", d.SetBypass(false))
	check("the end of a pod", d.RemovePod(p.Cookie), "remove a pod", "clear a listener", "clear a listener", link)
	m.must(d.AddPod(p.Pod))
	m.must(d.Close())
	written = nil
	var gone []string
	for _, h := range slices.Backward(hooks()) {
		gone = append(gone, "detach "+m.cfg.links()+"/"+h.name)
	}
	gone = append(gone, link, "remove the folder of links", "remove the folder of links",
		"take the maps' name away", "remove unnamed maps", "remove unnamed maps", "remove our folder")
	check("a removal", Remove(m.cfg), gone...)
}
