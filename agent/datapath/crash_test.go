package datapath

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/bpf"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// life is what an agent does from its first start to its removal: every kind of write, and the writes of each in every
// situation that they can meet.
type life struct {
	cfg       Config
	pods      []Pod
	listeners []map[model.Family]int // of each pod
	d         *Datapath
}

type deed struct {
	name string
	do   func(*life) error
}

func deeds() []deed {
	return []deed{
		{"open", func(l *life) (err error) {
			if l.d, err = Open(l.cfg); err != nil {
				return err
			}
			return beat(l.d)
		}},
		{"add pod 0", func(l *life) error { return l.d.AddPod(l.pods[0]) }},
		{"add pod 1", func(l *life) error { return l.d.AddPod(l.pods[1]) }},
		{"exempt a cgroup", func(l *life) error { return l.d.SetProxyCgroups([2]uint64{1, 2}) }},
		{"first frontends", func(l *life) error { return l.front(0, addrA, addrC, addrD) }},
		{"listener of pod 0, IPv4", func(l *life) error { return l.listen(0, model.IPv4) }},
		{"listener of pod 0, IPv6", func(l *life) error { return l.listen(0, model.IPv6) }},
		{"listener of pod 1, IPv4", func(l *life) error { return l.listen(1, model.IPv4) }},
		{"listener of pod 1, IPv6", func(l *life) error { return l.listen(1, model.IPv6) }},
		{"other frontends and flags", func(l *life) error { return l.front(FailClosed, addrA, addrB, addrC) }},
		{"bypass on", func(l *life) error { return l.d.SetBypass(true) }},
		{"bypass off", func(l *life) error { return l.d.SetBypass(false) }},
		{"no listener of pod 1, IPv4", func(l *life) error { return l.d.ClearListener(l.pods[1].Cookie, model.IPv4) }},
		{"remove pod 1", func(l *life) error { return l.d.RemovePod(l.pods[1].Cookie) }},
		{"add pod 0 again", func(l *life) error { return l.d.AddPod(l.pods[0]) }},
		{"close", func(l *life) error { return l.d.Close() }},
		{"take over", func(l *life) (err error) { l.d, err = Open(l.cfg); return err }},
	}
}

func (l *life) front(flags Flags, addrs ...netip.AddrPort) error {
	ids, err := l.d.Number(addrs)
	if err != nil {
		return err
	}
	var all []Frontend
	for _, a := range addrs {
		all = append(all, Frontend{a, ids[a], flags})
	}
	return l.d.SetFrontends(all)
}

func (l *life) listen(pod int, f model.Family) error {
	return l.d.SetListener(l.pods[pod].Cookie, f, l.listeners[pod][f])
}

func (m *machine) life() *life {
	l := &life{cfg: m.cfg}
	for _, p := range m.pods {
		l.pods = append(l.pods, p.Pod)
		l.listeners = append(l.listeners, p.listeners)
	}
	return l
}

// state is what the kernel has, read by its pins: what an agent left that is gone, or in the middle of something.
type state struct {
	frontends map[netip.AddrPort]Frontend
	pods      map[uint64]bool
	listeners map[bpf.RedirectListenerKey]bool
	hooks     map[ebpf.AttachType]bool
	bypass    bool
	beats     bool
}

func (m *machine) state() state {
	m.t.Helper()
	s := state{
		frontends: map[netip.AddrPort]Frontend{}, pods: map[uint64]bool{},
		listeners: map[bpf.RedirectListenerKey]bool{}, hooks: map[ebpf.AttachType]bool{},
	}
	for _, h := range hooks() {
		ids, err := attached(m.cfg.Cgroup, h.attach, 0)
		m.must(err)
		s.hooks[h.attach] = len(ids) > 0
	}
	spec, err := bpf.LoadRedirect()
	m.must(err)
	all, err := openMaps(m.cfg, spec)
	if errors.Is(err, os.ErrNotExist) {
		return s
	}
	m.must(err)
	d := &Datapath{cfg: m.cfg, maps: all}
	defer closeMaps(all)
	m.must(all.Settings.Lookup(uint32(0), &d.settings))
	s.bypass = d.settings.Bypass != 0
	s.beats = d.LastBeat() < time.Duration(d.settings.HeartbeatLimit)
	list, err := d.Frontends()
	m.must(err)
	for _, f := range list {
		s.frontends[f.Addr] = f
	}
	cookies, err := d.enrolled()
	m.must(err)
	for _, cookie := range cookies {
		s.pods[cookie] = true
		for _, f := range families {
			key, err := listenerKey(cookie, f)
			m.must(err)
			var socket uint64
			s.listeners[key] = all.Listeners.Lookup(key, &socket) == nil
		}
	}
	return s
}

