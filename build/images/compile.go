package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// platform is what an image is for.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

func parsePlatforms(names string) ([]platform, error) {
	var out []platform
	for name := range strings.SplitSeq(names, ",") {
		system, arch, ok := strings.Cut(name, "/")
		if !ok || system != "linux" || arch != "amd64" && arch != "arm64" {
			return nil, fmt.Errorf("-platforms: %q is neither linux/amd64 nor linux/arm64", name)
		}
		out = append(out, platform{system, arch})
	}
	return out, nil
}

// programs are the packages that are built, by the names of their programs.
var programs = [...]struct{ name, pkg string }{
	{"sluice", "./cli"},
	{"sluice-agent", "./agent"},
	{"sluice-cni", "./cni"},
	{"sluice-proxy", "./l7proxy"},
}

// binDir is where an image has the programs. It is the image's PATH too.
const binDir = "/usr/local/bin"

// file is one of an image's. It is executable.
type file struct{ at, from string }

// source is what the programs were built from, as Go has stamped it into them.
type source struct {
	version  string
	revision string // of the commit; empty without one
	time     time.Time
}

// compile builds the programs for p into folder. The go command knows what is up to date.
func compile(ctx context.Context, folder string, p platform, progress io.Writer) ([]file, source, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, source{}, err
	}
	var files []file
	for _, program := range programs {
		to := filepath.Join(folder, program.name)
		// -buildvcs, because GOFLAGS may say otherwise: an image tells from which commit it is.
		c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", "-s -w", "-o", to, program.pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.os, "GOARCH="+p.arch)
		c.Stdout, c.Stderr = progress, progress
		if err := c.Run(); err != nil {
			return nil, source{}, fmt.Errorf("%s: %w", program.name, err)
		}
		files = append(files, file{path.Join(binDir, program.name), to})
	}
	from, err := sourceOf(files[0].from)
	return files, from, err
}

// sourceOf reads what is stamped into a program. Without a commit the time is that at which Unix began: any other would
// make each image a new one.
func sourceOf(program string) (source, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return source{}, err
	}
	s := source{version: cmp.Or(info.Main.Version, "(devel)"), time: time.Unix(0, 0).UTC()}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			s.revision = setting.Value
		case "vcs.time":
			if s.time, err = time.Parse(time.RFC3339, setting.Value); err != nil {
				return source{}, fmt.Errorf("the commit's time in %s: %w", program, err)
			}
		}
	}
	return s, nil
}
