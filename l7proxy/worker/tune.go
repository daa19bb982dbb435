package worker

import (
	"os"
	"runtime"
)

// Tune sets up the process. Threads is how many run Go code at the same time; 0 is what Go takes from the machine, the
// cgroup and the environment.
//
// The collector is left as it is (measured): a connection allocates less than a kilobyte and a request nothing, so that
// it runs once for some thousand connections, on a heap of a few megabytes. The limit of open files was raised to the
// hard one by package os.
func Tune(threads int) {
	if threads > 0 {
		runtime.GOMAXPROCS(threads)
	}
	// The program was started as /proc/self/exe, and tools would call it "exe". It is for people only.
	_ = os.WriteFile("/proc/self/comm", []byte("sluice-worker"), 0)
}
