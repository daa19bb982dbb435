// Package install puts the CNI plugin on a node and keeps it there: its binary among the node's plugins, and its entry at
// the end of the list that the container runtime uses. The files belong to somebody else. Each change is atomic, what is
// not ours stays to the byte, and without us the files are what they would be if we had never been there. Nothing is kept
// elsewhere.
//
// One installer at a time works on a node. Two with the same parameters do not disturb each other; of two with different
// ones neither wins for long.
package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/cni/netconf"
)

const attempts = 5 // at a file that somebody else writes at the same time

// Config is where the node keeps its plugins, and what is to be there.
type Config struct {
	// BinDir and ConfDir are the node's folders of plugins and of network configurations, as this process sees them.
	BinDir, ConfDir string
	// Plugin is the file to be copied into BinDir.
	Plugin string
	// Entry is what the plugin is to be told. If its ExemptNamespaces are nil, they become netconf.SystemNamespace and
	// Namespace.
	Entry netconf.Entry
	// Namespace is the agent's own.
	Namespace string
	Log       *slog.Logger
}

// State is how things stand with the node's configuration.
type State string

const (
	// Starting is before the first look.
	Starting State = "starting"
	// Installed says that new pods come to us.
	Installed State = "installed"
	// Missing says that there is no configuration: the node has no network yet.
	Missing State = "missing"
	// Malformed says that the runtime's configuration cannot be read. It is left alone.
	Malformed State = "malformed"
	// Unsupported says that it is sound, but we cannot be added to it. It is left alone.
	Unsupported State = "unsupported"
	// Contested says that somebody takes our entry out whenever it is put in. The file is left to them.
	Contested State = "contested"
	// Failed says that something could not be read or written.
	Failed State = "failed"
)

// Status is how things stand with the node's configuration, since when, and why not well. In every state but Installed
// pods are enrolled without the plugin, a little after they started.
type Status struct {
	State   State     `json:"state"`
	File    string    `json:"file,omitempty"`
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since"`
}

// Installer keeps the plugin on a node. It has to be made by New.
type Installer struct {
	cfg    Config
	now    func() time.Time
	looked func() // for tests: after each look

	// Of the one goroutine that runs it.
	held     map[string]bool // files in which our entry was when we looked last
	contests map[string]*contest
	binary   copied

	mu     sync.Mutex
	status Status
}

// New makes an installer. It does nothing before Run.
func New(cfg Config) *Installer {
	i := &Installer{cfg: cfg, now: time.Now, looked: func() {}, held: map[string]bool{}, contests: map[string]*contest{}}
	i.status = Status{State: Starting, Since: i.now()}
	return i
}

// Status may be called at any time.
func (i *Installer) Status() Status {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.status
}

// entry is our entry's text.
func (c *Config) entry(derivedFrom string) ([]byte, error) {
	e := c.Entry
	if e.ExemptNamespaces == nil && c.Namespace != "" {
		e.ExemptNamespaces = slices.Compact([]string{netconf.SystemNamespace, c.Namespace})
	}
	e, err := e.Complete()
	if err != nil {
		return nil, fmt.Errorf("the parameters of the CNI plugin: %w", err)
	}
	e.DerivedFrom = derivedFrom
	return json.Marshal(e)
}

// Run keeps the plugin in place until the context ends, and leaves it there: an upgrade follows. It returns an error only
// for a Config that cannot be right. What is wrong with the node is in Status, is logged once, and is tried again.
func (i *Installer) Run(ctx context.Context) error {
	if _, err := i.cfg.entry(""); err != nil {
		return err
	}
	w := newWatcher(i.cfg.Log, i.cfg.ConfDir, i.cfg.BinDir)
	defer w.close()
	i.sweep()
	for {
		w.watch() // before the look: what comes after it is an event
		i.look()
		i.looked()
		if !w.wait(ctx) {
			return nil
		}
	}
}

// sweep clears up after a predecessor that was killed.
func (i *Installer) sweep() {
	for _, dir := range []string{i.cfg.ConfDir, i.cfg.BinDir} {
		if err := sweep(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			i.cfg.Log.Warn("files that an earlier installer left cannot be removed", "folder", dir, "error", err)
		}
	}
}

// look does what is to be done, once, and says how things stand.
func (i *Installer) look() {
	file, err := i.install()
	s := Status{State: Installed, File: file, Since: i.now()}
	if err != nil {
		s.State, s.Problem = stateOf(err), err.Error()
	}
	i.mu.Lock()
	old := i.status
	if s.State == old.State && s.File == old.File && s.Problem == old.Problem {
		s.Since = old.Since
	}
	i.status = s
	i.mu.Unlock()
	switch {
	case s == old:
	case s.State == Installed:
		i.cfg.Log.Info("the CNI plugin is in place", "file", s.File)
	default:
		i.cfg.Log.Warn("the CNI plugin is not in place: new pods are enrolled a little after they start", "state", s.State, "file", s.File, "problem", s.Problem)
	}
}

