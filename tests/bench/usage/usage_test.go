package usage

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParseTakesAnyProgramName(t *testing.T) {
	const line = "42 (a) (b c) S 7 42 42 0 -1 4194304 1 0 0 0 12 30 5 5 20 0 1 0 100 1000000 25 18446744073709551615 1 1"
	s, err := parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if s.parent != 7 || s.cpu != 420*time.Millisecond || s.rss != 25*int64(os.Getpagesize()) {
		t.Errorf("got %+v, want parent 7, 420ms (children's times do not count), 25 pages", s)
	}
}

func TestParseNamesWhatIsWrong(t *testing.T) {
	for _, line := range []string{"", "42 (a) S 7", "42 (a) S x 42 42 0 -1 4194304 1 0 0 0 12 30 5 5 20 0 1 0 100 1000000 25"} {
		if s, err := parse([]byte(line)); err == nil {
			t.Errorf("parse(%q) = %+v, want an error", line, s)
		}
	}
}

func TestUsageCountsCPUAndChildren(t *testing.T) {
	child := exec.Command("sleep", "10")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	before, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(before.PIDs, child.Process.Pid) || before.RSS == 0 {
		t.Errorf("%+v lacks the child %d, or memory", before, child.Process.Pid)
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
	}
	after, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if used, err := after.Since(before); err != nil || used <= 0 || used > 5*time.Second {
		t.Errorf("100 ms of work count as %v, %v", used, err)
	}
	after.PIDs = after.PIDs[:1]
	if _, err := after.Since(before); err == nil {
		t.Error("a process that ended goes unnoticed")
	}
}
