package datapath

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

func (m *machine) says(err error, words ...string) {
	m.t.Helper()
	if err == nil {
		m.t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			m.t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func TestProbe(t *testing.T) {
	m := newMachine(t, 0)
	m.must(Probe(m.cfg))
	mount := filepath.Dir(m.cfg.BPFFS)
	root := m.cfg.Cgroup
	for {
		if _, err := os.Stat(filepath.Join(root, "cgroup.type")); err != nil {
			break
		}
		root = filepath.Dir(root)
	}
	for what, c := range map[string]struct {
		edit  func(*Config)
		words []string
	}{
		"no cgroup is named":              {func(c *Config) { c.Cgroup = "" }, []string{"no cgroup", "kubepods"}},
		"there is no such cgroup":         {func(c *Config) { c.Cgroup += "/none" }, []string{m.cfg.Cgroup + "/none", "kubepods"}},
		"a folder that is no cgroup":      {func(c *Config) { c.Cgroup = mount }, []string{mount, "cgroup2"}},
		"the root of all cgroups":         {func(c *Config) { c.Cgroup = root }, []string{root, "root", "below it"}},
		"no BPF file system":              {func(c *Config) { c.BPFFS = t.TempDir() }, []string{"mount -t bpf"}},
		"below no BPF file system":        {func(c *Config) { c.BPFFS = "/nonexistent/sluice" }, []string{"/nonexistent/sluice", "mount -t bpf"}},
		"the root of the BPF file system": {func(c *Config) { c.BPFFS = mount }, []string{mount, "below it"}},
	} {
		t.Run(what, func(t *testing.T) {
			m.t = t
			cfg := m.cfg
			c.edit(&cfg)
			m.says(Probe(cfg), c.words...)
		})
	}
	m.t = t
	if _, err := os.Stat(m.cfg.BPFFS); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the probe made the folder (%v)", err)
	}
	d := m.open()
	m.must(Probe(m.cfg)) // beside an agent that runs
	m.must(d.Check())
}

func TestProbeWithoutPrivileges(t *testing.T) {
	m := newMachine(t, 0)
	for _, lost := range []int{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_BPF} {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // the thread that lacks it ends with the goroutine
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var caps [2]unix.CapUserData
			if err := unix.Capget(&header, &caps[0]); err != nil {
				done <- err
				return
			}
			caps[lost/32].Effective &^= 1 << (lost % 32)
			if err := unix.Capset(&header, &caps[0]); err != nil {
				done <- err
				return
			}
			done <- Probe(m.cfg)
		}()
		m.says(<-done, "root", "CAP_BPF")
	}
}

func TestMissingFeatureIsNamed(t *testing.T) {
	gone := errors.New("not supported")
	err := missing([]feature{{"one", func() error { return nil }}, {"two", func() error { return gone }}})
	if !errors.Is(err, gone) || !strings.Contains(err.Error(), "lacks two:") {
		t.Error(err)
	}
	if err := missing(nil); err != nil {
		t.Error(err)
	}
}

// stranger attaches a program that lets everything pass, as somebody else would do; flags 0 is the old way, which
// allows no other program.
func stranger(t *testing.T, cgroup string, attach ebpf.AttachType, name string, flags uint32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.CGroupSockAddr, AttachType: attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: attach, Flags: flags}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: attach}); err != nil {
			t.Errorf("detach a stranger's program: %v", err)
		}
	})
	return p
}

