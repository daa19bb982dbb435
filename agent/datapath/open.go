package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"

	"github.com/sluice-mesh/sluice/bpf"
)

// Datapath is the kernel's side of the redirect. Its methods are for one goroutine; CloseBypassed and HeartbeatFD may
// be called from others.
type Datapath struct {
	cfg   Config
	lock  *os.File
	maps  *bpf.RedirectMaps
	steer *ebpf.CollectionSpec

	counters map[uint32]string // names
	settings bpf.RedirectSettings
	numbers
}

// Open makes the redirect, or takes over what is there. It is the only writer until Close, or it returns ErrLocked.
// What fails on the way is undone if nothing was there before, and else left as it was: it serves on.
func Open(c Config) (d *Datapath, err error) {
	c = c.withDefaults()
	if err := checkBPFFS(c.BPFFS); err != nil {
		return nil, err
	}
	attach := c.Cgroup != ""
	held, err := lock(c.BPFFS, attach)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nothingThere(c)
	}
	if err != nil {
		return nil, err
	}
	d = &Datapath{cfg: c, lock: held}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
			d = nil
		}
	}()
	spec, err := d.load()
	if err != nil {
		return nil, err
	}
	if !attach {
		return d, d.openExisting(spec)
	}
	fresh, err := d.takeOver(spec)
	if err == nil {
		err = d.attach(spec)
	}
	if err != nil && fresh {
		err = errors.Join(err, remove(c))
	}
	return d, err
}

// load reads the objects that are part of this program.
func (d *Datapath) load() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadRedirect()
	if err != nil {
		return nil, err
	}
	if d.counters, err = counterNames(spec); err != nil {
		return nil, err
	}
	d.steer, err = bpf.LoadSteer()
	return spec, err
}

func nothingThere(c Config) error {
	return fmt.Errorf("there is no redirect in %s: no agent has run with this folder since the node started", c.BPFFS)
}

// openExisting opens the maps for somebody who is not to make any.
func (d *Datapath) openExisting(spec *ebpf.CollectionSpec) (err error) {
	d.maps, err = openMaps(d.cfg, spec)
	if errors.Is(err, fs.ErrNotExist) {
		return nothingThere(d.cfg)
	}
	if err != nil {
		return err
	}
	return d.read()
}

// takeOver opens the maps of a predecessor, or makes new ones: fresh tells whether nothing was there.
func (d *Datapath) takeOver(spec *ebpf.CollectionSpec) (fresh bool, err error) {
	if err := sweepMaps(d.cfg); err != nil {
		return false, err
	}
	d.maps, err = openMaps(d.cfg, spec)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Links may be left of an agent that was removed half-way; their maps are not ours.
		if err := removeLinks(d.cfg); err != nil {
			return false, err
		}
		fresh = true
		d.maps, err = makeMaps(d.cfg, spec, 0)
	case errors.Is(err, errLayout):
		d.cfg.Log.Warn("the redirect of an agent of another version is replaced: connections go direct until a proxy serves", "reason", err)
		d.maps, err = d.replaceMaps(spec)
	}
	if err != nil {
		return fresh, err
	}
	return fresh, d.read()
}

// replaceMaps takes away what has another layout. Numbers go on, because a proxy may still know the earlier ones.
func (d *Datapath) replaceMaps(spec *ebpf.CollectionSpec) (*bpf.RedirectMaps, error) {
	n, err := readNumbering(d.cfg)
	if err != nil {
		return nil, err
	}
	if err := removeLinks(d.cfg); err != nil {
		return nil, err
	}
	if err := removeMaps(d.cfg); err != nil {
		return nil, err
	}
	return makeMaps(d.cfg, spec, n.Next)
}

// read learns what the maps say.
func (d *Datapath) read() error {
	if err := d.maps.Settings.Lookup(uint32(0), &d.settings); err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	return d.readNumbers()
}

// attach makes the programs run: last, when all that they look up is there.
func (d *Datapath) attach(spec *ebpf.CollectionSpec) error {
	programs, err := loadPrograms(d.maps, spec)
	if err != nil {
		return err
	}
	defer func() { _ = programs.Close() }() // the kernel has them
	if err := d.repairPods(); err != nil {
		return err
	}
	s := d.settings
	s.HeartbeatLimit = uint64(d.cfg.HeartbeatLimit)
	if err := d.set(s); err != nil {
		return err
	}
	if err := attachHooks(d.cfg, programs); err != nil {
		return err
	}
	if err := d.Check(); err != nil {
		d.cfg.Log.Warn("the redirect may not work as it should", "reason", err)
	}
	return nil
}

// Close leaves the kernel as it is: connections are served on.
func (d *Datapath) Close() error {
	if d.maps != nil {
		closeMaps(d.maps)
	}
	return d.lock.Close()
}

// numbers are the frontends' ids.
type numbers struct {
	next     uint32
	numbered map[netip.AddrPort]uint32 // by the last call of Number
	there    map[netip.AddrPort]uint32 // in the kernel
}
