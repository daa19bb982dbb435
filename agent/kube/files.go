package kube

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFileSize bounds what is read of one file.
const maxFileSize = 64 << 20

// listing is what of a folder may hold objects.
type listing struct {
	files   []string // in the order in which they count
	folders []string // the folder itself and all below it
	failed  map[string]error
}

// list finds the files below a folder. Symbolic links are followed. Names that begin with a dot are left out: editors
// put unfinished files there, and the kubelet the versions of a ConfigMap, which it links to from outside.
func list(dir string) (*listing, error) {
	l := &listing{failed: map[string]error{}}
	if err := l.folder(dir, nil); err != nil {
		return nil, err
	}
	slices.Sort(l.files)
	return l, nil
}

// folder adds one folder. The folders that lead to it are given, so that a link back to one of them ends.
func (l *listing) folder(dir string, above []fs.FileInfo) error {
	self, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(above, func(a fs.FileInfo) bool { return os.SameFile(a, self) }) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	l.folders = append(l.folders, dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it went away, or is a link to nothing
		case err != nil:
			l.failed[path] = err
		case info.IsDir():
			if err := l.folder(path, append(above, self)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				l.failed[path] = err
			}
		case info.Mode().IsRegular() && holdsObjects(path): // reading a pipe would wait for ever
			l.files = append(l.files, path)
		}
	}
	return nil
}

func holdsObjects(path string) bool {
	switch filepath.Ext(path) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// readFile reads a file that is not too large.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("larger than %d MiB: split it", maxFileSize>>20)
	}
	return data, err
}
