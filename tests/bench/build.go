package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluice-mesh/sluice/tests/bench/report"
)

// source is a program that is built here, and the folder that it is built from.
type source struct{ program, folder string }

// sources are what a proxy consists of. The last is the one that is measured.
func sources(proxy string) []source {
	if proxy == report.Ours {
		return []source{{"sluice-agent", "agent"}, {"sluice-proxy", "l7proxy"}}
	}
	return []source{{proxy, "tests/bench/" + proxy}}
}

// backendProgram is the backend of the gRPC workloads.
const backendProgram = "h2backend"

// provide builds the programs of a proxy, or sees that they are there, and returns the path of the one that is measured. What
// does not build is an error even where an older one exists: that would be measured in its place.
func provide(ctx context.Context, o options, proxy string) (path string, err error) {
	for _, s := range sources(proxy) {
		path = filepath.Join(o.bin, s.program)
		if o.build {
			err = command(ctx, "go", "build", "-trimpath", "-o", path, "./"+s.folder)
		} else if _, err = os.Stat(path); err != nil {
			err = fmt.Errorf("%w: without -bin it is built", err)
		}
		if err != nil {
			return "", err
		}
	}
	return path, nil
}
