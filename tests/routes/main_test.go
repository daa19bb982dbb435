package routes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

// podVariable makes the test binary run in a pod, as the echo.Pod that it has as JSON.
const podVariable = "SLUICE_ROUTES_POD"

// programs is the folder of the three programs. It is written before any test runs and only read after that.
var programs string

func TestMain(m *testing.M) {
	if pod := os.Getenv(podVariable); pod != "" {
		os.Exit(runPod(pod))
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

func runPod(options string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var p echo.Pod
	err := json.Unmarshal([]byte(options), &p)
	if err == nil {
		err = p.Run(ctx)
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