// below makes a machine whose cgroup is a child of another, which it returns.
func below(t *testing.T) (*machine, string) {
	t.Helper()
	m := newMachine(t, 1)
	parent := m.cfg.Cgroup
	m.cfg.Cgroup = filepath.Join(parent, "pods")
	m.must(os.Mkdir(m.cfg.Cgroup, 0o755))
	m.must(os.WriteFile(filepath.Join(m.cfg.Cgroup, "cgroup.procs"), []byte("0"), 0))
	t.Cleanup(func() { // before the parent is asked to go
		if err := os.WriteFile(filepath.Join(parent, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Error(err)
		}
	})
	return m, parent
}

// redirect/README pitfall 12.
func TestProgramOfAnotherOwnerThatAllowsNoOther(t *testing.T) {
	const connect4 = ebpf.AttachCGroupInet4Connect
	t.Run("in the cgroup, before us", func(t *testing.T) {
		m := newMachine(t, 0)
		stranger(t, m.cfg.Cgroup, connect4, "alone", 0)
		m.says(Probe(m.cfg), `"alone"`, "connect4", m.cfg.Cgroup, "BPF_F_ALLOW_MULTI")
		_, err := Open(m.cfg)
		m.says(err, `"alone"`, "connect4", m.cfg.Cgroup)
		if _, err := os.Stat(m.cfg.BPFFS); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what was made is still there (%v)", err)
		}
	})
	t.Run("in a parent, before us", func(t *testing.T) {
		m, parent := below(t)
		stranger(t, parent, ebpf.AttachCgroupInet6GetSockname, "alone", 0)
		m.says(Probe(m.cfg), `"alone"`, "getsockname6", parent)
		_, err := Open(m.cfg)
		m.says(err, `"alone"`, parent)
	})
	t.Run("in a parent, after us", func(t *testing.T) {
		m, parent := below(t)
		d := m.open()
		m.serve(d, 0)
		m.must(d.Check())
		stranger(t, parent, connect4, "silent", 0)
		m.says(d.Check(), `"silent"`, "does not run for the pods", parent)
		m.expect(m.pods[0], "proxy")
		// It keeps no successor of ours away, which takes the link over.
		m.must(d.Close())
		m.must(Probe(m.cfg))
		d = m.open()
		m.says(d.Check(), `"silent"`)
	})
}

func TestProgramsOfOthersThatDoNoHarm(t *testing.T) {
	m, parent := below(t)
	const multi = 2 // BPF_F_ALLOW_MULTI
	stranger(t, parent, ebpf.AttachCGroupInet4Connect, "parent", multi)
	m.must(Probe(m.cfg))
	d := m.open()
	stranger(t, m.cfg.Cgroup, ebpf.AttachCGroupInet4Connect, "after_us", multi)
	stranger(t, m.cfg.Cgroup, ebpf.AttachCGroupUDP4Sendmsg, "udp", multi)
	m.must(d.Check())
	m.serve(d, 0)
	m.expect(m.pods[0], "proxy")
}

func TestProgramThatRunsBeforeOursIsNamed(t *testing.T) {
	m := newMachine(t, 0)
	stranger(t, m.cfg.Cgroup, ebpf.AttachCGroupInet6Connect, "first", 2)
	stranger(t, m.cfg.Cgroup, ebpf.AttachCgroupInet6GetPeername, "no_matter", 2)
	err := m.open().Check()
	m.says(err, `"first"`, "before ours", "connect6", m.cfg.Cgroup)
	if strings.Contains(err.Error(), "no_matter") {
		t.Errorf("where the order does not matter: %v", err)
	}
}

func TestCheckFindsWhatIsGone(t *testing.T) {
	m := newMachine(t, 0)
	d := m.open()
	m.must(detach(d.cfg, filepath.Join(m.cfg.links(), "connect6")))
	m.says(d.Check(), "connect6", "restart")
	m.must(d.Close())
	d = m.open()
	m.must(d.Check())

	sub := filepath.Join(m.cfg.Cgroup, "pods")
	m.must(os.Mkdir(sub, 0o755))
	m.must(d.Close())
	m.cfg.Cgroup = sub
	d = m.open()
	m.must(d.Check())
	m.must(os.Remove(sub))
	m.says(d.Check(), "cgroup is gone", sub)
	m.must(os.Mkdir(sub, 0o755))
	m.says(d.Check(), "removed and made again", sub)
	m.must(d.Close())
	m.must(m.open().Check())
}

// Whoever removes the folder has the lock, and nobody is left with one on a folder that is gone.
func TestLockOfAFolderThatIsRemovedAgainAndAgain(t *testing.T) {
	dir := filepath.Join(need.BPFFS(t), "sluice")
	if _, err := lock(dir, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for had := 0; had < 100; {
				f, err := lock(dir, true)
				if errors.Is(err, ErrLocked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				had++
				if !named(f, dir) {
					t.Error("it locked a folder that is gone")
				}
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
				f.Close()
			}
		})
	}
	wg.Wait()
}
