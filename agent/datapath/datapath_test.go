package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/bpf"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/tests/need"
)

// expect dials every address from the pod.
func (m *machine) expect(p *testPod, want string) {
	m.t.Helper()
	for _, a := range addrs {
		got := p.dial(m.t, a)
		if got, _, _ = strings.Cut(got, " "); got != want {
			m.t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
}

func TestPrefixesAreThoseOfTheABI(t *testing.T) {
	for _, c := range [][2]string{{PrefixV4.String(), "127.64.0.0/10"}, {PrefixV6.String(), "fd6d:6573:6800::/96"}} {
		if c[0] != c[1] || netip.MustParsePrefix(c[0]).Masked().String() != c[0] {
			t.Errorf("the prefix is %s, not %s", c[0], c[1])
		}
	}
}

func TestFrontendsOfPodsAreRedirected(t *testing.T) {
	m := newMachine(t, 2)
	enrolled, other := m.pods[0], m.pods[1]
	d := m.open()
	m.expect(enrolled, "direct")
	m.pods = m.pods[:1]
	m.serve(d, 0)
	list, err := d.Frontends()
	m.must(err)
	for _, f := range list {
		if got, want := enrolled.dial(t, f.Addr), fmt.Sprintf("proxy %d", f.ID); got != want {
			t.Errorf("%s: %s, want %s", f.Addr, got, want)
		}
	}
	m.expect(other, "direct")
	counters, err := d.Counters()
	m.must(err)
	for name, want := range map[string]uint64{"redirected": 4, "steered": 4, "not_enrolled": 4, "refused": 0} {
		if got, known := counters[name]; got != want || !known {
			t.Errorf("counted %s: %d, want %d (all: %v)", name, got, want, counters)
		}
	}
	if len(counters) != int(bpf.RedirectCounterCOUNTER_COUNT) {
		t.Errorf("%d counters", len(counters))
	}
}

func TestPodsAndListeners(t *testing.T) {
	m := newMachine(t, 1)
	p, d := m.pods[0], m.open()
	m.serve(d, 0)
	if cookies, err := d.Pods(); err != nil || !slices.Equal(cookies, []uint64{p.Cookie}) {
		t.Errorf("the pods are %v, %v", cookies, err)
	}
	m.must(d.ClearListener(p.Cookie, model.IPv4))
	m.must(d.ClearListener(p.Cookie, model.IPv4)) // what is not there is no error
	for _, a := range addrs {
		want := "direct"
		if a.Addr().Is6() {
			want = "proxy"
		}
		if got, _, _ := strings.Cut(p.dial(t, a), " "); got != want {
			t.Errorf("%s without the IPv4 listener: %s, want %s", a, got, want)
		}
	}
	m.must(d.SetListener(p.Cookie, model.IPv4, p.listeners[model.IPv4]))
	m.expect(p, "proxy")
	m.must(d.AddPod(p.Pod)) // again: its program is swapped
	m.expect(p, "proxy")
	m.must(d.RemovePod(p.Cookie))
	m.must(d.RemovePod(p.Cookie))
	m.expect(p, "direct")
	if cookies, err := d.Pods(); err != nil || len(cookies) != 0 {
		t.Errorf("the pods are %v, %v", cookies, err)
	}
	m.must(d.AddPod(p.Pod))
	m.expect(p, "direct") // its listeners went with it
}

func TestWhatCannotBeAddedIsRefused(t *testing.T) {
	m := newMachine(t, 2)
	d, p, other := m.open(), m.pods[0], m.pods[1]
	for what, err := range map[string]error{
		"a pod without a cookie":       d.AddPod(Pod{NetNS: p.NetNS, Port: ListenerPort}),
		"a pod without a port":         d.AddPod(Pod{Cookie: p.Cookie, NetNS: p.NetNS}),
		"a pod without a namespace":    d.AddPod(Pod{Cookie: p.Cookie, NetNS: -1, Port: ListenerPort}),
		"another pod's listener":       d.SetListener(p.Cookie, model.IPv4, other.listeners[model.IPv4]),
		"a listener that is no socket": d.SetListener(p.Cookie, model.IPv4, p.NetNS),
		"an unknown family":            d.SetListener(p.Cookie, "ipx", p.listeners[model.IPv4]),
		"a frontend with the id 0":     d.SetFrontends([]Frontend{{Addr: addrA}}),
		"an id that is too large":      d.SetFrontends([]Frontend{{Addr: addrA, ID: 1 << 22}}),
		"a frontend without address":   d.SetFrontends([]Frontend{{ID: 1}}),
	} {
		if err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if cookies, err := d.Pods(); err != nil || len(cookies) != 0 {
		t.Errorf("the pods are %v, %v", cookies, err)
	}
	if list, err := d.Frontends(); err != nil || len(list) != 0 {
		t.Errorf("the frontends are %v, %v", list, err)
	}
}

func TestSettings(t *testing.T) {
	m := newMachine(t, 1)
	p, d := m.pods[0], m.open()
	m.serve(d, FailClosed)
	own, err := cgroupID(m.cfg.Cgroup)
	m.must(err)
	for _, c := range []struct {
		what string
		do   func() error
		want string
	}{
		{"served", func() error { return nil }, "proxy"},
		{"bypass", func() error { return d.SetBypass(true) }, "direct"},
		{"no bypass", func() error { return d.SetBypass(false) }, "proxy"},
		{"exempt", func() error { return d.SetProxyCgroups([2]uint64{0, own}) }, "direct"},
		{"not exempt", func() error { return d.SetProxyCgroups([2]uint64{own + 1, 0}) }, "proxy"},
		{"bypass of another's", func() error { return d.SetBypass(true) }, "direct"},
		{"and none", func() error { return d.SetBypass(false) }, "proxy"},
		{"no beat", func() error { return d.maps.Heartbeat.Put(uint32(0), uint64(0)) }, "refused"},
	} {
		m.must(c.do())
		t.Log(c.what)
		m.expect(p, c.want)
	}
	var s bpf.RedirectSettings
	m.must(d.maps.Settings.Lookup(uint32(0), &s))
	if s.ProxyCgroups != [2]uint64{own + 1, 0} || time.Duration(s.HeartbeatLimit) != time.Minute || s.Bypass != 0 {
		t.Errorf("the settings are %+v", s)
	}
}

func TestLastBeatIsSigned(t *testing.T) {
	m := newMachine(t, 0)
	d := m.open()
	if age := d.LastBeat(); age < 0 || age > 10*time.Second {
		t.Errorf("the age of a beat is %v", age)
	}
	var now unix.Timespec
	m.must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	m.must(d.maps.Heartbeat.Put(uint32(0), uint64(now.Nano()+int64(time.Hour))))
	if age := d.LastBeat(); age > -59*time.Minute || age < -time.Hour {
		t.Errorf("the age of a beat that is an hour ahead is %v", age)
	}
	// The proxy maps the descriptor.
	mapped, err := unix.Mmap(d.HeartbeatFD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	m.must(err)
	clear(mapped[:8])
	m.must(unix.Munmap(mapped))
	if age := d.LastBeat(); age < time.Duration(now.Nano()) {
		t.Errorf("with no beat the age is %v, less than the machine's", age)
	}
}

func TestSuccessorTakesOver(t *testing.T) {
	m := newMachine(t, 1)
	p, d := m.pods[0], m.open()
	m.serve(d, 0)
	m.must(d.SetBypass(true))
	m.must(d.SetProxyCgroups([2]uint64{1, 2}))
	before, err := d.Frontends()
	m.must(err)
	m.must(d.Close())
	m.expect(p, "direct")

	m.cfg.HeartbeatLimit = 2 * time.Minute
	d = m.open()
	if got := d.ProxyCgroups(); got != [2]uint64{1, 2} {
		t.Errorf("the exempt cgroups are %v", got)
	}
	after, err := d.Frontends()
	m.must(err)
	if !slices.Equal(before, after) {
		t.Errorf("the frontends were %v and are %v", before, after)
	}
	m.must(d.SetBypass(false))
	m.expect(p, "proxy")
	want := bpf.RedirectSettings{HeartbeatLimit: uint64(2 * time.Minute), ProxyCgroups: [2]uint64{1, 2}}
	if d.settings != want {
		t.Errorf("the settings are %+v", d.settings)
	}
	m.must(d.Close())
	m.expect(p, "proxy") // while no agent runs
	m.must(Remove(m.cfg))
	m.expect(p, "direct")
	if _, err := os.Stat(m.cfg.BPFFS); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	for _, h := range hooks() {
		if ids, err := attached(m.cfg.Cgroup, h.attach, 0); err != nil || len(ids) != 0 {
			t.Errorf("at %s there are %v, %v", h.name, ids, err)
		}
	}
	m.must(Remove(m.cfg)) // what is not there is no error
}

// An upgrade swaps the programs inside their links: no connection goes past the proxy meanwhile.
func TestNoConnectionGoesPastAnUpgrade(t *testing.T) {
	m := newMachine(t, 1)
	p, d := m.pods[0], m.open()
	m.serve(d, FailClosed)
	m.must(d.Close())
	done := make(chan error)
	go func() {
		for range 3 {
			d, err := Open(m.cfg)
			if err == nil {
				err = errors.Join(d.AddPod(p.Pod), d.Close())
			}
			if err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for n := 0; ; n++ {
		if got := p.dial(t, addrA); !strings.HasPrefix(got, "proxy ") {
			t.Errorf("connection %d: %s", n, got)
		}
		select {
		case err := <-done:
			m.must(err)
			t.Logf("%d connections", n)
			return
		default:
		}
	}
}

// Ids are kept where the kernel has them, and never given out twice in a row.
func TestNumbersOverRestarts(t *testing.T) {
	m := newMachine(t, 0)
	d := m.open()
	first, err := d.Number([]netip.AddrPort{addrA, addrB, addrC})
	m.must(err)
	m.must(d.SetFrontends([]Frontend{{addrA, first[addrA], 0}, {addrB, first[addrB], 0}}))
	m.must(d.SetFrontends([]Frontend{{addrA, first[addrA], 0}}))
	m.must(d.Close())
	d = m.open()
	second, err := d.Number([]netip.AddrPort{addrB, addrA, addrD})
	m.must(err)
	if second[addrA] != first[addrA] {
		t.Errorf("%s was %d and is %d", addrA, first[addrA], second[addrA])
	}
	for _, a := range []netip.AddrPort{addrB, addrD} {
		if id := second[a]; id == 0 || slices.Contains(slices.Collect(maps.Values(first)), id) {
			t.Errorf("%s has the id %d; the earlier ones are %v", a, id, first)
		}
	}
	// In the kernel and not asked for: the id is in use.
	third, err := d.Number([]netip.AddrPort{addrC})
	m.must(err)
	if third[addrC] == first[addrA] {
		t.Errorf("%s got the id of a frontend that is in the kernel", addrC)
	}
	again, err := d.Number([]netip.AddrPort{addrA, addrC})
	m.must(err)
	if again[addrA] != first[addrA] || again[addrC] != third[addrC] {
		t.Errorf("ids changed: %v", again)
	}
}

func TestSecondAgentIsTurnedAway(t *testing.T) {
	m := newMachine(t, 0)
	d := m.open()
	for what, f := range map[string]func() error{
		"open":   func() error { _, err := Open(m.cfg); return err },
		"bypass": func() error { c := m.cfg; c.Cgroup = ""; _, err := Open(c); return err },
		"remove": func() error { return Remove(m.cfg) },
	} {
		err := f()
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), m.cfg.BPFFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	m.must(d.Check())
	m.must(d.Close())
	m.open()
}

// The kill switch works while no agent runs, and makes nothing.
func TestOpenWithoutACgroup(t *testing.T) {
	m := newMachine(t, 1)
	c := m.cfg
	c.Cgroup = ""
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "no redirect in "+c.BPFFS) {
		t.Errorf("with nothing there: %v", err)
	}
	if _, err := os.Stat(c.BPFFS); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it made the folder (%v)", err)
	}
	d := m.open()
	m.serve(d, FailClosed)
	m.must(d.Close())
	for _, on := range []bool{true, false} {
		d, err := Open(c)
		m.must(err)
		m.must(d.SetBypass(on))
		m.must(d.Check())
		m.must(d.Close())
		m.expect(m.pods[0], map[bool]string{true: "direct", false: "proxy"}[on])
	}
}

func TestMapsOfAnotherLayoutAreReplaced(t *testing.T) {
	m := newMachine(t, 1)
	d := m.open()
	m.serve(d, 0)
	m.must(d.maps.Numbering.Put(uint32(0), bpf.RedirectNumbering{Next: 500, Layout: 99}))
	m.must(d.Close())
	c := m.cfg
	c.Cgroup = ""
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "layout 99") {
		t.Errorf("the kill switch over another layout: %v", err)
	}
	d = m.open()
	m.expect(m.pods[0], "direct")
	ids, err := d.Number([]netip.AddrPort{addrA})
	m.must(err)
	if ids[addrA] != 500 {
		t.Errorf("numbers do not go on: %v", ids)
	}
	m.serve(d, 0)
	m.expect(m.pods[0], "proxy")
}

func TestMapsThatAreNotOursAreRefused(t *testing.T) {
	m := newMachine(t, 0)
	m.must(m.open().Close())
	pin := filepath.Join(m.cfg.maps(), bpf.RedirectMapPods)
	m.must(os.Remove(pin))
	if _, err := Open(m.cfg); err == nil || !strings.Contains(err.Error(), m.cfg.maps()) || !strings.Contains(err.Error(), "cleanup") {
		t.Errorf("with a map missing: %v", err)
	}
	spec, err := bpf.LoadRedirect()
	m.must(err)
	s := spec.Maps[bpf.RedirectMapPods]
	s.MaxEntries++
	other, err := ebpf.NewMap(s)
	m.must(err)
	defer other.Close()
	m.must(other.Pin(pin))
	if _, err := Open(m.cfg); err == nil || !strings.Contains(err.Error(), pin) || !strings.Contains(err.Error(), "cleanup") {
		t.Errorf("with a map of another shape: %v", err)
	}
	m.must(Remove(m.cfg))
	m.open()
}

func TestRemoveLeavesWhatIsNotOurs(t *testing.T) {
	m := newMachine(t, 0)
	m.must(m.open().Close())
	theirs := filepath.Join(m.cfg.BPFFS, "theirs")
	m.must(os.Mkdir(theirs, 0o700))
	m.must(Remove(m.cfg))
	entries, err := os.ReadDir(m.cfg.BPFFS)
	m.must(err)
	if len(entries) != 1 || entries[0].Name() != "theirs" {
		t.Errorf("left: %v", entries)
	}
	m.must(os.Remove(theirs))
}

// Pods that ended are known until they are removed.
func TestPodThatEndedIsStillListed(t *testing.T) {
	m := newMachine(t, 0)
	d := m.open()
	var cookie uint64
	t.Run("pod", func(t *testing.T) { // its namespace ends with the subtest
		p := newPod(t)
		cookie = p.Cookie
		if err := d.AddPod(p.Pod); err != nil {
			t.Fatal(err)
		}
	})
	if cookies, err := d.Pods(); err != nil || !slices.Equal(cookies, []uint64{cookie}) {
		t.Errorf("the pods are %v, %v", cookies, err)
	}
	m.must(d.RemovePod(cookie))
	if cookies, err := d.Pods(); err != nil || len(cookies) != 0 {
		t.Errorf("the pods are %v, %v", cookies, err)
	}
}

// A pod whose link is gone would send connections to the application's own listeners.
func TestOpenRepairsAPodThatIsNotSteered(t *testing.T) {
	m := newMachine(t, 1)
	p, d := m.pods[0], m.open()
	m.serve(d, 0)
	m.must(os.Remove(podPin(m.cfg, p.Cookie)))
	if err := d.Check(); err == nil || !strings.Contains(err.Error(), podPin(m.cfg, p.Cookie)) {
		t.Errorf("check: %v", err)
	}
	m.must(d.Close())
	d = m.open()
	m.must(d.Check())
	m.expect(p, "direct")
	m.serve(d, 0)
	m.expect(p, "proxy")
}

func TestProgramsMoveToAnotherCgroup(t *testing.T) {
	m := newMachine(t, 1)
	d := m.open()
	m.serve(d, 0)
	m.must(d.Close())
	old := m.cfg.Cgroup
	m.cfg.Cgroup = need.Cgroup2(t) // a sibling: our process is not in it
	d = m.open()
	m.must(d.Check())
	m.expect(m.pods[0], "direct")
	for _, h := range hooks() {
		if ids, err := attached(old, h.attach, 0); err != nil || len(ids) != 0 {
			t.Errorf("at %s of the old cgroup there are %v, %v", h.name, ids, err)
		}
	}
	m.must(d.Close())
	m.cfg.Cgroup = old
	m.open()
	m.expect(m.pods[0], "proxy")
}
