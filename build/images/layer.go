package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// layer is an image's file system.
type layer struct {
	compressed []byte
	diffID     string // digest of what was compressed
}

// newLayer holds files and the folders above them, all of root and as old as when says. The order of files does not
// matter.
func newLayer(files []file, when time.Time) (layer, error) {
	files = slices.SortedFunc(slices.Values(files), func(a, b file) int { return cmp.Compare(a.at, b.at) })
	var out bytes.Buffer
	hash := sha256.New()
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(io.MultiWriter(z, hash))
	err := addFolders(w, files, when)
	for _, f := range files {
		if err == nil {
			err = addFile(w, f, when)
		}
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		return layer{}, err
	}
	return layer{out.Bytes(), "sha256:" + hex.EncodeToString(hash.Sum(nil))}, nil
}

func addFolders(w *tar.Writer, files []file, when time.Time) error {
	var folders []string
	for _, f := range files {
		for dir := path.Dir(f.at); dir != "/"; dir = path.Dir(dir) {
			folders = append(folders, dir)
		}
	}
	slices.Sort(folders)
	for _, dir := range slices.Compact(folders) {
		h := tar.Header{Typeflag: tar.TypeDir, Name: relative(dir) + "/", Mode: 0o755, ModTime: when}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
	}
	return nil
}

func addFile(w *tar.Writer, f file, when time.Time) error {
	body, err := os.ReadFile(f.from)
	if err != nil {
		return err
	}
	return add(w, relative(f.at), body, 0o755, when)
}

func add(w *tar.Writer, name string, body []byte, mode int64, when time.Time) error {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(body)), Mode: mode, ModTime: when}
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

func relative(p string) string { return strings.TrimPrefix(p, "/") }

func digestOf(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}
