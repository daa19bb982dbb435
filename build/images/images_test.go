package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testName = "localhost/sluice:test"

// testImages has two small programs for both platforms. Their files are as old as age says, in the order that it says.
func testImages(t *testing.T, age time.Duration, reversed bool) []image {
	t.Helper()
	dir := t.TempDir()
	var out []image
	for _, p := range []platform{{"linux", "amd64"}, {"linux", "arm64"}} {
		var files []file
		for _, name := range []string{"sluice", "sluice-agent"} {
			from := filepath.Join(dir, name+"-"+p.arch)
			if err := os.WriteFile(from, []byte(name+" for "+p.arch), 0o600); err != nil {
				t.Fatal(err)
			}
			when := time.Unix(1e9, 0).Add(-age)
			if err := os.Chtimes(from, when, when); err != nil {
				t.Fatal(err)
			}
			files = append(files, file{binDir + "/" + name, from})
		}
		if reversed {
			slices.Reverse(files)
		}
		from := source{version: "v1.2.3", revision: "abc", time: time.Unix(1_700_000_000, 0).UTC()}
		l, err := newLayer(files, from.time)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, image{p, l, from})
	}
	return out
}

func written(t *testing.T, images []image) (*archive, []byte) {
	t.Helper()
	a, err := newArchive(testName, images)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := a.write(&out); err != nil {
		t.Fatal(err)
	}
	return a, out.Bytes()
}

func TestSameSourcesGiveTheSameBytes(t *testing.T) {
	a, first := written(t, testImages(t, 0, false))
	_, again := written(t, testImages(t, time.Hour, true))
	if !bytes.Equal(first, again) {
		t.Error("the order or the age of the files has changed the archive")
	}
	other := testImages(t, 0, false)
	other[1].from.revision = "def"
	if b, _ := written(t, other); a.digest == b.digest {
		t.Error("another commit has the same digest")
	}
}

// entries reads a tar.
func entries(t *testing.T, from io.Reader) (map[string][]byte, []*tar.Header) {
	t.Helper()
	bodies := map[string][]byte{}
	var headers []*tar.Header
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return bodies, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		if bodies[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		headers = append(headers, h)
	}
}

// document reads the JSON document that d describes into out.
func document(t *testing.T, files map[string][]byte, d descriptor, out any) {
	t.Helper()
	body, found := files[blobPath(d.Digest)]
	if !found || len(body) != d.Size || digestOf(body) != d.Digest {
		t.Fatalf("%s: there (%v) with %d bytes and digest %s; want %d bytes", d.Digest, found, len(body), digestOf(body), d.Size)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(body, out); err != nil {
		t.Fatal(err)
	}
}

func TestArchiveIsALayoutForBothPlatforms(t *testing.T) {
	_, body := written(t, testImages(t, 0, false))
	files, _ := entries(t, bytes.NewReader(body))
	if got := string(files["oci-layout"]); got != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout is %s", got)
	}
	var top, all index
	if err := json.Unmarshal(files["index.json"], &top); err != nil || len(top.Manifests) != 1 {
		t.Fatalf("index.json: %v, %+v", err, top)
	}
	if got := top.Manifests[0].Annotations; got["io.containerd.image.name"] != testName || got["org.opencontainers.image.ref.name"] != "test" {
		t.Errorf("the image is named by %v", got)
	}
	document(t, files, top.Manifests[0], &all)
	for n, want := range []platform{{"linux", "amd64"}, {"linux", "arm64"}} {
		d := all.Manifests[n]
		if d.Platform == nil || *d.Platform != want.json() {
			t.Errorf("image %d is for %+v, want %s", n, d.Platform, want)
		}
		var m manifest
		var c config
		document(t, files, d, &m)
		document(t, files, m.Config, &c)
		if c.platformJSON != want.json() || c.Config.User != "0:0" || !slices.Contains(c.Config.Env, "PATH=/usr/local/bin") {
			t.Errorf("the configuration for %s is %+v", want, c)
		}
		if c.Config.Labels["org.opencontainers.image.revision"] != "abc" || c.Created.Unix() != 1_700_000_000 {
			t.Errorf("built from %v at %v", c.Config.Labels, c.Created)
		}
		document(t, files, m.Layers[0], nil)
		checkLayer(t, files[blobPath(m.Layers[0].Digest)], c.RootFS.DiffIDs[0], want)
	}
}

