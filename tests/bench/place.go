package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/tests/bench/config"
)

// backendPort and grpcPort are the backends', proxyPort the proxies' in the client pod: below the ports that connections leave
// from.
const (
	backendPort = 8080
	grpcPort    = 8081
	proxyPort   = 18080
)

// The ClusterIPs: of the Service with routes, of each backend's own, and of one without routes for "direct".
var (
	webAddress      = netip.MustParseAddr("10.96.0.10")
	backendsAddress = []netip.Addr{netip.MustParseAddr("10.96.0.11"), netip.MustParseAddr("10.96.0.12")}
	directAddress   = netip.MustParseAddr("10.96.0.20")
)

// backendPrefix begins the names of the backends' processes.
const backendPrefix = "backend-"

// place is where everything is measured: the pods, with the backends running in theirs.
type place struct {
	lab          *lab.Lab
	client       *lab.Pod
	backends     []config.Backend
	grpcBackends []config.Backend // in the same pods
	programs     programs
	self         string // this program
}

// build makes the pods and starts the backends. Close of the lab takes all of it away.
func build(ctx context.Context, o options, found programs) (*place, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l, err := lab.Open(lab.Options{Bin: o.bin, Node: "bench"})
	if err != nil {
		return nil, err
	}
	p := &place{lab: l, programs: found, self: self}
	if err := p.fill(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return p, nil
}

func (p *place) fill(ctx context.Context) error {
	var err error
	if p.client, err = p.lab.AddPod(lab.PodSpec{Namespace: config.Namespace, Name: "client", Labels: map[string]string{"app": "client"}}); err != nil {
		return err
	}
	var pods []*lab.Pod
	for i, weight := range []int{80, 20} {
		name := fmt.Sprintf("v%d", i+1)
		pod, err := p.lab.AddPod(lab.PodSpec{Namespace: config.Namespace, Name: name, Labels: map[string]string{"app": "web", "version": name}})
		if err != nil {
			return err
		}
		if err := p.startBackend(pod); err != nil {
			return err
		}
		pods = append(pods, pod)
		p.backends = append(p.backends, config.Backend{Name: name, Address: netip.AddrPortFrom(pod.IPv4, backendPort), Weight: weight})
		p.grpcBackends = append(p.grpcBackends, config.Backend{Name: name, Address: netip.AddrPortFrom(pod.IPv4, grpcPort), Weight: weight})
	}
	if err := p.lab.SetServices(services(pods)...); err != nil {
		return err
	}
	addresses := append([]netip.Addr{webAddress}, backendsAddress...)
	if err := p.lab.WriteManifest("services.yaml", config.Services(p.backends, addresses, backendPort, grpcPort)); err != nil {
		return err
	}
	// A new connection for each request needs ports again that have just been used.
	return p.inside(ctx, "sysctl", map[string]string{"ipv4/ip_local_port_range": "20000 65535", "ipv4/tcp_tw_reuse": "1"}, nil, 5*time.Second)
}

// services are what kube-proxy would serve: each Service at both of its ports.
func services(pods []*lab.Pod) []lab.Service {
	var out []lab.Service
	add := func(name string, ip netip.Addr, endpoints []*lab.Pod) {
		for port, target := range map[uint16]uint16{config.ServicePort: backendPort, config.GRPCPort: grpcPort} {
			out = append(out, lab.Service{Name: name, ClusterIPs: []netip.Addr{ip}, Port: port, TargetPort: target, Endpoints: endpoints})
		}
	}
	add("web", webAddress, pods)
	add("direct", directAddress, pods)
	for i, pod := range pods {
		add(pod.Name, backendsAddress[i], []*lab.Pod{pod})
	}
	return out
}

func (p *place) startBackend(pod *lab.Pod) error {
	dir, err := p.folder(backendPrefix + pod.Name)
	if err != nil {
		return err
	}
	for name, content := range config.Files() {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	if err := p.startNginx(pod, backendPrefix+pod.Name, dir, config.NginxBackend(pod.Name, backendPort, dir), nil); err != nil {
		return err
	}
	if p.programs[backendProgram] == "" { // no workload needs it
		return nil
	}
	_, err = pod.Start(lab.Command{
		Name: backendPrefix + "grpc-" + pod.Name, Path: p.programs[backendProgram], Env: goThreads(1),
		Args: []string{"-listen", netip.AddrPortFrom(pod.IPv4, grpcPort).String(), "-name", pod.Name},
	})
	return err
}

// startNginx runs nginx in a pod; into, where given, gets the process.
func (p *place) startNginx(pod *lab.Pod, name, dir, conf string, into **lab.Process) error {
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return err
	}
	process, err := pod.Start(lab.Command{Name: name, Path: p.programs["nginx"], Args: []string{"-p", dir, "-c", path, "-e", "stderr"}})
	if err == nil && into != nil {
		*into = process
	}
	return err
}

// forget removes what the processes of earlier measurements have logged, so that an error shows its own. The backends' logs
// stay: they run all the time.
func (p *place) forget() error {
	logs, err := filepath.Glob(p.lab.Log("*"))
	for _, log := range logs {
		if !strings.HasPrefix(filepath.Base(log), backendPrefix) {
			err = errors.Join(err, os.Remove(log))
		}
	}
	return err
}

// folder makes a folder of the run's, without what an earlier measurement put into it.
func (p *place) folder(name string) (string, error) {
	dir := filepath.Join(p.lab.Dir, name)
	return dir, errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
}

// inside runs one of this program's own parts in the client pod, to its end or the limit.
func (p *place) inside(ctx context.Context, name string, request, response any, limit time.Duration) error {
	options, err := json.Marshal(request)
	if err != nil {
		return err
	}
	out, err := p.output(ctx, lab.Command{Name: name, Path: p.self, Args: []string{inside, name, string(options)}}, limit)
	if err != nil {
		return err
	}
	if response == nil {
		return nil
	}
	if err := json.Unmarshal(out, response); err != nil {
		return fmt.Errorf("%s: answer %q: %w", name, out, err)
	}
	return nil
}

// output runs a program in the client pod and returns what it wrote. One that does not end in time is killed.
func (p *place) output(ctx context.Context, c lab.Command, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out bytes.Buffer
	c.Stdout = &out
	process, err := p.client.Start(c)
	if err != nil {
		return nil, err
	}
	err = process.Wait(ctx)
	if ctx.Err() != nil {
		end(process, 0)
	}
	return out.Bytes(), err
}

// end asks a process to end, and kills it when it does not. How it ends does not matter: it has been measured.
func end(process *lab.Process, patience time.Duration) {
	if patience > 0 {
		_ = process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-process.Done():
			return
		case <-time.After(patience):
		}
	}
	_ = process.Signal(syscall.SIGKILL)
	<-process.Done()
}

// list renders the backends for the benchmark's own proxies.
func list(backends []config.Backend) string {
	var fields []string
	for _, b := range backends {
		fields = append(fields, fmt.Sprintf("%s=%d", b.Address, b.Weight))
	}
	return strings.Join(fields, ",")
}
