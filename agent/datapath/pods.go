package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/bpf"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func podPin(c Config, cookie uint64) string {
	return filepath.Join(c.podLinks(), strconv.FormatUint(cookie, 10))
}

// Pods returns the cookies of the namespaces that the kernel knows, sorted: also of those that have ended.
func (d *Datapath) Pods() ([]uint64, error) {
	enrolled, err := d.enrolled()
	if err != nil {
		return nil, err
	}
	links, err := steered(d.cfg)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(enrolled, links)
	slices.Sort(all)
	return slices.Compact(all), nil
}

// enrolled returns the namespaces whose connects are redirected.
func (d *Datapath) enrolled() ([]uint64, error) {
	var all []uint64
	var cookie uint64
	var pod bpf.RedirectPod
	entries := d.maps.Pods.Iterate()
	for entries.Next(&cookie, &pod) {
		all = append(all, cookie)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
	}
	return all, nil
}

// steered returns the namespaces in which our sk_lookup program is pinned.
func steered(c Config) ([]uint64, error) {
	entries, err := os.ReadDir(c.podLinks())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the pods' links: %w", err)
	}
	var all []uint64
	for _, e := range entries {
		cookie, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is not ours: take it away", filepath.Join(c.podLinks(), e.Name()))
		}
		all = append(all, cookie)
	}
	return all, nil
}

// AddPod brings a pod in, or brings what is known of it up to date. Connections to the prefix are steered before the
// first connect is sent there; what no listener is set for goes direct.
func (d *Datapath) AddPod(p Pod) error {
	if p.Cookie == 0 || p.Port == 0 {
		return fmt.Errorf("a pod with the cookie %d and the port %d cannot be added", p.Cookie, p.Port)
	}
	if err := d.cfg.write("make a folder for the pods' links", func() error { return os.MkdirAll(d.cfg.podLinks(), 0o700) }); err != nil {
		return err
	}
	program, err := d.steering(p)
	if err != nil {
		return err
	}
	defer program.Close()
	if err := d.runSteering(p, program); err != nil {
		return err
	}
	value := bpf.RedirectPod{Port: p.Port}
	if p.IPv4.Is4() {
		value.Ipv4 = p.IPv4.As4()
	}
	if p.IPv6.Is6() {
		value.Ipv6 = p.IPv6.As16()
	}
	err = d.cfg.write("add a pod", func() error { return d.maps.Pods.Put(p.Cookie, value) })
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("%w: a node can have %d pods", err, d.maps.Pods.MaxEntries())
	}
	return err
}

// steering loads the pod's own sk_lookup program.
func (d *Datapath) steering(p Pod) (*ebpf.Program, error) {
	spec := d.steer.Copy()
	if err := errors.Join(
		spec.Variables[bpf.SteerVarNetnsCookie].Set(p.Cookie),
		spec.Variables[bpf.SteerVarListenerPort].Set(uint32(p.Port)),
	); err != nil {
		return nil, fmt.Errorf("prepare the pod's program: %w", err)
	}
	var programs bpf.SteerPrograms
	if err := spec.LoadAndAssign(&programs, replacements(d.maps, spec)); err != nil {
		return nil, fmt.Errorf("load the pod's program: %w", err)
	}
	return programs.SluiceSteer, nil
}

// runSteering makes the program run in the pod's namespace. The link of a predecessor stays, and its program is swapped.
func (d *Datapath) runSteering(p Pod, program *ebpf.Program) error {
	pin := podPin(d.cfg, p.Cookie)
	old, err := link.LoadPinnedLink(pin, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open the link %s: %w", pin, err)
	}
	if err == nil {
		defer old.Close()
		there, err := steers(old, p.NetNS)
		if err != nil {
			return fmt.Errorf("look at the link %s: %w", pin, err)
		}
		if there {
			return d.cfg.write("swap the pod's program", func() error { return old.Update(program) })
		}
	}
	// Not steered, so not enrolled.
	if err := d.RemovePod(p.Cookie); err != nil {
		return err
	}
	var l *link.NetNsLink
	if err := d.cfg.write("attach the pod's program", func() (err error) {
		l, err = link.AttachNetNs(p.NetNS, program)
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	return d.cfg.write("pin the pod's link", func() error { return l.Pin(pin) })
}

// steers tells whether the link is attached to the namespace of the descriptor.
func steers(l link.Link, netns int) (bool, error) {
	inode, err := netnsOf(l)
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(netns, &st); err != nil {
		return false, fmt.Errorf("look at the namespace: %w", err)
	}
	return inode != 0 && uint64(inode) == st.Ino, nil
}

// netnsOf returns the inode of the namespace that a link is attached to, 0 once that is gone.
func netnsOf(l link.Link) (uint32, error) {
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	if n := info.NetNs(); n != nil {
		return n.NetnsInode, nil
	}
	return 0, fmt.Errorf("it is of type %v, not a namespace's", info.Type)
}

// RemovePod takes a pod out: no connect of it is redirected any more, then nothing is steered to its listeners, and
// only then the prefix is nobody's. What is not there is no error.
func (d *Datapath) RemovePod(cookie uint64) error {
	if err := d.remove("remove a pod", d.maps.Pods, cookie); err != nil {
		return err
	}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		if err := d.ClearListener(cookie, f); err != nil {
			return err
		}
	}
	return detach(d.cfg, podPin(d.cfg, cookie))
}

// remove deletes an entry of a map; one that is not there is no error.
func (d *Datapath) remove(what string, m *ebpf.Map, key any) error {
	return d.cfg.write(what, func() error {
		if err := m.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		return nil
	})
}

// repairPods takes out the pods whose connections nobody steers: the prefix would be the application's there.
func (d *Datapath) repairPods() error {
	cookies, err := d.enrolled()
	if err != nil {
		return err
	}
	for _, cookie := range cookies {
		l, err := link.LoadPinnedLink(podPin(d.cfg, cookie), nil)
		if err == nil {
			var inode uint32
			inode, err = netnsOf(l)
			l.Close()
			if err == nil && inode != 0 {
				continue
			}
		}
		d.cfg.Log.Info("a pod is not steered any more and is taken out", "cookie", cookie, "reason", err)
		if err := d.RemovePod(cookie); err != nil {
			return err
		}
	}
	return nil
}
