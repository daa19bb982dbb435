package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Check tells whether our programs still run in the cgroup, and see addresses first. What others do there, or to us, is
// said in one sentence each.
func (d *Datapath) Check() error {
	if d.cfg.Cgroup == "" {
		return nil
	}
	var all []error
	for _, h := range hooks() {
		all = append(all, h.check(d.cfg))
	}
	return errors.Join(append(all, d.checkPods())...)
}

// checkPods looks for pods whose connections nobody steers.
func (d *Datapath) checkPods() error {
	enrolled, err := d.enrolled()
	if err != nil {
		return err
	}
	links, err := steered(d.cfg)
	if err != nil {
		return err
	}
	for _, cookie := range enrolled {
		if !slices.Contains(links, cookie) {
			return fmt.Errorf("our link %s is gone: restart the agent", podPin(d.cfg, cookie))
		}
	}
	return nil
}

func (h hook) check(c Config) error {
	l, cgroup, err := h.pinned(c)
	if err != nil {
		return fmt.Errorf("our program for %s is not attached any more: restart the agent: %w", h.name, err)
	}
	defer l.Close()
	wanted, err := cgroupID(c.Cgroup)
	if err != nil {
		return fmt.Errorf("the pods' cgroup is gone: restart the agent with one that exists: %w", err)
	}
	if cgroup != wanted {
		return fmt.Errorf("our program for %s is not attached to %s any more, whose folder was removed and made again: restart the agent", h.name, c.Cgroup)
	}
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("look at our program for %s: %w", h.name, err)
	}
	effective, err := attached(c.Cgroup, h.attach, unix.BPF_F_QUERY_EFFECTIVE)
	if err != nil {
		return err
	}
	return errors.Join(h.order(c, info.Program, effective), h.silenced(c, effective))
}

// order looks at who runs before us. A program of a parent cgroup runs after ours, unless it was attached with
// BPF_F_PREORDER; in the same cgroup the order of attachment counts (redirect/README pitfall 12).
func (h hook) order(c Config, ours ebpf.ProgramID, effective []ebpf.ProgramID) error {
	at := slices.Index(effective, ours)
	if at < 0 {
		return fmt.Errorf("our program for %s is attached to %s and does not run there: restart the agent", h.name, c.Cgroup)
	}
	if at > 0 && h.rewrites() {
		return fmt.Errorf("%s runs before ours at %s of %s: if it rewrites the addresses of Services, we do not see them; attach it to a parent cgroup",
			describe(effective[0]), h.name, c.Cgroup)
	}
	return nil
}

// silenced looks for programs that do not run because ours do: those that a parent got without BPF_F_ALLOW_MULTI.
func (h hook) silenced(c Config, effective []ebpf.ProgramID) error {
	for _, dir := range parents(c.Cgroup) {
		there, err := attached(dir, h.attach, 0)
		if err != nil {
			return err
		}
		for _, id := range there {
			if !slices.Contains(effective, id) {
				return fmt.Errorf("%s at %s of %s does not run for the pods, because it was attached without BPF_F_ALLOW_MULTI and ours is below it: let its owner attach it with the flag",
					describe(id), h.name, dir)
			}
		}
	}
	return nil
}

// hindrance says which program keeps ours from being attached: a cgroup or a parent of it has one that allows no other.
func hindrance(cgroup string, h hook) error {
	for _, dir := range append([]string{cgroup}, parents(cgroup)...) {
		if there, err := attached(dir, h.attach, 0); err == nil && len(there) > 0 {
			return fmt.Errorf("%s at %s of %s keeps ours from running, because it was attached without BPF_F_ALLOW_MULTI: let its owner attach it with the flag, or name another cgroup",
				describe(there[0]), h.name, dir)
		}
	}
	return fmt.Errorf("the kernel forbids to attach a program to %s: the agent lacks CAP_NET_ADMIN or CAP_BPF", cgroup)
}

// attached returns the programs of a cgroup; with BPF_F_QUERY_EFFECTIVE those that run for it, in their order.
func attached(dir string, at ebpf.AttachType, flags uint32) ([]ebpf.ProgramID, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the cgroup: %w", err)
	}
	defer f.Close()
	result, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: at, QueryFlags: flags})
	if err != nil {
		return nil, fmt.Errorf("list the programs of %s: %w", dir, err)
	}
	var ids []ebpf.ProgramID
	for _, p := range result.Programs {
		ids = append(ids, p.ID)
	}
	return ids, nil
}

// parents returns the cgroups above, as far as they are mounted, the nearest first.
func parents(dir string) []string {
	var all []string
	for {
		up := filepath.Dir(dir)
		if up == dir || !onFileSystem(up, unix.CGROUP2_SUPER_MAGIC) {
			return all
		}
		all, dir = append(all, up), up
	}
}

func onFileSystem(path string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == magic
}

// describe names a program for a person.
func describe(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("the program %d", id)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name == "" {
		return fmt.Sprintf("the program %d", id)
	}
	return fmt.Sprintf("the program %q (id %d)", info.Name, id)
}
