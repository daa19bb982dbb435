package enroll

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/cgroup"
)

// A process is looked at once and then remembered, because a node has a thousand of them and they are listed many times
// a second while a pod is awaited.
const (
	settleTime = 2 * time.Second  // a runtime moves a process that it has just started
	forgetTime = 10 * time.Second // a number may be used again
)

// sighting is what the processes of a pod tell.
type sighting struct {
	path    string    // names its network namespace; "": err says why there is none
	started time.Time // the process
	err     error
}

// finder finds the processes of pods. It is used by one goroutine.
type finder struct {
	proc string
	seen map[string]seen // by PID
	buf  []byte
}

type seen struct {
	pod   string // UID of the pod that it belongs to, or ""
	first time.Time
	read  time.Time
}

func newFinder(proc string) *finder {
	return &finder{proc: proc, seen: map[string]seen{}, buf: make([]byte, 8<<10)}
}

// find looks through the processes for those of the given pods, and returns what the oldest of each tells. A process
// in the host's namespace is passed over: it is no evidence of a namespace of the pod's own. Processes that end
// meanwhile are no error.
func (f *finder) find(uids map[string]bool) (map[string]sighting, error) {
	host, err := hostNS(f.proc)
	if err != nil {
		return nil, err
	}
	pids, err := processes(f.proc)
	if err != nil {
		return nil, err
	}
	known := make(map[string]seen, len(pids))
	found := map[string]sighting{}
	now := time.Now()
	for _, pid := range pids {
		s, fresh := f.look(pid, now)
		known[pid] = s
		if s.pod == "" || !uids[s.pod] {
			continue
		}
		if !fresh && f.podOf(pid) != s.pod { // it ended, and its number was used again
			delete(known, pid)
			continue
		}
		if at, ok := f.sight(pid, host); ok && older(at, found[s.pod]) {
			found[s.pod] = at
		}
	}
	f.seen = known
	return found, nil
}

// processes lists the PIDs below proc.
func processes(proc string) ([]string, error) {
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	pids := names[:0]
	for _, name := range names {
		if name[0] >= '1' && name[0] <= '9' {
			pids = append(pids, name)
		}
	}
	return pids, nil
}

// look says whose a process is. Fresh tells that it was asked of the kernel just now.
func (f *finder) look(pid string, now time.Time) (s seen, fresh bool) {
	s, ok := f.seen[pid]
	if ok && now.Sub(s.first) >= settleTime && now.Sub(s.read) < forgetTime {
		return s, false
	}
	if !ok {
		s.first = now
	}
	s.pod, s.read = f.podOf(pid), now
	return s, true
}

// podOf returns the UID of the pod that a process belongs to, or "".
func (f *finder) podOf(pid string) string {
	for line := range bytes.Lines(f.read(pid, "cgroup")) {
		// cgroups(7): hierarchy-ID:controllers:path
		if !bytes.Contains(line, []byte("pod")) {
			continue
		}
		if parts := strings.SplitN(strings.TrimSpace(string(line)), ":", 3); len(parts) == 3 {
			if uid := podOfCgroup(parts[2]); uid != "" {
				return uid
			}
		}
	}
	return ""
}

// read returns the start of a small file of a process; nothing when that has ended.
func (f *finder) read(pid, name string) []byte {
	fd, err := unix.Open(filepath.Join(f.proc, pid, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, f.buf)
	if err != nil {
		return nil
	}
	return f.buf[:n]
}

// sight looks at a process of a pod. False: it tells nothing.
func (f *finder) sight(pid string, host nsID) (sighting, bool) {
	id, err := statNS(netnsOf(f.proc, pid))
	switch {
	case errors.Is(err, errNotAllowed):
		return sighting{err: fmt.Errorf("its process %s was found, but not its network namespace: %w", pid, err)}, true
	case err != nil, id == host:
		return sighting{}, false
	}
	return sighting{path: netnsOf(f.proc, pid), started: f.started(pid)}, true
}

// older tells whether a says more than b: the first process of a pod lives as long as its sandbox, and a later one may
// have made a namespace of its own.
func older(a, b sighting) bool {
	switch {
	case a.path == "":
		return b.path == "" && b.err == nil
	case b.path == "":
		return true
	}
	return !a.started.IsZero() && a.started.Before(b.started)
}

// started is when a process was started, to 10 ms; zero where it is not known.
func (f *finder) started(pid string) time.Time {
	stat := f.read(pid, "stat")
	// proc_pid_stat(5): the name, in parentheses, may hold anything; starttime is the 22nd field, the 20th after it.
	_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	var boot unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return time.Time{}
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	return time.Now().Add(time.Duration(ticks)*tick - time.Duration(boot.Nano()))
}

// podOfCgroup returns the UID of the pod that the cgroup belongs to, or "".
func podOfCgroup(path string) string {
	for folder := range strings.SplitSeq(path, "/") {
		if uid := cgroup.PodOf(folder); uid != "" {
			return uid
		}
	}
	return ""
}
