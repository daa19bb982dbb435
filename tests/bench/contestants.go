package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/tests/bench/config"
	"github.com/sluice-mesh/sluice/tests/bench/report"
)

// running is a proxy that was started, or nothing in its place.
type running struct {
	target  netip.AddrPort
	process *lab.Process // whose CPU time and memory count; nil: there is no proxy
	admin   string       // socket of Sluice's worker; "": it is another proxy
	stop    func() error
}

// start starts a proxy for a workload. It may not be ready yet.
func (p *place) start(ctx context.Context, name string, w workload) (*running, error) {
	s := config.Setup{
		Listen: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), proxyPort), Backends: p.backends, Threads: w.Threads, Routes: w.routes, GRPC: w.grpc,
	}
	if w.grpc {
		s.Backends = p.grpcBackends
	}
	if name == report.Direct || name == report.DirectAgain {
		return &running{target: netip.AddrPortFrom(directAddress, servicePort(w)), stop: func() error { return nil }}, nil
	}
	if name == report.Ours {
		return p.startSluice(ctx, w)
	}
	var err error
	if s.Dir, err = p.folder("proxy-" + name); err != nil {
		return nil, err
	}
	start, ok := map[string]func(config.Setup) (*lab.Process, error){
		report.Reference: p.startHAProxy, "nginx": p.startNginxProxy, "envoy": p.startEnvoy,
		"reverseproxy": p.startReverseProxy, "bareloop": p.startBare("bareloop"), "bareh2": p.startBare("bareh2"),
	}[name]
	if !ok {
		return nil, fmt.Errorf("no proxy %q", name)
	}
	process, err := start(s)
	if err != nil {
		return nil, err
	}
	return &running{target: s.Listen, process: process, stop: func() error { end(process, 5*time.Second); return nil }}, nil
}

func (p *place) startHAProxy(s config.Setup) (*lab.Process, error) {
	cfg, prefixes := config.HAProxy(s)
	path := filepath.Join(s.Dir, "haproxy.cfg")
	err := errors.Join(os.WriteFile(path, []byte(cfg), 0o644), os.WriteFile(filepath.Join(s.Dir, "routes.map"), []byte(prefixes), 0o644))
	if err != nil {
		return nil, err
	}
	return p.client.Start(lab.Command{Name: "haproxy", Path: p.programs["haproxy"], Args: []string{"-db", "-f", path}})
}

func (p *place) startNginxProxy(s config.Setup) (*lab.Process, error) {
	var process *lab.Process
	return process, p.startNginx(p.client, "nginx", s.Dir, config.Nginx(s), &process)
}

func (p *place) startEnvoy(s config.Setup) (*lab.Process, error) {
	cfg, err := config.Envoy(s)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.Dir, "envoy.json")
	if err := os.WriteFile(path, cfg, 0o644); err != nil {
		return nil, err
	}
	return p.client.Start(lab.Command{Name: "envoy", Path: p.programs["envoy"], Args: []string{
		"--config-path", path, "--concurrency", strconv.Itoa(s.Threads), "--disable-hot-restart", "--log-level", "warn",
	}})
}

func (p *place) startReverseProxy(s config.Setup) (*lab.Process, error) {
	return p.client.Start(lab.Command{
		Name: "reverseproxy", Path: p.programs["reverseproxy"], Env: goThreads(s.Threads),
		Args: []string{
			"-listen", s.Listen.String(), "-backends", list(s.Backends), "-routes", strconv.Itoa(s.Routes), "-h2c=" + strconv.FormatBool(s.GRPC),
		},
	})
}

func (p *place) startBare(name string) func(config.Setup) (*lab.Process, error) {
	return func(s config.Setup) (*lab.Process, error) {
		return p.client.Start(lab.Command{
			Name: name, Path: p.programs[name], Env: goThreads(s.Threads),
			Args: []string{"-listen", s.Listen.String(), "-backends", list(s.Backends), "-match", config.MatchName + "=" + config.MatchValue},
		})
	}
}

// servicePort is the port of the Service that a workload goes to.
func servicePort(w workload) uint16 {
	if w.grpc {
		return config.GRPCPort
	}
	return config.ServicePort
}

func goThreads(n int) []string { return []string{"GOMAXPROCS=" + strconv.Itoa(n)} }

// sluiceLimit bounds the start of the agent and the proxy, 5,000 routes included.
const sluiceLimit = time.Minute

// startSluice runs the agent and the proxy as on a node. The proxy's process is the master; its worker is below it.
func (p *place) startSluice(ctx context.Context, w workload) (*running, error) {
	routes := config.Routes(p.backends, w.routes)
	if w.grpc {
		routes = config.GRPCRoute(p.grpcBackends)
	}
	if err := p.lab.WriteManifest("routes.yaml", routes); err != nil {
		return nil, err
	}
	// The next proxy's connections are to meet nothing of ours in the kernel.
	agent, err := p.lab.StartAgent("--cleanup-on-exit")
	if err != nil {
		return nil, err
	}
	proxy, err := p.lab.Start("proxy", lab.Command{
		Name: "sluice-proxy", Path: p.programs[report.Ours], Args: []string{
			"--agent-socket", p.lab.AgentSocket(), "--admin", "unix:" + p.lab.ProxyAdmin(), "--drain-timeout", "1s", "--threads", strconv.Itoa(w.Threads),
		},
	})
	if err != nil {
		end(agent, 5*time.Second)
		return nil, err
	}
	r := &running{target: netip.AddrPortFrom(webAddress, servicePort(w)), process: proxy, admin: p.lab.ProxyAdmin()}
	r.stop = func() error {
		end(proxy, 10*time.Second)
		return agent.Terminate(10 * time.Second)
	}
	if err = p.lab.Ready(ctx, agent, p.lab.AgentAdmin(), sluiceLimit); err == nil {
		err = p.lab.Ready(ctx, proxy, p.lab.ProxyAdmin(), sluiceLimit)
	}
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}
