package enroll

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/within"
)

// Cleanup takes away what an agent that is gone left in the pods' namespaces: the route. A pod that has ended left
// nothing; everything else goes with its descriptors.
func Cleanup(cfg Config, pods []Wanted) error {
	cfg = cfg.complete()
	o := cfg.opener()
	search := map[string]bool{}
	for _, w := range pods {
		search[w.UID] = w.NetNS == ""
	}
	found, err := newFinder(cfg.Proc).find(search)
	if err != nil {
		return err
	}
	var all error
	for _, w := range pods {
		path := w.NetNS
		if path == "" {
			path = found[w.UID].path
		}
		if path == "" {
			continue
		}
		if _, err := o.clean(path); err != nil {
			all = errors.Join(all, fmt.Errorf("remove the route from pod %s: %w", w, err))
		}
	}
	return all
}

// CleanupAll does the same without knowing the pods: in every network namespace that the host's folder of them or a
// process names, also in those of another agent's pods, if there is one on the machine. It returns in how many
// namespaces there was something.
func CleanupAll(cfg Config) (cleaned int, err error) {
	cfg = cfg.complete()
	all, hidden := namespaces(cfg)
	cleaned, err = cfg.cleanAll(context.Background(), all)
	return cleaned, errors.Join(hidden, err)
}

// sweep is CleanupAll without the namespaces that are to be kept as they are.
func (c Config) sweep(ctx context.Context, keep map[nsID]bool) error {
	all, hidden := namespaces(c)
	maps.DeleteFunc(all, func(id nsID, _ string) bool { return keep[id] })
	_, err := c.cleanAll(ctx, all)
	return errors.Join(hidden, err)
}

func (c Config) cleanAll(ctx context.Context, all map[nsID]string) (cleaned int, err error) {
	o := c.opener()
	for _, path := range all {
		if ctx.Err() != nil {
			break
		}
		had, cleanErr := o.clean(path)
		if cleanErr != nil {
			err = errors.Join(err, fmt.Errorf("remove the route from the network namespace %s: %w", path, cleanErr))
		}
		if had {
			cleaned++
			c.Log.Info("what an agent left in a network namespace was taken away", "namespace", path)
		}
	}
	return cleaned, err
}

// clean removes the route from a namespace. A namespace that is gone has none.
func (o opener) clean(path string) (had bool, err error) {
	fd, _, err := o.openNS(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	err = within.Network(fd, func() error {
		return o.route(func(r *netlink.Route) error {
			err := netlink.RouteDel(r)
			had = err == nil
			return err
		})
	})
	return had, err
}

// namespaces returns the network namespaces of the machine, the host's excepted, with a path to each, and what could not
// be looked at. What ends meanwhile is none.
func namespaces(cfg Config) (map[nsID]string, error) {
	host, err := hostNS(cfg.Proc)
	if err != nil {
		return nil, err
	}
	all := map[nsID]string{}
	note := func(id nsID, path string, err error) {
		if _, known := all[id]; err == nil && id != host && !known {
			all[id] = path
		}
	}
	files, err := os.ReadDir(cfg.NetNS)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list the network namespaces: %w", err)
	}
	var hidden error
	for _, f := range files {
		path := filepath.Join(cfg.NetNS, f.Name())
		id, err := statNSFile(path)
		note(id, path, err)
	}
	pids, err := processes(cfg.Proc)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		path := netnsOf(cfg.Proc, pid)
		id, err := statNS(path)
		if errors.Is(err, errNotAllowed) && pid != "1" { // whose namespace is the host's
			hidden = fmt.Errorf("look at process %s, and maybe others: %w", pid, err)
		}
		note(id, path, err)
	}
	return all, hidden
}