// becomes says what becomes of a connect in that state. Whether the prefix is steered does not come into it: it has to
// be, wherever connects are sent there.
func (s state) becomes(p *testPod, to netip.AddrPort) string {
	hook, f := ebpf.AttachCGroupInet4Connect, model.IPv4
	if to.Addr().Is6() {
		hook, f = ebpf.AttachCGroupInet6Connect, model.IPv6
	}
	frontend, is := s.frontends[to]
	if !is || !s.hooks[hook] || !s.pods[p.Cookie] || s.bypass {
		return "direct"
	}
	key, err := listenerKey(p.Cookie, f)
	if err == nil && s.listeners[key] && s.beats {
		return fmt.Sprintf("proxy %d", frontend.ID)
	}
	if frontend.Flags&FailClosed != 0 {
		return "refused"
	}
	return "direct"
}

// invariants holds at any moment: what the maps say is what becomes of connections, and an id is one frontend's.
func (m *machine) invariants(when string) {
	m.t.Helper()
	s := m.state()
	for i, p := range m.pods {
		for _, a := range addrs {
			if got, want := p.dial(m.t, a), s.becomes(p, a); got != want {
				m.t.Errorf("%s: pod %d, %s: %s, want %s", when, i, a, got, want)
			}
		}
	}
	seen := map[uint32]netip.AddrPort{}
	for a, f := range s.frontends {
		if other, twice := seen[f.ID]; twice {
			m.t.Errorf("%s: %s and %s have the id %d", when, a, other, f.ID)
		}
		seen[f.ID] = a
	}
}

// settled is how everything has to be at the end of a life.
func (m *machine) settled(d *Datapath) {
	m.t.Helper()
	s := m.state()
	for _, a := range addrs {
		want := "direct"
		if a != addrD {
			want = fmt.Sprintf("proxy %d", s.frontends[a].ID)
		}
		if got := m.pods[0].dial(m.t, a); got != want {
			m.t.Errorf("at the end: pod 0, %s: %s, want %s", a, got, want)
		}
		if got := m.pods[1].dial(m.t, a); got != "direct" {
			m.t.Errorf("at the end: pod 1, %s: %s, want direct", a, got)
		}
	}
	if len(s.frontends) != 3 || s.frontends[addrA].Flags != FailClosed || d.settings.ProxyCgroups != [2]uint64{1, 2} || d.settings.Bypass != 0 {
		m.t.Errorf("at the end: frontends %v, settings %+v", s.frontends, d.settings)
	}
	if cookies, err := d.Pods(); err != nil || !slices.Equal(cookies, []uint64{m.pods[0].Cookie}) {
		m.t.Errorf("at the end: pods %v, %v", cookies, err)
	}
	if err := d.Check(); err != nil {
		m.t.Errorf("at the end: %v", err)
	}
}

// vanished is how everything has to be after a removal.
func (m *machine) vanished() {
	m.t.Helper()
	for _, p := range m.pods {
		m.expect(p, "direct")
	}
	if _, err := os.Stat(m.cfg.BPFFS); !errors.Is(err, os.ErrNotExist) {
		m.t.Errorf("the folder is left (%v)", err)
	}
	for _, h := range hooks() {
		if ids, err := attached(m.cfg.Cgroup, h.attach, 0); err != nil || len(ids) != 0 {
			m.t.Errorf("at %s there are %v, %v", h.name, ids, err)
		}
	}
}

var errInjected = errors.New("injected")

// failing makes the n-th write fail, from 1 on; what tells which one that was.
func failing(c *Config, n int) (what *string) {
	what = new(string)
	c.write = func(name string, do func() error) error {
		if n--; n == 0 {
			*what = name
			return fmt.Errorf("%s: %w", name, errInjected)
		}
		return write(name, do)
	}
	return what
}

