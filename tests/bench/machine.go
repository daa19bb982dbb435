package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/bench/report"
)

// machine describes where it runs. What cannot be read is "unknown": it is for the reader's eyes only.
func machine(found programs) report.Machine {
	m := report.Machine{CPU: "unknown CPU", Cores: runtime.NumCPU(), Kernel: "unknown", Versions: map[string]string{}}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			if name, value, _ := strings.Cut(s.Text(), ":"); strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	for name, flag := range map[string]string{"haproxy": "-v", "nginx": "-v", "wrk": "-v", "h2load": "--version", "envoy": "--version"} {
		if path := found[name]; path != "" {
			m.Versions[name] = version(path, flag)
		}
	}
	m.Versions["go"] = strings.TrimPrefix(runtime.Version(), "go")
	return m
}

var number = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// version is the first thing like a version that a program says of itself. wrk says it with an exit code.
func version(path, flag string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, path, flag).CombinedOutput()
	if v := number.Find(out); v != nil {
		return string(v)
	}
	return "unknown"
}
