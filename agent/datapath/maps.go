package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/sluice-mesh/sluice/bpf"
)

// errLayout is returned for maps of another agent's layout.
var errLayout = errors.New("another layout")

// byName are the maps by the names that they have in bpf/ and are pinned under.
func byName(m *bpf.RedirectMaps) map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		bpf.RedirectMapBypassed:  &m.Bypassed,
		bpf.RedirectMapCounters:  &m.Counters,
		bpf.RedirectMapFrontends: &m.Frontends,
		bpf.RedirectMapHeartbeat: &m.Heartbeat,
		bpf.RedirectMapListeners: &m.Listeners,
		bpf.RedirectMapNumbering: &m.Numbering,
		bpf.RedirectMapOrigins:   &m.Origins,
		bpf.RedirectMapPods:      &m.Pods,
		bpf.RedirectMapSettings:  &m.Settings,
	}
}

func closeMaps(m *bpf.RedirectMaps) {
	for _, at := range byName(m) {
		if *at != nil {
			(*at).Close()
		}
	}
}

// replacements are the maps that a program of the spec gets in place of its own.
func replacements(m *bpf.RedirectMaps, spec *ebpf.CollectionSpec) *ebpf.CollectionOptions {
	all := map[string]*ebpf.Map{}
	for name, at := range byName(m) {
		if spec.Maps[name] != nil {
			all[name] = *at
		}
	}
	return &ebpf.CollectionOptions{MapReplacements: all}
}

// openMaps opens the maps that are pinned: errLayout if they are of another layout, fs.ErrNotExist if there are none.
func openMaps(c Config, spec *ebpf.CollectionSpec) (*bpf.RedirectMaps, error) {
	if _, err := os.Stat(c.maps()); err != nil {
		return nil, err
	}
	n, err := readNumbering(c)
	if err != nil {
		return nil, err
	}
	if n.Layout != bpf.RedirectLayoutLAYOUT_VERSION {
		return nil, fmt.Errorf("the maps in %s have layout %d, and this agent has %d: %w", c.maps(), n.Layout, bpf.RedirectLayoutLAYOUT_VERSION, errLayout)
	}
	m := &bpf.RedirectMaps{}
	for name, at := range byName(m) {
		if *at, err = openMap(c, name); err == nil {
			err = compatible(c, spec.Maps[name], *at)
		}
		if err != nil {
			closeMaps(m)
			return nil, err
		}
	}
	return m, nil
}

func compatible(c Config, spec *ebpf.MapSpec, m *ebpf.Map) error {
	if err := spec.Compatible(m); err != nil {
		return fmt.Errorf("the pinned map %s has another shape than this agent's (%w): run sluice-agent cleanup, then start the agent again",
			filepath.Join(c.maps(), spec.Name), err)
	}
	return nil
}

func openMap(c Config, name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(c.maps(), name), nil)
	if err != nil {
		// Not wrapped: it is not as if there was nothing.
		return nil, fmt.Errorf("the folder %s is not as an agent leaves it (%v): run sluice-agent cleanup, then start the agent again", c.maps(), err) //nolint:errorlint // see above
	}
	return m, nil
}

// readNumbering reads what every layout has.
func readNumbering(c Config) (n bpf.RedirectNumbering, err error) {
	m, err := openMap(c, bpf.RedirectMapNumbering)
	if err != nil {
		return n, err
	}
	defer m.Close()
	if err := m.Lookup(uint32(0), &n); err != nil {
		return n, fmt.Errorf("read the numbering in %s: %w", c.maps(), err)
	}
	return n, nil
}

// makeMaps makes new maps and pins them: beside, then all at once by a rename, so that they are there or not.
func makeMaps(c Config, spec *ebpf.CollectionSpec, next uint32) (*bpf.RedirectMaps, error) {
	m := &bpf.RedirectMaps{}
	if err := spec.LoadAndAssign(m, nil); err != nil {
		return nil, fmt.Errorf("make the maps: %w", err)
	}
	if err := publish(c, m, next); err != nil {
		closeMaps(m)
		return nil, err
	}
	return m, nil
}

func publish(c Config, m *bpf.RedirectMaps, next uint32) error {
	if err := c.write("number the layout", func() error {
		return m.Numbering.Put(uint32(0), bpf.RedirectNumbering{Next: next, Layout: bpf.RedirectLayoutLAYOUT_VERSION})
	}); err != nil {
		return err
	}
	if err := c.write("set the heartbeat's limit", func() error {
		return m.Settings.Put(uint32(0), bpf.RedirectSettings{HeartbeatLimit: uint64(c.HeartbeatLimit)})
	}); err != nil {
		return err
	}
	if err := c.write("make a folder for the maps", func() error { return os.Mkdir(c.mapsNew(), 0o700) }); err != nil {
		return err
	}
	all := byName(m)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := c.write("pin the map "+name, func() error { return (*all[name]).Pin(filepath.Join(c.mapsNew(), name)) }); err != nil {
			return err
		}
	}
	return c.write("give the maps their name", func() error { return os.Rename(c.mapsNew(), c.maps()) })
}

// removeMaps takes the maps away. They lose their name first: half of them would be no maps to open.
func removeMaps(c Config) error {
	err := c.write("take the maps' name away", func() error { return os.Rename(c.maps(), c.mapsOld()) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return sweepMaps(c)
}

// sweepMaps removes maps that have no name: not yet, when an agent ended while it made them, or not any more.
func sweepMaps(c Config) error {
	for _, dir := range []string{c.mapsNew(), c.mapsOld()} {
		if err := c.write("remove unnamed maps", func() error { return os.RemoveAll(dir) }); err != nil {
			return err
		}
	}
	return nil
}
