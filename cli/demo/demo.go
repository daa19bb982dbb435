// Package demo is `sluice demo`: it runs the agent and the proxy for real beside a few pods and shows, step by step, that
// they do what they are for. Each step fails when what it shows is not so.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/examples"
)

// Options of a run.
type Options struct {
	Bin  string // folder of the three programs
	Keep bool   // leave everything running at the end, until ctx ends
	Out  io.Writer
}

// The Services of examples/web.yaml and examples/echo-grpc.yaml.
var (
	web    = service("web", 80, webPort, "10.96.0.10", "fd00:10:96::10")
	webV1  = service("web-v1", 80, webPort, "10.96.0.11", "fd00:10:96::11")
	webV2  = service("web-v2", 80, webPort, "10.96.0.12", "fd00:10:96::12")
	echo   = service("echo-grpc", 9000, echoPort, "10.96.0.20", "fd00:10:96::20")
	echoV1 = service("echo-grpc-v1", 9000, echoPort, "10.96.0.21", "fd00:10:96::21")
	echoV2 = service("echo-grpc-v2", 9000, echoPort, "10.96.0.22", "fd00:10:96::22")
)

// The ports of the pods.
const (
	webPort  = 8080
	echoPort = 9000
)

func service(name string, port, targetPort uint16, ips ...string) lab.Service {
	s := lab.Service{Name: name, Port: port, TargetPort: targetPort}
	for _, ip := range ips {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(ip))
	}
	return s
}

// Run shows everything. The error says which step was not as it should be, and why.
func Run(ctx context.Context, o Options) error {
	if err := programs(o.Bin); err != nil {
		return err
	}
	d := &demo{screen: newScreen(o.Out), start: time.Now()}
	defer d.screen.start()()
	err := d.run(ctx, o)
	if err != nil && ctx.Err() == nil {
		d.showLogs()
	}
	d.screen.now("cleaning up")
	if d.lab != nil {
		err = errors.Join(err, d.lab.Close())
	}
	if ctx.Err() != nil && !o.Keep {
		return errors.Join(context.Canceled, err)
	}
	return err
}

// programs tells at once when the other programs are missing.
func programs(dir string) error {
	for _, name := range []string{"sluice-agent", "sluice-proxy"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("%s is not beside this program: build all three with 'make build' (%w)", name, err)
		}
	}
	return nil
}

type demo struct {
	screen *screen
	start  time.Time
	lab    *lab.Lab
	client *lab.Pod
	web    []*lab.Pod // the pods behind the Service web
	echo   []*lab.Pod // those behind echo-grpc
	agent  *lab.Process
	proxy  *lab.Process
}

func (d *demo) run(ctx context.Context, o Options) error {
	d.screen.print("%s", d.screen.bold("Sluice, on this machine: five pods, two Services, an agent and a proxy"))
	if err := d.build(ctx, o.Bin); err != nil {
		return fmt.Errorf("set-up: %w", err)
	}
	d.screen.print("  %s %s", d.screen.tick(), d.screen.faint("set up: "+strings.Join(d.describe(), ", ")))
	for i, s := range steps {
		began := time.Now()
		d.screen.print("%s", d.screen.bold(fmt.Sprintf("%d. %s", i+1, s.title)))
		result, err := s.run(d, ctx)
		if err != nil {
			if ctx.Err() == nil {
				d.screen.print("  %s %s", d.screen.cross(), err)
			}
			return fmt.Errorf("step %d (%s): %w", i+1, s.title, err)
		}
		d.screen.print("  %s %s %s", d.screen.tick(), result, d.screen.faint(fmt.Sprintf("(%.1f s)", time.Since(began).Seconds())))
	}
	d.screen.print("%s", d.screen.bold(fmt.Sprintf("All %d steps are as they should be, in %.0f s.", len(steps), time.Since(d.start).Seconds())))
	if o.Keep {
		d.play(o.Bin)
		<-ctx.Done()
	}
	return nil
}

