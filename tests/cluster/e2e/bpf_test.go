package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// countBPF counts the BPF programs, maps and links of the machine, by their names. The machine is that of all nodes.
func countBPF(t *testing.T) map[string]int {
	t.Helper()
	count := map[string]int{}
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		id = next
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			if info, err := p.Info(); err == nil {
				count["program "+info.Name]++
			}
			p.Close()
		}
	}
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		id = next
		if m, err := ebpf.NewMapFromID(id); err == nil {
			if info, err := m.Info(); err == nil {
				count["map "+info.Name]++
			}
			m.Close()
		}
	}
	links := new(link.Iterator)
	defer links.Close()
	for links.Next() {
		count["links"]++
	}
	if err := links.Err(); err != nil {
		t.Fatal(err)
	}
	return count
}

// run runs the program of tests/cluster, in its folder.
func (c *cluster) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.program, args...)
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	return string(out), err
}