// Kernel writes fail one after another: after each, no connection meets a half-made state, and the next run repairs it.
func TestEachWriteFails(t *testing.T) {
	m := newMachine(t, 2)
	for n := 1; ; n++ {
		l := m.life()
		what := failing(&l.cfg, n)
		for _, d := range deeds() {
			err := d.do(l)
			if errors.Is(err, errInjected) {
				m.invariants(fmt.Sprintf("write %d (%s), in %q, failed", n, *what, d.name))
				err = d.do(l)
			}
			if err != nil {
				t.Fatalf("write %d (%s) failed, and then %q: %v", n, *what, d.name, err)
			}
		}
		m.settled(l.d)
		m.must(l.d.Close())
		err := Remove(l.cfg)
		if errors.Is(err, errInjected) {
			m.invariants(fmt.Sprintf("write %d (%s), in a removal, failed", n, *what))
			err = Remove(l.cfg)
		}
		m.must(err)
		m.vanished()
		if *what == "" {
			t.Logf("%d writes", n-1)
			return
		}
		if t.Failed() {
			return
		}
	}
}

const childVariable = "SLUICE_TEST_DATAPATH_LIFE"

// child is what the process needs to know that lives a life and is killed in it.
type child struct {
	BPFFS, Cgroup string
	KillAt        int
	Pods          []Pod
	NetNS         []string
	Listeners     []map[model.Family]int
}

func TestMain(m *testing.M) {
	if given := os.Getenv(childVariable); given != "" {
		if err := live(given); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func live(given string) error {
	var c child
	if err := json.Unmarshal([]byte(given), &c); err != nil {
		return err
	}
	l := &life{cfg: Config{BPFFS: c.BPFFS, Cgroup: c.Cgroup}, pods: c.Pods, listeners: c.Listeners}
	for i := range l.pods {
		fd, err := unix.Open(c.NetNS[i], unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		l.pods[i].NetNS = fd
	}
	l.cfg.write = func(what string, do func() error) error {
		if c.KillAt--; c.KillAt == 0 {
			fmt.Print(what)
			if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
				return err
			}
			select {} // a signal to oneself may take a moment
		}
		return write(what, do)
	}
	for _, d := range deeds() {
		if err := d.do(l); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return errors.Join(l.d.Close(), Remove(l.cfg))
}

// killed runs a life in a process of its own, which is killed before its n-th write. It tells before which, or "" if
// the life was over before.
func (m *machine) killed(n int) string {
	m.t.Helper()
	c := child{BPFFS: m.cfg.BPFFS, Cgroup: m.cfg.Cgroup, KillAt: n}
	cmd := exec.CommandContext(m.t.Context(), os.Args[0])
	for _, p := range m.pods {
		c.Pods, c.NetNS = append(c.Pods, p.Pod), append(c.NetNS, p.netns)
		fds := map[model.Family]int{}
		for _, f := range families {
			fd, err := unix.FcntlInt(uintptr(p.listeners[f]), unix.F_DUPFD_CLOEXEC, 0)
			m.must(err)
			file := os.NewFile(uintptr(fd), "listener")
			defer file.Close()
			fds[f] = 3 + len(cmd.ExtraFiles)
			cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		}
		c.Listeners = append(c.Listeners, fds)
	}
	given, err := json.Marshal(c)
	m.must(err)
	var stderr strings.Builder
	cmd.Env, cmd.Stderr = append(os.Environ(), childVariable+"="+string(given)), &stderr
	what, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(interface{ Signaled() bool }).Signaled() {
		return string(what)
	}
	if err != nil {
		m.t.Fatalf("the process that was to be killed: %v: %s", err, stderr.String())
	}
	return ""
}

// kill -9 at each step: connections go direct or are served, and the next start repairs what is left.
func TestKilledAtEachWrite(t *testing.T) {
	m := newMachine(t, 2)
	for n := 1; ; n++ {
		what := m.killed(n)
		if what == "" {
			t.Logf("%d writes", n-1)
			m.vanished()
			return
		}
		m.invariants(fmt.Sprintf("killed before write %d (%s)", n, what))
		l := m.life()
		for _, d := range deeds() {
			if err := d.do(l); err != nil {
				t.Fatalf("killed before write %d (%s), and then %q: %v", n, what, d.name, err)
			}
		}
		m.settled(l.d)
		m.must(l.d.Close())
		m.must(Remove(m.cfg))
		m.vanished()
		if t.Failed() {
			t.Fatalf("after it was killed before write %d (%s)", n, what)
		}
	}
}
