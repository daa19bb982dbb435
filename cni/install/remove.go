package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-mesh/sluice/cni/netconf"
)

// settle is how long the runtime has to take note of its new configuration before the binary goes that the old one names.
const settle = time.Second

// Remove takes our entry out of every file of the folder, whatever its name: others keep copies beside (Cilium:
// .cilium_bak) and put them back some day. Then it removes the plugin; but as long as some file may still name it, it
// stays, and the error says where: without it no pod could start. No installer may run any more.
//
// CRI-O ends a pod by the configuration with which it started: pods that are older than Remove end there only after the
// runtime has given up on our plugin.
func Remove(cfg Config) error {
	taken, err := removeEntries(cfg.ConfDir)
	if err != nil {
		return fmt.Errorf("the CNI plugin stays in %s, because a configuration may still name it: %w", cfg.BinDir, err)
	}
	binary := filepath.Join(cfg.BinDir, netconf.Type)
	if _, err := os.Lstat(binary); err == nil && taken {
		time.Sleep(settle)
	}
	if err := os.Remove(binary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the CNI plugin: %w", err)
	}
	if err := sweep(cfg.BinDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeEntries says whether there was any.
func removeEntries(dir string) (taken bool, _ error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	errs := []error{sweep(dir)}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		for range attempts {
			var here bool
			here, err = removeEntry(dir, e.Name())
			taken = taken || here
			if !errors.Is(err, errChanged) {
				break
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("take %s out of %s: %w", netconf.Type, e.Name(), err))
		}
	}
	return taken, errors.Join(errs...)
}

func removeEntry(dir, name string) (taken bool, _ error) {
	f, err := read(dir, name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errUnsupported): // gone; or a link to where we never wrote
		return false, nil
	case err != nil && f.text == nil: // no regular file, say: no runtime's configuration
		return false, nil
	case err != nil:
		return false, err
	case !bytes.Contains(f.text, []byte(`"`+netconf.Type+`"`)):
		return false, nil
	}
	if baseOf(name, f.text) != "" {
		return true, os.Remove(f.path)
	}
	text, err := withoutEntry(f.text)
	if err != nil {
		return false, fmt.Errorf("it names the plugin, but not in a list that can be read: %w", err)
	}
	if bytes.Equal(text, f.text) {
		return false, errors.New("it names the plugin, but not in a list of its own: take it out by hand, or let its owner make it anew")
	}
	return true, replace(dir, f, text)
}
