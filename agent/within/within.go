// Package within runs a function in another namespace, on a thread that ends with it: nothing has to be set back, and no
// other goroutine ever runs there. The process's first thread, which cannot end, must not be one of the runtime's.
package within

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Network runs f in the network namespace of the descriptor, which stays the caller's. It needs CAP_SYS_ADMIN.
func Network(ns int, f func() error) error { return run(ns, unix.CLONE_NEWNET, "network", f) }

// Cgroups does the same with a cgroup namespace.
func Cgroups(ns int, f func() error) error { return run(ns, unix.CLONE_NEWCGROUP, "cgroup", f) }

func run(ns, kind int, name string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(ns, kind); err != nil {
			done <- fmt.Errorf("enter the %s namespace: %w", name, err)
			return
		}
		done <- f()
	}()
	return <-done
}
