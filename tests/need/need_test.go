package need

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestNamespaceHasLoopbackOfItsOwn(t *testing.T) {
	path := NetNS(t)
	In(t, path, func() error {
		l, err := net.Listen("tcp", "127.0.0.1:1")
		if err != nil {
			return err
		}
		return l.Close()
	})
}

func TestCgroupAndBPFFSAreUsable(t *testing.T) {
	for _, dir := range []string{Cgroup2(t), BPFFS(t)} {
		if err := os.Mkdir(filepath.Join(dir, "child"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