// build makes the pods and starts the agent and the proxy.
func (d *demo) build(ctx context.Context, bin string) error {
	d.screen.now("making network namespaces")
	var err error
	if d.lab, err = lab.Open(lab.Options{Bin: bin, Node: "demo"}); err != nil {
		return err
	}
	for _, name := range []string{"web.yaml", "echo-grpc.yaml"} {
		if err := d.manifest(name, nil); err != nil {
			return err
		}
	}
	if d.web, err = d.servers(ctx, web); err != nil {
		return err
	}
	if d.echo, err = d.servers(ctx, echo); err != nil {
		return err
	}
	if d.client, err = d.lab.AddPod(lab.PodSpec{Namespace: "demo", Name: "client", Labels: map[string]string{"app": "client"}}); err != nil {
		return err
	}
	web, webV1, webV2 := web, webV1, webV2
	web.Endpoints, webV1.Endpoints, webV2.Endpoints = d.web, d.web[:1], d.web[1:]
	echo, echoV1, echoV2 := echo, echoV1, echoV2
	echo.Endpoints, echoV1.Endpoints, echoV2.Endpoints = d.echo, d.echo[:1], d.echo[1:]
	if err := d.lab.SetServices(web, webV1, webV2, echo, echoV1, echoV2); err != nil {
		return err
	}
	d.screen.now("starting the agent")
	if d.agent, err = d.lab.StartAgent(); err != nil {
		return err
	}
	return d.startProxy(ctx)
}

// servers makes the two versions of a Service's pods.
func (d *demo) servers(ctx context.Context, of lab.Service) ([]*lab.Pod, error) {
	var pods []*lab.Pod
	for _, version := range []string{"v1", "v2"} {
		p, err := d.lab.AddPod(lab.PodSpec{
			Namespace: "demo", Name: of.Name + "-" + version, Labels: map[string]string{"app": of.Name, "version": version},
		})
		if err != nil {
			return nil, err
		}
		if _, err := p.Serve(ctx, of.TargetPort); err != nil {
			return nil, err
		}
		pods = append(pods, p)
	}
	return pods, nil
}

const readyLimit = 15 * time.Second

// startProxy starts the proxy and waits until both it and the agent are ready.
func (d *demo) startProxy(ctx context.Context) error {
	d.screen.now("starting the proxy")
	var err error
	if d.proxy, err = d.lab.StartProxy("--drain-timeout", "3s"); err != nil {
		return err
	}
	if err := d.lab.Ready(ctx, d.agent, d.lab.AgentAdmin(), readyLimit); err != nil {
		return err
	}
	return d.lab.Ready(ctx, d.proxy, d.lab.ProxyAdmin(), readyLimit)
}

// manifest writes an example into the agent's folder, as it is or edited.
func (d *demo) manifest(name string, edit func(string) string) error {
	b, err := examples.Files.ReadFile(name)
	if err != nil {
		return err
	}
	if edit != nil {
		b = []byte(edit(string(b)))
	}
	return d.lab.WriteManifest(name, b)
}

func (d *demo) describe() []string {
	var s []string
	for _, p := range slices.Concat([]*lab.Pod{d.client}, d.web, d.echo) {
		s = append(s, fmt.Sprintf("%s %s", p.Name, p.IPv4))
	}
	for _, v := range []lab.Service{web, echo} {
		s = append(s, fmt.Sprintf("Service %s %s and %s", v.Name, v.ClusterIPs[0], v.ClusterIPs[1]))
	}
	return s
}

// showLogs prints the end of what the agent and the proxy wrote.
func (d *demo) showLogs() {
	for _, p := range []*lab.Process{d.agent, d.proxy} {
		if p == nil {
			continue
		}
		if tail := p.Tail(12); tail != "" {
			d.screen.print("%s", d.screen.faint("the end of "+p.Name+"'s log:"))
			d.screen.print("    %s", strings.ReplaceAll(tail, "\n", "\n    "))
		}
	}
}

// play tells what can be done with a demo that goes on.
func (d *demo) play(bin string) {
	sluice := filepath.Join(bin, "sluice")
	d.screen.print(`
It goes on running. From another terminal:
  %[1]s demo get -n 100 http://%[2]s/                  # who answers, by the route in force
  %[1]s demo get -H 'x-canary: true' http://[%[3]s]/   # one request and its answer, over IPv6
  %[1]s demo exec client -- sh                            # a shell in the client pod: curl, ss, whatever is installed
  $EDITOR %[4]s/route-split.yaml           # edit a route: it counts as soon as it is saved
  curl -s --unix-socket %[5]s http://x/status   # what the agent made of the YAML
  curl -s --unix-socket %[6]s http://x/config   # what the proxy was told; /metrics counts
  less %[7]s      # what the agent says
Ctrl-C ends it and removes everything.`,
		sluice, web.ClusterIPs[0], web.ClusterIPs[1], d.lab.Manifests, d.lab.AgentAdmin(), d.lab.ProxyAdmin(), d.lab.Log("sluice-agent"))
}
