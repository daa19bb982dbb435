package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/tests/need"
)

// containerd runs one of the test's own, and returns a function that runs ctr against it.
func containerd(t *testing.T) func(args ...string) string {
	t.Helper()
	need.Root(t)
	for _, name := range []string{"containerd", "ctr"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("skipped: %v", err)
		}
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "c.sock")
	configured := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(configured, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, "containerd", "--config", configured, "--address", socket,
		"--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"))
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = c.Wait() // it was told to stop
		if t.Failed() {
			t.Logf("containerd says:\n%s", &log)
		}
	})
	return func(args ...string) string {
		t.Helper()
		// --connect-timeout: containerd may still be on its way up.
		args = append([]string{"--address", socket, "--connect-timeout", "30s"}, args...)
		out, err := exec.CommandContext(t.Context(), "ctr", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}

func TestContainerdImportsTheArchive(t *testing.T) {
	ctr := containerd(t)
	_, body := written(t, testImages(t, 0, false))
	path := filepath.Join(t.TempDir(), "sluice.tar")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	ctr("images", "import", "--all-platforms", "--snapshotter", "native", path)
	if list := ctr("images", "ls"); !strings.Contains(list, testName+" ") || !strings.Contains(list, "linux/amd64,linux/arm64") {
		t.Errorf("containerd has:\n%s\nwant %s for both platforms", list, testName)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		at := t.TempDir()
		ctr("images", "mount", "--snapshotter", "native", "--platform", "linux/"+arch, testName, at)
		got, err := os.ReadFile(filepath.Join(at, binDir, "sluice-agent"))
		ctr("images", "unmount", "--snapshotter", "native", "--rm", at)
		if err != nil || string(got) != "sluice-agent for "+arch {
			t.Errorf("sluice-agent for %s is %q, %v", arch, got, err)
		}
	}
}
