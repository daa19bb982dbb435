package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/bpf"
)

// hook is a place in the cgroup where a program of ours runs.
type hook struct {
	name    string // of its link's pin
	attach  ebpf.AttachType
	program func(*bpf.RedirectPrograms) *ebpf.Program
}

// rewrites tells whether programs at the hook change where a connection goes.
func (h hook) rewrites() bool {
	return h.attach == ebpf.AttachCGroupInet4Connect || h.attach == ebpf.AttachCGroupInet6Connect
}

// hooks are in the order in which programs are attached; they are detached in reverse. Whoever is redirected is shown
// the address that it dialled, from the first connection to the last.
func hooks() []hook {
	return []hook{
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, func(p *bpf.RedirectPrograms) *ebpf.Program { return p.SluicePeer4 }},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, func(p *bpf.RedirectPrograms) *ebpf.Program { return p.SluicePeer6 }},
		{"getsockname4", ebpf.AttachCgroupInet4GetSockname, func(p *bpf.RedirectPrograms) *ebpf.Program { return p.SluiceSock4 }},
		{"getsockname6", ebpf.AttachCgroupInet6GetSockname, func(p *bpf.RedirectPrograms) *ebpf.Program { return p.SluiceSock6 }},
		{"connect4", ebpf.AttachCGroupInet4Connect, func(p *bpf.RedirectPrograms) *ebpf.Program { return p.SluiceConnect4 }},
		{"connect6", ebpf.AttachCGroupInet6Connect, func(p *bpf.RedirectPrograms) *ebpf.Program { return p.SluiceConnect6 }},
	}
}

// loadPrograms loads the hooks' programs over the maps.
func loadPrograms(m *bpf.RedirectMaps, spec *ebpf.CollectionSpec) (*bpf.RedirectPrograms, error) {
	can := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil
	if err := spec.Variables[bpf.RedirectVarHaveSetRetval].Set(can); err != nil {
		return nil, fmt.Errorf("set %s: %w", bpf.RedirectVarHaveSetRetval, err)
	}
	programs := &bpf.RedirectPrograms{}
	if err := spec.LoadAndAssign(programs, replacements(m, spec)); err != nil {
		return nil, fmt.Errorf("the kernel does not take our programs: %w", err)
	}
	return programs, nil
}

// attachHooks makes the programs run in the cgroup. A link that a predecessor pinned stays, and its program is swapped:
// no connection goes past. From one program to the next both kinds may run, over the same maps.
func attachHooks(c Config, programs *bpf.RedirectPrograms) error {
	cgroup, err := cgroupID(c.Cgroup)
	if err != nil {
		return err
	}
	if err := c.write("make a folder for the links", func() error { return os.MkdirAll(c.links(), 0o700) }); err != nil {
		return err
	}
	for _, h := range hooks() {
		if err := h.run(c, cgroup, h.program(programs)); err != nil {
			return err
		}
	}
	return nil
}

// pinned opens the hook's link and returns the cgroup that it is attached to: 0 once that is removed. Without a link it
// returns fs.ErrNotExist.
func (h hook) pinned(c Config) (l link.Link, cgroup uint64, err error) {
	pin := filepath.Join(c.links(), h.name)
	if l, err = link.LoadPinnedLink(pin, nil); err != nil {
		return nil, 0, fmt.Errorf("open the link %s: %w", pin, err)
	}
	info, err := l.Info()
	if err == nil && info.Cgroup() == nil {
		err = fmt.Errorf("it is of type %v, not a cgroup's", info.Type)
	}
	if err != nil {
		l.Close()
		return nil, 0, fmt.Errorf("look at the link %s: %w", pin, err)
	}
	return l, info.Cgroup().CgroupId, nil
}

// run makes the program run at the hook.
func (h hook) run(c Config, cgroup uint64, program *ebpf.Program) error {
	old, is, err := h.pinned(c)
	if errors.Is(err, fs.ErrNotExist) {
		return h.install(c, program)
	}
	if err != nil {
		return err
	}
	defer old.Close()
	if is == cgroup {
		return c.write("swap the program of "+h.name, func() error { return old.Update(program) })
	}
	// Of another cgroup, or of one that was removed. It goes first: a connect that both saw would be refused, as one to
	// the prefix.
	c.Log.Warn("the programs move to another cgroup", "hook", h.name, "cgroup", c.Cgroup)
	if err := detach(c, filepath.Join(c.links(), h.name)); err != nil {
		return err
	}
	return h.install(c, program)
}

// install attaches the program and pins the link. Until that is pinned it ends with this process.
func (h hook) install(c Config, program *ebpf.Program) error {
	var l link.Link
	err := c.write("attach our program for "+h.name+" to "+c.Cgroup, func() (err error) {
		l, err = link.AttachCgroup(link.CgroupOptions{Path: c.Cgroup, Attach: h.attach, Program: program})
		return err
	})
	if errors.Is(err, unix.EPERM) {
		return errors.Join(hindrance(c.Cgroup, h), err)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	return c.write("pin the link "+h.name, func() error { return l.Pin(filepath.Join(c.links(), h.name)) })
}

// detach takes a link away: also where somebody still has it open.
func detach(c Config, pin string) error {
	return c.write("detach "+pin, func() error {
		l, err := link.LoadPinnedLink(pin, nil)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer l.Close()
		return errors.Join(l.Detach(), l.Unpin())
	})
}

// cgroupID returns the id that the kernel has for a cgroup: the number of its folder's inode.
func cgroupID(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("the cgroup folder %s: %w", dir, err)
	}
	return st.Ino, nil
}