func checkLayer(t *testing.T, compressed []byte, diffID string, p platform) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	files, headers := entries(t, io.TeeReader(z, hash))
	if _, err := io.Copy(hash, z); err != nil {
		t.Fatal(err)
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != diffID {
		t.Errorf("the layer's diff_id is %s, and its content's digest %s", diffID, got)
	}
	var names []string
	for _, h := range headers {
		names = append(names, h.Name)
		if h.Mode != 0o755 || h.Uid != 0 || h.ModTime.Unix() != 1_700_000_000 {
			t.Errorf("%s has mode %o, owner %d, time %v", h.Name, h.Mode, h.Uid, h.ModTime)
		}
	}
	want := []string{"usr/", "usr/local/", "usr/local/bin/", "usr/local/bin/sluice", "usr/local/bin/sluice-agent"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("the layer (-want +got):\n%s", diff)
	}
	if got := string(files["usr/local/bin/sluice"]); got != "sluice for "+p.arch {
		t.Errorf("sluice is %q", got)
	}
}

// Docker's own store reads manifest.json alone: a name there stands for one image.
func TestArchiveIsForDockerToo(t *testing.T) {
	_, body := written(t, testImages(t, 0, false))
	files, _ := entries(t, bytes.NewReader(body))
	var images []loaded
	if err := json.Unmarshal(files["manifest.json"], &images); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range images {
		names = append(names, i.RepoTags...)
		for _, path := range append(i.Layers, i.Config) {
			if _, found := files[path]; !found {
				t.Errorf("%s is not in the archive", path)
			}
		}
	}
	if diff := cmp.Diff([]string{testName, testName + "-arm64"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCommandLine(t *testing.T) {
	long := strings.Repeat("x", 129)
	for _, c := range []struct {
		args []string
		want string // part of what is printed; empty: it is taken
	}{
		{[]string{"-image", "localhost/sluice:dev"}, ""},
		{[]string{"-image", "reg.example:5000/a/sluice:0.1.0", "-platforms", "linux/arm64"}, ""},
		{[]string{"-image", "sluice:dev"}, "names no host"},
		{[]string{"-image", "team/sluice:dev"}, "names no host"},
		{nil, "names no host"},
		{[]string{"-image", "localhost/sluice"}, "has no tag"},
		{[]string{"-image", "localhost/sluice:"}, "has no tag"},
		{[]string{"-image", "localhost/sluice:" + long}, "has no tag of 1 to 128"},
		{[]string{"-image", "localhost/Sluice:dev"}, "no capital letters"},
		{[]string{"-image", "localhost/sluice:v1+dirty"}, "letters, digits"},
		{[]string{"-image", "localhost/sluice:a:b"}, "letters, digits"},
		{[]string{"-image", "localhost/sluice:a", "-platforms", "linux/amd64,linux/riscv64"}, `"linux/riscv64" is neither`},
		{[]string{"-image", "localhost/sluice:a", "more"}, `"more" is no flag`},
	} {
		var out bytes.Buffer
		_, err := parse(c.args, &out)
		if (err == nil) != (c.want == "") || !strings.Contains(out.String(), c.want) {
			t.Errorf("%q: %v, printed %q; want %q", c.args, err, &out, c.want)
		}
	}
}

// An image holds nothing else that a program could be linked to.
func TestProgramsAreStatic(t *testing.T) {
	if cache, err := os.UserCacheDir(); err != nil || os.MkdirAll(cache, 0o700) != nil {
		t.Skip("skipped: the go command has no place for what it builds")
	}
	t.Chdir("../..")
	files, from, err := compile(t.Context(), t.TempDir(), platform{"linux", runtime.GOARCH}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		e, err := elf.Open(f.from)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range e.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s wants a loader", f.at)
			}
		}
		if e.Section(".symtab") != nil {
			t.Errorf("%s has its symbols", f.at)
		}
		e.Close()
	}
	if _, err := fs.Stat(os.DirFS("."), ".git"); err == nil && (from.revision == "" || from.time.Unix() == 0) {
		t.Errorf("built from %+v, though there is a repository", from)
	}
	agent := files[slices.IndexFunc(files, func(f file) bool { return f.at == binDir+"/sluice-agent" })]
	if out, err := exec.CommandContext(t.Context(), agent.from, "--help").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("Usage:")) {
		t.Errorf("sluice-agent --help: %v, %s", err, out)
	}
}
