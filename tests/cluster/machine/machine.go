// Package machine makes nodes and a control plane of one machine: cgroups, namespaces, and the network between them. What it made
// it finds again by its cgroup, however it ended.
package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

// ErrDown tells that there is no cluster.
var ErrDown = errors.New("no cluster is up: run make cluster")

// Machine is the machine, with a cluster on it or not.
type Machine struct {
	cache  layout.Cache
	groups hierarchies
}

// Open looks at the machine.
func Open(c layout.Cache) (*Machine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root, for its namespaces and cgroups")
	}
	// A node sees copies of these.
	for _, dir := range []string{"/etc", "/opt", "/var", "/run"} {
		if strings.HasPrefix(string(c), dir+"/") {
			return nil, fmt.Errorf("the cache, %s, is below %s, of which each node has its own: set XDG_CACHE_HOME to another place", c, dir)
		}
	}
	groups, err := findHierarchies()
	return &Machine{c, groups}, err
}

// Lock keeps others from bringing a cluster up or down. It is released by closing it, or by the end of the process.
func Lock() (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join("/run/lock", layout.Name), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("somebody else is bringing a cluster up or down on this machine: %w", err)
	}
	return f, nil
}

// Up tells whether anything of a cluster runs.
func (m *Machine) Up() bool { return m.groups.up() }

// Down ends the cluster and removes all that was made for it but the logs, also of one that came up only half.
func (m *Machine) Down() error {
	err := errors.Join(m.groups.kill(), m.groups.remove(), disconnect())
	entries, readErr := os.ReadDir(m.cache.Run())
	if readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
		err = errors.Join(err, readErr)
	}
	for _, e := range entries {
		if e.Name() != "log" {
			err = errors.Join(err, os.RemoveAll(m.cache.Run(e.Name())))
		}
	}
	return err
}

// Member is a process that becomes the control plane or a node.
type Member struct {
	Name   string
	Args   []string // of this program
	Config any      // what it is told on its standard input, once the network is there
}

// Start starts the members, joins them by the network, and lets them begin.
func (m *Machine) Start(controlPlane Member, nodes map[string]Member) error {
	list := layout.Nodes()
	if err := m.groups.make(list); err != nil {
		return fmt.Errorf("make the cluster's cgroups: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(m.cache.Log("x")), 0o755); err != nil {
		return err
	}
	pids := map[string]int{}
	var begin []func() error
	for _, member := range append([]Member{controlPlane}, members(list, nodes)...) {
		pid, tell, err := m.start(member)
		if err != nil {
			return fmt.Errorf("start %s: %w", member.Name, err)
		}
		pids[member.Name] = pid
		begin = append(begin, tell)
	}
	if err := connect(pids[controlPlane.Name], list, pids); err != nil {
		return err
	}
	for _, tell := range begin {
		if err := tell(); err != nil {
			return err
		}
	}
	return m.remember(pids)
}

func members(list []layout.Node, nodes map[string]Member) []Member {
	var all []Member
	for _, n := range list {
		all = append(all, nodes[n.Name])
	}
	return all
}

// start starts a member in new namespaces and in its cgroup. It waits for tell, which gives it its configuration.
func (m *Machine) start(member Member) (pid int, tell func() error, err error) {
	group, err := os.Open(m.groups.system(member.Name))
	if err != nil {
		return 0, nil, err
	}
	defer group.Close()
	log, err := os.OpenFile(m.cache.Log(member.Name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return 0, nil, err
	}
	defer log.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer in.Close()
	cmd := exec.Command("/proc/self/exe", member.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd()),
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
	}
	if err := cmd.Start(); err != nil {
		out.Close()
		return 0, nil, err
	}
	return cmd.Process.Pid, func() error {
		return errors.Join(json.NewEncoder(out).Encode(member.Config), out.Close())
	}, nil
}

func (m *Machine) remember(pids map[string]int) error {
	b, err := json.Marshal(pids)
	if err != nil {
		return err
	}
	return os.WriteFile(m.cache.Run("processes"), b, 0o600)
}

// PID is the first process of a node or of the control plane.
func (m *Machine) PID(node string) (int, error) {
	b, err := os.ReadFile(m.cache.Run("processes"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrDown
	}
	pids := map[string]int{}
	if err == nil {
		err = json.Unmarshal(b, &pids)
	}
	if err != nil {
		return 0, err
	}
	pid, is := pids[node]
	if !is {
		return 0, fmt.Errorf("there is no node %q", node)
	}
	// Another process may have got the number meanwhile.
	if slices.Contains(processes(m.groups.system(node)), pid) {
		return pid, nil
	}
	return 0, fmt.Errorf("node %s has ended; its log is %s: %w", node, m.cache.Log(node), ErrDown)
}

// Command is a command on a node.
func (m *Machine) Command(ctx context.Context, node string, args ...string) (*exec.Cmd, error) {
	pid, err := m.PID(node)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(pid), "-m", "-p", "-n", "-u", "--"}, args...)...), nil
}
