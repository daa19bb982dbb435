package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// The media types of the OCI image format.
const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor points at a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platformJSON     `json:"platform,omitempty"`
}

type platformJSON struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type config struct {
	platformJSON
	Created time.Time `json:"created"`
	Config  runConfig `json:"config"`
	RootFS  rootFS    `json:"rootfs"`
	History []history `json:"history"`
}

// runConfig has the names that the format gives them.
type runConfig struct {
	User       string
	Env        []string
	Cmd        []string
	WorkingDir string
	Labels     map[string]string
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// loaded is an entry of manifest.json, which Docker's own image store reads instead of the index. It knows no platforms.
type loaded struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// image is what one platform gets.
type image struct {
	platform platform
	layer    layer
	from     source
}

func (i *image) config() config {
	labels := map[string]string{
		"org.opencontainers.image.title":    "sluice",
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.version":  i.from.version,
	}
	if i.from.revision != "" {
		labels["org.opencontainers.image.revision"] = i.from.revision
	}
	return config{
		platformJSON: i.platform.json(), Created: i.from.time,
		Config: runConfig{
			User: "0:0", Env: []string{"PATH=" + binDir}, Cmd: []string{"sluice", "help"}, WorkingDir: "/", Labels: labels,
		},
		RootFS:  rootFS{"layers", []string{i.layer.diffID}},
		History: []history{{i.from.time, "make images"}},
	}
}

func (p platform) json() platformJSON { return platformJSON{p.os, p.arch} }

// archive is a whole layout.
type archive struct {
	digest string // of the image's index
	blobs  map[string][]byte
	top    index
	docker []loaded
}

// newArchive has one image for all platforms, by name. Docker's own store, to which each platform is an image of its
// own, gets those after the first with a tag that ends in their architecture.
func newArchive(name string, images []image) (*archive, error) {
	a := &archive{blobs: map[string][]byte{}}
	all := index{SchemaVersion: 2, MediaType: indexType}
	for n, i := range images {
		conf, err := a.document(configType, i.config())
		if err != nil {
			return nil, err
		}
		content := a.blob(layerType, i.layer.compressed)
		m, err := a.document(manifestType, manifest{2, manifestType, conf, []descriptor{content}})
		if err != nil {
			return nil, err
		}
		m.Platform = new(i.platform.json())
		all.Manifests = append(all.Manifests, m)
		tagged := name
		if n > 0 {
			tagged += "-" + i.platform.arch
		}
		a.docker = append(a.docker, loaded{blobPath(conf.Digest), []string{tagged}, []string{blobPath(content.Digest)}})
	}
	d, err := a.document(indexType, all)
	if err != nil {
		return nil, err
	}
	a.digest = d.Digest
	d.Annotations = map[string]string{
		"io.containerd.image.name":          name,
		"org.opencontainers.image.ref.name": name[strings.LastIndexByte(name, ':')+1:],
	}
	a.top = index{2, indexType, []descriptor{d}}
	return a, nil
}

func (a *archive) blob(mediaType string, body []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digestOf(body), Size: len(body)}
	a.blobs[d.Digest] = body
	return d
}

func (a *archive) document(mediaType string, v any) (descriptor, error) {
	body, err := json.Marshal(v)
	return a.blob(mediaType, body), err
}

func blobPath(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

// write writes the layout as a tar: its documents first, so that a reader knows what is to come.
func (a *archive) write(out io.Writer) error {
	top, topErr := json.Marshal(a.top)
	docker, dockerErr := json.Marshal(a.docker)
	if err := errors.Join(topErr, dockerErr); err != nil {
		return err
	}
	w, when := tar.NewWriter(out), time.Unix(0, 0)
	err := errors.Join(
		add(w, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644, when),
		add(w, "index.json", top, 0o644, when),
		add(w, "manifest.json", docker, 0o644, when))
	for _, digest := range slices.Sorted(maps.Keys(a.blobs)) {
		if err == nil {
			err = add(w, blobPath(digest), a.blobs[digest], 0o644, when)
		}
	}
	return errors.Join(err, w.Close())
}
