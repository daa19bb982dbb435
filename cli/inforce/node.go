package inforce

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Where the two programs answer unless they are told otherwise.
const (
	AgentAdmin = "127.0.0.1:15021"
	ProxyAdmin = "127.0.0.1:15020"
)

// Node names the admin addresses of the agent and the proxy of one node: loopback IP:PORT, or unix:PATH.
type Node struct{ Agent, Proxy string }

// status is what of the agent's answer is of use here.
type status struct {
	Node     string
	Liveness struct{ State, Reason string }
	Pods     []struct{ Pod, State, Reason string }
	Routes   []compile.RouteStatus
	Problems []string
	Warnings []string
}

// dump is what of the proxy's answer is of use here: the model, in which Services and sets are written as text.
type dump struct {
	Services []struct {
		Service string
		Ports   []struct {
			model.Port
			Default string `json:"default"`
			Tables  []struct {
				model.RouteTable
				Namespace string `json:"namespace"`
			}
		}
	}
	Endpoints []struct {
		model.EndpointSet
		Set string `json:"set"`
	}
	Refused []model.Refusal
}

// patience is for both answers, each of which is made at once.
const patience = 10 * time.Second

// Read asks both. The statuses are the agent's, the rest is what the proxy has in force.
func (n Node) Read(ctx context.Context) (*View, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var s status
	if err := ask(ctx, "agent", n.Agent, "/status", &s); err != nil {
		return nil, err
	}
	var d dump
	if err := ask(ctx, "proxy", n.Proxy, "/config", &d); err != nil {
		return nil, err
	}
	v := &View{
		Source: fmt.Sprintf("the agent at %s and the proxy at %s, on node %s", n.Agent, n.Proxy, s.Node),
		Routes: s.Routes, AllPods: true, Problems: s.Problems, Warnings: s.Warnings,
	}
	if err := errors.Join(d.services(v), d.endpoints(v)); err != nil {
		return nil, fmt.Errorf("the proxy's answer is not that of this version: %w", err)
	}
	for _, p := range s.Pods {
		pod := Pod{}
		pod.Namespace, pod.Name, _ = strings.Cut(p.Pod, "/")
		if p.State != "serving" {
			pod.Direct = p.State + ": " + p.Reason
		}
		v.Pods = append(v.Pods, pod)
	}
	if s.Liveness.State != "up" {
		v.Problems = append(v.Problems, fmt.Sprintf("connections of this node are not redirected now: %s", s.Liveness.Reason))
	}
	for _, r := range d.Refused {
		v.Problems = append(v.Problems, refusal(r))
	}
	v.sort()
	return v, nil
}

func refusal(r model.Refusal) string {
	unit := "pod " + r.Pod
	switch {
	case r.Service != nil:
		unit = "Service " + r.Service.String()
	case r.Endpoints != nil:
		unit = "the endpoints of " + r.Endpoints.String()
	}
	return fmt.Sprintf("the proxy refused the newest version of %s: %s; what is shown is the version in force", unit, r.Reason)
}

func (d *dump) services(v *View) error {
	for i := range d.Services {
		from := &d.Services[i]
		s := model.Service{}
		var err error
		if s.ServiceKey, err = parseService(from.Service); err != nil {
			return err
		}
		for j := range from.Ports {
			p := &from.Ports[j]
			port := p.Port
			if port.Default, err = parseEndpoints(p.Default); err != nil {
				return err
			}
			for k := range p.Tables {
				table, namespace := &p.Tables[k].RouteTable, p.Tables[k].Namespace
				if namespace == "" {
					port.Producer = table
					continue
				}
				if port.Consumers == nil {
					port.Consumers = map[string]*model.RouteTable{}
				}
				port.Consumers[namespace] = table
			}
			s.Ports = append(s.Ports, port)
		}
		v.Services = append(v.Services, s)
	}
	return nil
}

func (d *dump) endpoints(v *View) error {
	for i := range d.Endpoints {
		set := d.Endpoints[i].EndpointSet
		var err error
		if set.EndpointsKey, err = parseEndpoints(d.Endpoints[i].Set); err != nil {
			return err
		}
		v.Endpoints = append(v.Endpoints, set)
	}
	return nil
}

// parseService reads what ServiceKey.String writes.
func parseService(s string) (model.ServiceKey, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		return model.ServiceKey{}, fmt.Errorf("%q is no Service", s)
	}
	return model.ServiceKey{Namespace: namespace, Name: name}, nil
}

// parseEndpoints reads what EndpointsKey.String writes.
func parseEndpoints(s string) (model.EndpointsKey, error) {
	service, port, _ := strings.Cut(s, ":")
	key, err := parseService(service)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil {
		return model.EndpointsKey{}, fmt.Errorf("%q is no port of a Service", s)
	}
	return model.EndpointsKey{Namespace: key.Namespace, Name: key.Name, Port: uint16(number)}, nil
}

// ask reads the answer of a program's admin server.
func ask(ctx context.Context, program, at, path string, into any) error {
	network, address := "unix", strings.TrimPrefix(at, "unix:")
	if address == at {
		if _, err := netip.ParseAddrPort(at); err != nil {
			return fmt.Errorf("--%s: %q is neither IP:PORT nor unix:PATH", program, at)
		}
		network = "tcp"
	}
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+program+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		if op, is := errors.AsType[*net.OpError](err); is {
			err = op
		}
		return fmt.Errorf("no %[1]s answers at %[2]s: %[3]w\nrun this on a node where sluice-%[1]s runs, as a user who may ask it; --%[1]s names another admin address, and --manifests a folder of YAML to read instead",
			program, at, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("read what the %s at %s says: %w", program, at, err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("the %s at %s answered %s to %s: %s", program, at, resp.Status, path, bytes.TrimSpace(body))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the %s at %s answered to %s what this version does not read: %w", program, at, path, err)
	}
	return nil
}
