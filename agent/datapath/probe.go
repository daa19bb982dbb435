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
)

// Probe tells whether the redirect can be made here; if not, what is in the way and what to do about it. It asks for
// features, not for versions, and changes nothing.
func Probe(c Config) error {
	c = c.withDefaults()
	for _, check := range []func() error{
		func() error { return checkCapabilities(unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_BPF) },
		func() error { return checkCgroup(c.Cgroup) },
		func() error { return checkBPFFS(c.BPFFS) },
		func() error { return missing(needed()) },
		func() error { return checkAttach(c) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func checkCapabilities(wanted ...int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if err := unix.Capget(&header, &has[0]); err != nil {
		return fmt.Errorf("read our capabilities: %w", err)
	}
	for _, c := range wanted {
		if has[c/32].Effective&(1<<(c%32)) == 0 {
			return errors.New("the agent lacks privileges: run it as root, or give it CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF")
		}
	}
	return nil
}

func checkCgroup(dir string) error {
	if dir == "" {
		return errors.New("no cgroup is named: name the cgroup2 folder above the pods, such as /sys/fs/cgroup/kubepods.slice")
	}
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("the cgroup folder cannot be used: name the cgroup2 folder above the pods, such as /sys/fs/cgroup/kubepods.slice: %w", err)
	}
	if !onFileSystem(dir, unix.CGROUP2_SUPER_MAGIC) {
		return fmt.Errorf("the folder %s is not on a cgroup2 file system: name one that is ('mount -t cgroup2' lists them)", dir)
	}
	// Every cgroup but the root has the file (kernel, cgroup-v2.rst).
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is the root of all cgroups, where the order among programs is that of attachment: name a cgroup below it, such as kubepods.slice", dir)
	}
	return nil
}

// checkBPFFS accepts a folder that is not there yet. The root of the file system is everybody's.
func checkBPFFS(dir string) error {
	at := filepath.Clean(dir)
	for {
		if _, err := os.Stat(at); err == nil {
			break
		}
		if up := filepath.Dir(at); up != at {
			at = up
			continue
		}
		break
	}
	if !onFileSystem(at, unix.BPF_FS_MAGIC) {
		return fmt.Errorf("the folder %s is not on a BPF file system: mount one with 'mount -t bpf bpf /sys/fs/bpf', or name a folder below one", dir)
	}
	if at == filepath.Clean(dir) && !onFileSystem(filepath.Dir(at), unix.BPF_FS_MAGIC) {
		return fmt.Errorf("%s is the root of a BPF file system, which others use as well: name a folder below it", dir)
	}
	return nil
}

// feature is something that the kernel has to offer.
type feature struct {
	name string
	have func() error
}

func needed() []feature {
	helper := func(p ebpf.ProgramType, f asm.BuiltinFunc) func() error {
		return func() error { return features.HaveProgramHelper(p, f) }
	}
	return []feature{
		{"programs at a cgroup's connect (CONFIG_CGROUP_BPF)", func() error { return features.HaveProgramType(ebpf.CGroupSockAddr) }},
		{"sk_lookup programs", func() error { return features.HaveProgramType(ebpf.SkLookup) }},
		{"SOCKHASH maps (CONFIG_BPF_STREAM_PARSER)", func() error { return features.HaveMapType(ebpf.SockHash) }},
		{"SK_STORAGE maps", func() error { return features.HaveMapType(ebpf.SkStorage) }},
		{"arrays that can be mapped", func() error { return features.HaveMapFlag(features.BPF_F_MMAPABLE) }},
		{"bpf_get_netns_cookie at a cgroup's connect", helper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie)},
		{"bpf_get_current_cgroup_id at a cgroup's connect", helper(ebpf.CGroupSockAddr, asm.FnGetCurrentCgroupId)},
		{"bpf_sk_storage_get at a cgroup's connect", helper(ebpf.CGroupSockAddr, asm.FnSkStorageGet)},
		{"bpf_sk_assign in sk_lookup", helper(ebpf.SkLookup, asm.FnSkAssign)},
		{"SO_NETNS_COOKIE", haveNetnsCookie},
	}
}

func haveNetnsCookie() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	_, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return err
}

func missing(all []feature) error {
	for _, f := range all {
		if err := f.have(); err != nil {
			return fmt.Errorf("this kernel lacks %s: use one of Linux 5.15 or later in which it is not switched off: %w", f.name, err)
		}
	}
	return nil
}

// checkAttach attaches a program to each hook that changes nothing, and takes it away. Where a predecessor's link is
// taken over, nothing is attached anew.
func checkAttach(c Config) error {
	wanted, err := cgroupID(c.Cgroup)
	if err != nil {
		return err
	}
	for _, h := range hooks() {
		if old, is, err := h.pinned(c); err == nil {
			old.Close()
			if is == wanted {
				continue
			}
		}
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "sluice_probe", Type: ebpf.CGroupSockAddr, AttachType: h.attach, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		})
		if err != nil {
			return fmt.Errorf("this kernel lacks programs at %s: use one of Linux 5.15 or later: %w", h.name, err)
		}
		err = tryAttach(c.Cgroup, h, program)
		program.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func tryAttach(cgroup string, h hook, program *ebpf.Program) error {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.attach, Program: program})
	if errors.Is(err, unix.EPERM) {
		return hindrance(cgroup, h)
	}
	if err != nil {
		return fmt.Errorf("a program cannot be attached to %s of %s: %w", h.name, cgroup, err)
	}
	return l.Close()
}
