// Package kube reads Kubernetes objects from a folder of YAML, as strictly as an API server would, and fills in what a
// cluster would have filled in. An object whose new version is bad keeps serving its last good one.
package kube

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/agent/objects"
)

// Folder is a folder of files with Kubernetes objects. It is not for concurrent use.
type Folder struct {
	dir    string
	log    *slog.Logger
	parser *parser

	files  map[string]*contents // by path; the last version of each that counts
	served map[key]served
	set    *objects.Set
}

// served is the version of an object that counts.
type served struct {
	digest, spec [sha256.Size]byte
	generation   int64
	object       object // with what a cluster fills in; handed out, so never edited
}

// NewFolder returns the folder of that name. Nothing is read yet.
func NewFolder(dir string, log *slog.Logger) (*Folder, error) {
	if dir == "" {
		return nil, errors.New("the folder of manifests has no name")
	}
	return &Folder{dir: filepath.Clean(dir), log: log, parser: newParser()}, nil
}

// Load reads the folder once. It returns all objects that count and everything that is wrong, ordered. The Set is the
// same one as before when nothing has changed. The error is not nil only when the folder itself cannot be read: then
// what was loaded before still counts.
func (f *Folder) Load() (*objects.Set, []Problem, error) {
	set, problems, _, err := f.load()
	return set, problems, err
}

// load also returns the folders to watch.
func (f *Folder) load() (*objects.Set, []Problem, []string, error) {
	found, err := list(f.dir)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the folder of manifests: %w", err)
	}
	f.parser.known = f.knownObjects()
	files := map[string]*contents{}
	for _, path := range found.files {
		if c := f.read(path); c != nil {
			files[path] = c
		}
	}
	for path, err := range found.failed {
		f.keepBelow(files, path, err)
	}
	f.files = files

	served, problems := f.merge()
	if f.set == nil || !maps.EqualFunc(served, f.served, sameObject) {
		f.set = complete(served)
	}
	f.served = served
	for _, c := range files {
		problems = append(problems, c.problems...)
	}
	slices.SortFunc(problems, compareProblems)
	return f.set, problems, found.folders, nil
}

func sameObject(a, b served) bool { return a.object == b.object }

// knownObjects finds the good objects of the files as they were.
func (f *Folder) knownObjects() func(key, [sha256.Size]byte) (entry, bool) {
	good := map[key]entry{}
	for _, c := range f.files {
		for _, e := range c.entries {
			if e.object != nil {
				good[e.key] = e
			}
		}
	}
	return func(k key, digest [sha256.Size]byte) (entry, bool) {
		e, ok := good[k]
		return e, ok && e.digest == digest
	}
}

// read returns what of a file counts, nil where the file has just gone.
func (f *Folder) read(path string) *contents {
	before := f.files[path]
	data, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		c := &contents{incomplete: true, problems: []Problem{{File: path, Reason: "cannot be read: " + err.Error()}}}
		c.keep(before)
		return c
	case before != nil && before.digest == sha256.Sum256(data):
		return before
	}
	c := f.parser.file(path, data)
	c.keep(before)
	return c
}

// keep adds the objects that a file had before and that may still be meant to be there.
func (c *contents) keep(before *contents) {
	if !c.incomplete || before == nil {
		return
	}
	for _, e := range before.entries {
		if !slices.ContainsFunc(c.entries, func(n entry) bool { return n.key == e.key }) {
			c.entries = append(c.entries, e)
		}
	}
}

// keepBelow keeps the objects of a file, or of all files of a folder, that cannot be looked at.
func (f *Folder) keepBelow(files map[string]*contents, path string, err error) {
	for old, c := range f.files {
		if old == path || strings.HasPrefix(old, path+string(filepath.Separator)) {
			files[old] = &contents{entries: c.entries} // without a digest: it is read again as soon as that is possible
		}
	}
	if files[path] == nil {
		files[path] = &contents{}
	}
	files[path].problems = []Problem{{File: path, Reason: "cannot be read: " + err.Error()}}
}

// merge decides which version of each object counts: the first in the order of the files, and of that one the last
// that was good.
func (f *Folder) merge() (map[key]served, []Problem) {
	now := map[key]served{}
	var problems []Problem
	type place struct {
		file string
		line int
	}
	first := map[key]place{}
	for _, path := range slices.Sorted(maps.Keys(f.files)) {
		for _, e := range f.files[path].entries {
			if p, twice := first[e.key]; twice {
				problems = append(problems, Problem{path, e.line, e.key.String(), fmt.Sprintf(
					"is here a second time: the one at %s:%d counts, remove one of them", p.file, p.line)})
				continue
			}
			first[e.key] = place{path, e.line}
			before, had := f.served[e.key]
			switch {
			case e.object != nil:
				now[e.key] = serve(e, before)
			case had:
				now[e.key] = before
			}
		}
	}
	return now, problems
}

// serve makes a version of an object the one that counts.
func serve(e entry, before served) served {
	if before.object != nil && before.digest == e.digest {
		return before
	}
	s := served{digest: e.digest, spec: e.spec, generation: max(1, before.generation, e.object.GetGeneration())}
	if before.object != nil && before.spec != e.spec && s.generation == before.generation {
		s.generation++
	}
	// A copy, because the same entry may count again later, with another generation.
	s.object = e.object.DeepCopyObject().(object)
	s.object.SetGeneration(s.generation)
	if s.object.GetUID() == "" {
		s.object.SetUID(uid(e.key))
	}
	return s
}
