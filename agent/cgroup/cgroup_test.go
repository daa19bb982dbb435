package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/tests/need"
)

const (
	own   = "8f1c2d3e-0000-4000-8000-0123456789ab"
	other = "8f1c2d3e-0000-4000-8000-0123456789ac"
)

// systemd's spelling of own.
const ownSlice = "pod8f1c2d3e_0000_4000_8000_0123456789ab.slice"

// below makes cgroups in one of the test's own, and returns that and where the machine has its cgroups mounted.
func below(t *testing.T, paths ...string) (dir, root string) {
	t.Helper()
	dir = need.Cgroup2(t)
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for root = filepath.Dir(dir); ; root = filepath.Dir(root) {
		if _, err := Mount(root); err != nil {
			t.Fatal(err)
		}
		if up, err := Mount(filepath.Dir(root)); err != nil || up != root {
			return dir, root
		}
	}
}

func TestPodsCgroupIsFoundByOurOwnPod(t *testing.T) {
	for name, c := range map[string]struct{ pod, want string }{
		"cgroupfs":                 {"kubepods/burstable/pod" + own + "/c1", "kubepods"},
		"cgroupfs, guaranteed":     {"kubepods/pod" + own, "kubepods"},
		"systemd":                  {"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-" + ownSlice + "/cri-1.scope", "kubepods.slice"},
		"systemd, guaranteed":      {"kubepods.slice/kubepods-" + ownSlice, "kubepods.slice"},
		"a cgroup root of its own": {"kc/n1/kubepods/besteffort/pod" + own, "kc/n1/kubepods"},
		"the same by systemd":      {"a.slice/a-kubepods.slice/a-kubepods-besteffort.slice/a-kubepods-besteffort-" + ownSlice, "a.slice/a-kubepods.slice"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, root := below(t, c.pod, "kc/n2/kubepods/besteffort/pod"+other)
			got, err := Find(root, own)
			if err != nil || got != filepath.Join(dir, c.want) {
				t.Errorf("found %q, want %q (%v)", got, c.want, err)
			}
		})
	}
}

func TestWhyPodsCgroupIsNotFound(t *testing.T) {
	_, root := below(t, "somewhere/pod"+own)
	for name, c := range map[string]struct{ root, uid, want string }{
		"no UID":               {root, "", "--pod-uid"},
		"not in kubepods":      {root, own, "is in none that is named kubepods"},
		"another pod's":        {root, other, "is none of our own pod " + other},
		"no cgroups":           {t.TempDir(), own, "no cgroup2 file system is mounted at"},
		"a mount that is away": {filepath.Join(t.TempDir(), "none"), own, "no cgroup2 file system is mounted at"},
	} {
		if dir, err := Find(c.root, c.uid); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v", name, dir, err)
		}
	}
}

// The programs see a pod only if it is below the cgroup that they are attached to, and has its processes there.
func TestPodIsBelowTheAttachedCgroup(t *testing.T) {
	in, out := "kubepods/burstable/pod"+own, "elsewhere/kubepods/pod"+other
	dir, root := below(t, in+"/c1", out+"/c1")
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { child.Process.Kill(); child.Wait() })
	attached := filepath.Join(dir, "kubepods")
	expect := func(what, uid, want string) {
		t.Helper()
		err := Contains(root, attached, uid)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	expect("empty", own, "has no process")
	if err := os.WriteFile(filepath.Join(dir, in, "c1", "cgroup.procs"), []byte(strconv.Itoa(child.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("with a process", own, "")
	expect("elsewhere", other, "is in the cgroup "+filepath.Join(dir, out)+", which is not below "+attached)
	expect("nowhere", "8f1c2d3e-0000-4000-8000-0123456789ad", "does not use cgroup2")
}
