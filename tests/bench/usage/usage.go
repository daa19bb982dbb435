// Package usage reads what processes have used, from /proc.
package usage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc/PID/stat: USER_HZ, which is 100 on every architecture that Go runs on.
const tick = 10 * time.Millisecond

// Usage is what a process and its descendants have used.
type Usage struct {
	PIDs []int         // sorted
	CPU  time.Duration // user and system time of all threads since they started, dead threads included; in ticks of 10 ms each
	RSS  int64         // bytes; pages that processes share count once for each
}

// Of reads the usage of a process and of all below it.
func Of(pid int) (Usage, error) {
	pids, err := tree(pid)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{PIDs: pids}
	for _, p := range pids {
		s, err := read(p)
		if err != nil {
			return Usage{}, err
		}
		u.CPU += s.cpu
		u.RSS += s.rss
	}
	return u, nil
}

// Since is the CPU time used since an earlier reading. A process that ended or started in between is an error: its time
// is not known, and a proxy whose workers come and go under load has failed.
func (u Usage) Since(earlier Usage) (time.Duration, error) {
	if !slices.Equal(u.PIDs, earlier.PIDs) {
		return 0, fmt.Errorf("its processes changed from %v to %v: one of them ended under load", earlier.PIDs, u.PIDs)
	}
	return u.CPU - earlier.CPU, nil
}

// tree lists a process and its descendants.
func tree(root int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		s, err := read(pid)
		if errors.Is(err, fs.ErrNotExist) { // it ended just now
			continue
		}
		if err == nil {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	slices.Sort(pids)
	return pids, nil
}

type stat struct {
	parent int
	cpu    time.Duration
	rss    int64
}

func read(pid int) (stat, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	s, err := parse(b)
	if err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return s, nil
}

// parse reads proc_pid_stat(5). The second field is the program's name in parentheses and may hold anything.
func parse(b []byte) (stat, error) {
	_, rest, ok := bytes.CutLast(b, []byte(")"))
	if !ok {
		return stat{}, fmt.Errorf("no program's name in %q", b)
	}
	f := strings.Fields(string(rest)) // f[0] is field 3
	const parent, user, system, rss = 4 - 3, 14 - 3, 15 - 3, 24 - 3
	if len(f) <= rss {
		return stat{}, fmt.Errorf("only %d fields", len(f)+2)
	}
	var n [4]int64
	for i, at := range []int{parent, user, system, rss} {
		v, err := strconv.ParseInt(f[at], 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("field %d: %w", at+3, err)
		}
		n[i] = v
	}
	return stat{parent: int(n[0]), cpu: time.Duration(n[1]+n[2]) * tick, rss: n[3] * int64(os.Getpagesize())}, nil
}
