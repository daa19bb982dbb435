package confine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

// TestMain lets the test binary be a process that confines itself: the filter stays for good.
func TestMain(m *testing.M) {
	if os.Getenv("SLUICE_CONFINE_TEST") != "" {
		confined()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// confined prints what became of each attempt.
func confined() {
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		fmt.Println("setup", err)
		return
	}
	if err := Process(); err != nil {
		fmt.Println("setup", err)
		return
	}
	setns := func(kind int) error { return unix.Setns(int(own.Fd()), kind) }
	call := func(nr uintptr, args ...uintptr) error {
		args = append(args, 0, 0, 0)
		if _, _, errno := unix.RawSyscall(nr, args[0], args[1], args[2]); errno != 0 {
			return errno
		}
		return nil
	}
	for what, err := range map[string]error{
		"setns-net": setns(unix.CLONE_NEWNET), "setns-any": setns(0), "setns-mount": setns(unix.CLONE_NEWNS),
		"bpf": call(unix.SYS_BPF), "mount": unix.Mount("x", "/x", "tmpfs", 0, ""), "unshare": unix.Unshare(unix.CLONE_NEWNET),
		"ptrace": call(unix.SYS_PTRACE, unix.PTRACE_TRACEME), "clone3": call(unix.SYS_CLONE3), "reboot": call(unix.SYS_REBOOT),
		"clone-ns": call(unix.SYS_CLONE, unix.CLONE_NEWNET), "exec": exec.Command("/bin/true").Run(), "works": works(),
	} {
		fmt.Println(what, classify(err))
	}
}

func classify(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, unix.EPERM):
		return "refused"
	case errors.Is(err, unix.ENOSYS):
		return "not there"
	}
	return err.Error()
}

// works does what a worker does: threads, sockets, files, timers.
func works() error {
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { time.Sleep(time.Millisecond); _, _ = os.ReadFile("/proc/self/stat") })
	}
	wg.Wait()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err == nil && string(b) != "hello" {
		err = fmt.Errorf("read %q", b)
	}
	return err
}

func TestWhatAWorkerMayDo(t *testing.T) {
	need.Root(t) // else the kernel refuses by itself what is to be refused
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(os.Environ(), "SLUICE_CONFINE_TEST=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(out)) {
		what, outcome, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[what] = outcome
	}
	want := map[string]string{
		"setns-net": "ok", "works": "ok", "clone3": "not there",
		"setns-any": "refused", "setns-mount": "refused", "bpf": "refused", "mount": "refused", "unshare": "refused", "ptrace": "refused",
		"clone-ns": "refused", "reboot": "refused", "exec": "refused",
	}
	for what, outcome := range want {
		if got[what] != outcome {
			t.Errorf("%s: %q, want %q", what, got[what], outcome)
		}
	}
	if len(got) != len(want) {
		t.Errorf("it said %s", out)
	}
}

// Each jump stays in the program, and every path ends in a return: the kernel would refuse it otherwise, also where the
// test does not run.
func TestPrograms(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		p, err := program(arch)
		if err != nil {
			t.Fatal(err)
		}
		for i, in := range p {
			if in.Code&7 == unix.BPF_JMP && i+1+int(max(in.Jt, in.Jf)) >= len(p) {
				t.Errorf("%s: instruction %d jumps out", arch, i)
			}
		}
		if p[len(p)-1] != ret(allow) {
			t.Errorf("%s: it does not end in a return", arch)
		}
	}
	if _, err := program("mips"); err == nil {
		t.Error("a filter for a machine that nobody looked at")
	}
}
