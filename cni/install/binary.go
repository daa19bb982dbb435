package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// copied remembers what was found equal, so that a look costs two calls of stat.
type copied struct{ from, to mark }

// mark tells a file from what was in its place before.
type mark struct {
	info    fs.FileInfo
	size    int64
	changed time.Time
}

func markOf(st fs.FileInfo) mark { return mark{st, st.Size(), st.ModTime()} }

func (m mark) same(st fs.FileInfo) bool {
	return m.info != nil && os.SameFile(m.info, st) && m.size == st.Size() && m.changed.Equal(st.ModTime())
}

const binaryMode = 0o755

// copy makes to a copy of from that everybody may run. It is replaced only when it differs: a pod that starts meanwhile
// runs the old or the new one.
func (c *copied) copy(from, to string) error {
	source, err := os.Stat(from)
	if err != nil {
		return err
	}
	target, err := os.Lstat(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := err == nil
	if there && !target.Mode().IsRegular() {
		return fmt.Errorf("%s is there and is no regular file: remove it", to)
	}
	if there && c.from.same(source) && c.to.same(target) && target.Mode().Perm() == binaryMode {
		return nil
	}
	wanted, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if there && target.Mode().Perm() == binaryMode && target.Size() == source.Size() {
		if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, wanted) {
			*c = copied{markOf(source), markOf(target)}
			return nil
		}
	}
	if err := create(filepath.Dir(to), filepath.Base(to), wanted, executable{source}); err != nil {
		return err
	}
	if target, err = os.Lstat(to); err != nil {
		return err
	}
	*c = copied{markOf(source), markOf(target)}
	return nil
}

// executable is a file of root's that everybody may run.
type executable struct{ fs.FileInfo }

func (executable) Mode() fs.FileMode { return binaryMode }
func (executable) Sys() any          { return nil }
