package within

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

// here is the network namespace of the calling thread.
func here(t *testing.T) os.FileInfo {
	t.Helper()
	info, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestNetworkIsEnteredForTheCallOnly(t *testing.T) {
	path := need.NetNS(t)
	ns, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	theirs, err := ns.Stat()
	if err != nil {
		t.Fatal(err)
	}
	before, odd := here(t), errors.New("it is odd")
	err = Network(int(ns.Fd()), func() error {
		if !os.SameFile(here(t), theirs) {
			t.Error("the function does not run in the namespace")
		}
		return odd
	})
	if !errors.Is(err, odd) {
		t.Errorf("the function's error is %v", err)
	}
	if !os.SameFile(here(t), before) {
		t.Error("the caller is in another namespace afterwards")
	}
}

func TestWhatIsNoNamespace(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for kind, enter := range map[string]func(int, func() error) error{"network": Network, "cgroup": Cgroups} {
		err := enter(int(f.Fd()), func() error { t.Error("it ran"); return nil })
		if !errors.Is(err, unix.EINVAL) || err.Error() != "enter the "+kind+" namespace: invalid argument" {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