// problem is an error that stands for a state.
type problem struct {
	state State
	error
}

func (p problem) Unwrap() error { return p.error }

func stateOf(err error) State {
	if p, ok := errors.AsType[problem](err); ok {
		return p.state
	}
	if errors.Is(err, errUnsupported) {
		return Unsupported
	}
	return Failed
}

// install puts everything in place, and returns the name of the file that the runtime uses. The binary comes first: a
// configuration that names a plugin that is not there lets no pod start.
func (i *Installer) install() (string, error) {
	if err := i.binary.copy(i.cfg.Plugin, filepath.Join(i.cfg.BinDir, netconf.Type)); err != nil {
		return "", fmt.Errorf("put the CNI plugin in place: %w", err)
	}
	var name string
	var err error
	for range attempts {
		name, err = i.installEntry()
		if !errors.Is(err, errChanged) {
			break
		}
	}
	return name, err
}

func (i *Installer) installEntry() (string, error) {
	names, err := confFiles(i.cfg.ConfDir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", problem{Missing, fmt.Errorf("there is no folder %s", i.cfg.ConfDir)}
	}
	if err != nil {
		return "", err
	}
	if names, err = i.dropDerived(names); err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", problem{Missing, fmt.Errorf("there is no network configuration in %s", i.cfg.ConfDir)}
	}
	// The first is what the runtimes use. One that is malformed keeps some of them from using any.
	name := names[0]
	if filepath.Ext(name) != ".conflist" {
		return name, i.installDerived(name)
	}
	return name, i.installList(name)
}

// dropDerived returns the names without those of lists that were made of another file. One whose file is gone is removed:
// whoever removed that has no network here any more.
func (i *Installer) dropDerived(names []string) ([]string, error) {
	var kept []string
	for _, name := range names {
		f, err := read(i.cfg.ConfDir, name)
		base := ""
		if err == nil {
			base = baseOf(name, f.text)
		}
		switch {
		case base == "": // what cannot be read is somebody's, and named when it is the first
			kept = append(kept, name)
		case !slices.Contains(names, base):
			if err := os.Remove(f.path); err != nil {
				return nil, fmt.Errorf("remove the list that was made of %s, which is gone: %w", base, err)
			}
			delete(i.held, name)
		}
	}
	return kept, nil
}

// installList adds our entry to a list.
func (i *Installer) installList(name string) error {
	f, err := read(i.cfg.ConfDir, name)
	if err != nil {
		return gone(err)
	}
	entry, err := i.cfg.entry("")
	if err != nil {
		return err
	}
	text, err := withEntry(f.text, entry)
	if err != nil {
		return malformed(name, err)
	}
	return i.put(name, bytes.Equal(text, f.text), func() error { return replace(i.cfg.ConfDir, f, text) })
}

// installDerived makes a list of a file that is none.
func (i *Installer) installDerived(base string) error {
	f, err := read(i.cfg.ConfDir, base)
	if err != nil {
		return gone(err)
	}
	entry, err := i.cfg.entry(base)
	if err != nil {
		return err
	}
	name := derivedName(base)
	before, err := read(i.cfg.ConfDir, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := derive(f.text, entry, before.text)
	if err != nil {
		return malformed(base, err)
	}
	return i.put(name, bytes.Equal(text, before.text), func() error { return create(i.cfg.ConfDir, name, text, f.stat) })
}

// put writes a file in which our entry is not as it should be, unless that is in vain.
func (i *Installer) put(name string, there bool, write func() error) error {
	if there {
		i.held[name] = true
		return nil
	}
	if i.contests[name] == nil {
		i.contests[name] = &contest{}
	}
	c := i.contests[name]
	if i.held[name] {
		c.lose(i.now())
		i.held[name] = false
	}
	if c.resting(i.now()) {
		return problem{Contested, fmt.Errorf("somebody takes the entry of %s out of %s whenever it is put in: "+
			"it is left alone, and tried again every %v; if the network plugin wants to be alone, tell it otherwise (Cilium: cni.exclusive=false)",
			netconf.Type, name, contestRest)}
	}
	if err := write(); err != nil {
		return fmt.Errorf("add %s to %s: %w", netconf.Type, name, err)
	}
	i.held[name] = true
	return nil
}

// gone makes of a file that vanished one that somebody else writes.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errChanged, err)
	}
	return err
}

func malformed(name string, err error) error {
	if errors.Is(err, errUnsupported) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return problem{Malformed, fmt.Errorf("%s is no network configuration that a runtime can read: %w; it is left alone", name, err)}
}
