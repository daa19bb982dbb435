package worker

import (
	"os"
	"runtime"
	"runtime/debug"
)

// gcPercent: what lives is small, a few MB and what connections hold, and requests allocate nothing, so the collector
// has work only when connections come and go. TODO
const gcPercent = 200

// Tune sets up the runtime of a process that does nothing but serve. Threads is how many run Go code at the same time;
// 0 is what Go takes from the machine, the cgroup and the environment. GOGC in the environment is respected.
func Tune(threads int) {
	if threads > 0 {
		runtime.GOMAXPROCS(threads)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// The program was started as /proc/self/exe, and tools would call it "exe". It is for people only.
	_ = os.WriteFile("/proc/self/comm", []byte("sluice-worker"), 0)
}
