package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// What is in an archive fits together, and the same files give the same bytes.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := Image{Name: "localhost/x:1", Entrypoint: []string{"/bin/x"}, Files: map[string]string{"/bin/x": program, "/etc/y/z": program}}
	var written [2][]byte
	for i := range written {
		path := filepath.Join(dir, "image.tar")
		if err := image.Write(path); err != nil {
			t.Fatal(err)
		}
		written[i], _ = os.ReadFile(path)
	}
	if len(written[0]) == 0 || !bytes.Equal(written[0], written[1]) {
		t.Errorf("the archives of the same image differ")
	}
	files := contents(t, written[0])
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 || manifest[0].RepoTags[0] != image.Name {
		t.Fatalf("manifest.json is %s (%v)", files["manifest.json"], err)
	}
	var config struct {
		Rootfs struct {
			IDs []string `json:"diff_ids"`
		}
	}
	layer := files[manifest[0].Layers[0]]
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil || config.Rootfs.IDs[0] != "sha256:"+digest(layer) {
		t.Errorf("the configuration %s (%v) is not of the layer %s", files[manifest[0].Config], err, digest(layer))
	}
	if in := contents(t, layer); string(in["bin/x"]) != "#!" || in["etc/y/z"] == nil {
		t.Errorf("the layer has %d files, without those of the image", len(in))
	}
}

func contents(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
