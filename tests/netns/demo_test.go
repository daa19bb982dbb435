package netns

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/tests/need"
)

// Ctrl-C at any moment: the demo removes everything and says that it was interrupted.
func TestDemoCleansUpAfterInterrupt(t *testing.T) {
	need.Root(t)
	before := labs(t)
	for _, after := range []string{"set up", "2. "} {
		cmd := exec.Command(filepath.Join(programs, "sluice"), "demo")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var printed strings.Builder
		for s := bufio.NewScanner(out); s.Scan(); {
			printed.WriteString(s.Text() + "\n")
			if strings.Contains(s.Text(), after) {
				if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // how it ended is looked at here
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("interrupted after %q: exit code %d, want 130; it printed\n%s", after, code, printed.String())
		}
		if left := labs(t); !slices.Equal(left, before) {
			t.Errorf("interrupted after %q: left behind %v, before there was %v", after, left, before)
		}
	}
}

// A program that fails makes the demo fail, with that program's own words.
func TestDemoFailsWithAReason(t *testing.T) {
	need.Root(t)
	before := labs(t)
	bin := t.TempDir()
	for _, name := range []string{"sluice", "sluice-agent"} {
		if err := os.Symlink(filepath.Join(programs, name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	script := "#!/bin/sh\necho the dog ate my configuration >&2\nexit 7\n"
	if err := os.WriteFile(filepath.Join(bin, "sluice-proxy"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(bin, "sluice"), "demo", "--bin", bin).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !bytes.Contains(out, []byte("the dog ate my configuration")) {
		t.Errorf("%v, it printed\n%s", err, out)
	}
	if left := labs(t); !slices.Equal(left, before) {
		t.Errorf("left behind %v, before there was %v", left, before)
	}
}

// labs lists what labs that are open have on this machine.
func labs(t *testing.T) []string {
	t.Helper()
	mount, err := lab.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, pattern := range []string{"/run/netns/sluice-*", "/run/sluice-lab/*", filepath.Join(mount, "sluice-??????")} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	return found
}
