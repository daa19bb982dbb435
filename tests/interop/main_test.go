// Package interop runs programs of others through the whole redirected path: h2spec, grpc-go's interoperability tests and
// net/http, from a pod through the proxy to another pod. It is a module of its own, so that they never enter the product's
// go.mod. It needs root.
//
// SLUICE_VERIFY=1 makes the long tests longer. SLUICE_RACE=1 builds the three programs with the race detector.
// SLUICE_DIRECT=1 leaves agent and proxy out: a test that fails then as well is wrong itself, or its peers are.
package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// helperVariable makes the test binary run one of helpers instead of the tests: it does in a pod what a test asks for.
const helperVariable = "SLUICE_INTEROP_HELPER"

// helper gets its arguments and returns what is printed as JSON.
type helper func(args []string) (any, error)

var helpers = map[string]helper{"dial": serveDials, "h2spec": runH2Spec, "grpc": runGRPCCase}

// programs is the folder of the three programs. It is written before any test runs and only read after that.
var programs string

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVariable); name != "" {
		os.Exit(runHelper(name, os.Args[1:]))
	}
	if os.Geteuid() != 0 || direct() {
		os.Exit(m.Run()) // each test that needs root says so
	}
	code, err := withPrograms(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runHelper(name string, args []string) int {
	h, ok := helpers[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no helper %q\n", name)
		return 1
	}
	result, err := h(args)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func withPrograms(run func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "sluice-programs-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for name, pkg := range map[string]string{"sluice-agent": "agent", "sluice-proxy": "l7proxy"} {
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

// direct tells that there is to be no agent and no proxy.
func direct() bool { return os.Getenv("SLUICE_DIRECT") == "1" }

// heavy is the number for `make verify`, or the lighter one.
func heavy(verify, usual int) int {
	if os.Getenv("SLUICE_VERIFY") == "1" {
		return verify
	}
	return usual
}
