// Package netns runs the agent and the proxy for real in the lab and tests what only the whole can show. It needs root.
// SLUICE_VERIFY=1 makes the heavy tests heavier; SLUICE_RACE=1 builds the three programs with the race detector.
package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// programs is the folder of the three programs. It is written before any test runs and only read after that.
var programs string

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVariable); name != "" {
		os.Exit(runHelper(name, os.Args[1:]))
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // each test says that it needs root
	}
	code, err := withPrograms(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withPrograms(run func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "sluice-programs-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for name, pkg := range map[string]string{"sluice": "cli", "sluice-agent": "agent", "sluice-proxy": "l7proxy"} {
		args := []string{"build", "-o", filepath.Join(dir, name)}
		if os.Getenv("SLUICE_RACE") == "1" {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "./"+pkg)...)
		build.Dir = filepath.Join("..", "..")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	programs = dir
	return run(), nil
}

// heavy is the number for `make verify`, or the lighter one.
func heavy(verify, usual int) int {
	if os.Getenv("SLUICE_VERIFY") == "1" {
		return verify
	}
	return usual
}
