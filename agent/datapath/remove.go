package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Remove takes everything away that Open and its methods made, whatever version made it; connections go direct from
// then on. What is not there is no error.
func Remove(c Config) error {
	c = c.withDefaults()
	if err := checkBPFFS(c.BPFFS); err != nil {
		return err
	}
	held, err := lock(c.BPFFS, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer held.Close()
	return remove(c)
}

// remove is Remove for whoever has the lock. The connect hooks go first, so that nothing more is sent to the prefix,
// then what steers it.
func remove(c Config) error {
	if err := removeLinks(c); err != nil {
		return err
	}
	if err := removeMaps(c); err != nil {
		return err
	}
	err := c.write("remove our folder", func() error { return os.Remove(c.BPFFS) })
	if errors.Is(err, unix.ENOTEMPTY) {
		c.Log.Warn("our folder on the BPF file system stays: something in it is not ours", "folder", c.BPFFS)
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func removeLinks(c Config) error {
	names, err := pinned(c)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := detach(c, filepath.Join(c.links(), name)); err != nil {
			return err
		}
	}
	cookies, err := steered(c)
	if err != nil {
		return err
	}
	for _, cookie := range cookies {
		if err := detach(c, podPin(c, cookie)); err != nil {
			return err
		}
	}
	for _, dir := range []string{c.podLinks(), c.links()} {
		err := c.write("remove the folder of links", func() error { return os.Remove(dir) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: look at what is left there", err)
		}
	}
	return nil
}

// pinned returns the names of the hooks' links in the order in which they go: ours in reverse, then those of another
// version.
func pinned(c Config) ([]string, error) {
	entries, err := os.ReadDir(c.links())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the hooks' links: %w", err)
	}
	var names []string
	for _, h := range slices.Backward(hooks()) {
		names = append(names, h.name)
	}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
