// Package lab makes a small cluster on one machine: network namespaces as pods, joined by veth pairs through a router
// namespace that plays kube-proxy, and real processes in them. The agent and the proxy run beside them as on a node.
//
// All of it is named after one run and goes away with Close. What a killed run left behind is removed by the next one.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say where a lab finds and keeps things.
type Options struct {
	Bin  string // folder of sluice, sluice-agent and sluice-proxy
	Node string // name of the node that the pods are on; default "lab"
}

// Lab is one run. Its methods may be called by several goroutines.
type Lab struct {
	Name      string // of the run
	Dir       string // everything of the run that is a file
	Manifests string // the folder of YAML that the agent reads; the pods' files are the lab's
	Cgroup    string // the cgroup above the pods and the proxy
	BPFFS     string // a folder on a BPF file system of the run's own

	options Options
	lock    *os.File
	host    *thread
	router  *router

	mu        sync.Mutex
	pods      []*Pod
	made      int // pods so far, deleted ones included
	services  []Service
	processes []*Process
}

// Open removes what dead runs left behind and makes an empty cluster. It needs root.
func Open(o Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes network namespaces and needs root: run it with sudo")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this kernel runs without IPv6, which the lab's pods need: remove ipv6.disable=1 from its command line")
	}
	mount, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	if o.Node == "" {
		o.Node = "lab"
	}
	name, lock, err := claim(mount)
	if err != nil {
		return nil, err
	}
	l := &Lab{
		Name: name, Dir: filepath.Join(runs, name), Cgroup: cgroupOf(mount, name), options: o, lock: lock,
	}
	l.Manifests, l.BPFFS = filepath.Join(l.Dir, "manifests"), filepath.Join(l.Dir, "bpf", "sluice")
	if err := l.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) build() error {
	raiseFileLimit()
	bpf := filepath.Dir(l.BPFFS)
	for _, dir := range []string{l.Manifests, l.logs(), filepath.Join(l.Dir, "pods"), bpf} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("sluice-"+l.Name, bpf, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a BPF file system (is CONFIG_BPF_SYSCALL set?): %w", err)
	}
	if err := os.MkdirAll(filepath.Join(l.Cgroup, "pods"), 0o755); err != nil {
		return fmt.Errorf("make a cgroup: %w", err)
	}
	host, err := newThread("")
	if err != nil {
		return err
	}
	l.host = host
	l.router, err = newRouter(netnsPath(l.Name, "router"))
	return err
}

// raiseFileLimit lets the programs of the lab have as many descriptors as the kernel allows: 10,000 connections that are
// held open have two ends, and the proxy has both. It is best effort: a low limit shows as failed connections.
func raiseFileLimit() {
	const want = 1 << 18
	var now syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now) == nil && now.Max < want {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: want, Max: want})
	} else if now.Cur < want {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: want, Max: now.Max})
	}
}

func (l *Lab) logs() string { return filepath.Join(l.Dir, "logs") }

// Log is the path of what the named process wrote.
func (l *Lab) Log(process string) string { return filepath.Join(l.logs(), process+".log") }

// Close ends every process and removes every namespace, cgroup, mount and file of the run. Calling it again does nothing.
func (l *Lab) Close() error {
	if l.lock == nil {
		return nil
	}
	err := killCgroup(l.Cgroup, 5*time.Second)
	l.mu.Lock()
	processes, pods := slices.Clone(l.processes), slices.Clone(l.pods)
	l.mu.Unlock()
	for _, p := range processes {
		<-p.Done()
	}
	for _, p := range pods {
		p.thread.close()
	}
	if l.router != nil {
		l.router.close()
	}
	if l.host != nil {
		l.host.close()
	}
	err = errors.Join(err, remove(l.Name, l.Cgroup), l.lock.Close())
	l.lock = nil
	return err
}

// Service is a ClusterIP Service as kube-proxy would serve it: the router gives each connection to one of the endpoints at
// random.
type Service struct {
	Name       string
	ClusterIPs []netip.Addr
	Port       uint16
	TargetPort uint16
	Endpoints  []*Pod
}

// SetServices replaces the Services. Connections that exist stay where they are.
func (l *Lab) SetServices(services ...Service) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.services = services
	if err := l.router.serve(services); err != nil {
		return fmt.Errorf("lab: program the Services into nftables: %w", err)
	}
	return nil
}

// WriteManifest puts a file into the folder that the agent reads, in one step, so that a half-written one is never read.
func (l *Lab) WriteManifest(name string, content []byte) error {
	f, err := os.CreateTemp(l.Dir, "manifest-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), filepath.Join(l.Manifests, name))
}

// Pods are the pods of the lab.
func (l *Lab) Pods() []*Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.pods)
}

// Stop asks every process that is left to end, waits as long as ctx allows, and kills what remains when the lab closes.
func (l *Lab) Stop(ctx context.Context) {
	l.mu.Lock()
	processes := slices.Clone(l.processes)
	l.mu.Unlock()
	for _, p := range processes {
		_ = p.Signal(syscall.SIGTERM) // it may have ended
	}
	for _, p := range processes {
		select {
		case <-p.Done():
		case <-ctx.Done():
		}
	}
}
