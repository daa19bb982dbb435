package inforce

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Node is the agent and the proxy of one node.
type Node struct{ Agent, Proxy ask.Program }

// patience is for both answers, each of which is made at once.
const patience = 10 * time.Second

// Read asks both. The statuses are the agent's, the rest is what the proxy has in force.
func (n Node) Read(ctx context.Context) (*View, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var s ask.Status
	if err := n.Agent.Get(ctx, "/status", &s); err != nil {
		return nil, err
	}
	var d ask.State
	if err := n.Proxy.Get(ctx, "/config", &d); err != nil {
		return nil, err
	}
	v := &View{
		Source: fmt.Sprintf("the agent at %s and the proxy at %s, on node %s", n.Agent.At, n.Proxy.At, s.Node),
		Routes: s.Routes, AllPods: true, Problems: s.Problems, Warnings: s.Warnings,
	}
	if err := errors.Join(services(&d, v), endpoints(&d, v)); err != nil {
		return nil, fmt.Errorf("the proxy's answer is not that of this version: %w", err)
	}
	for _, p := range s.Pods {
		pod := Pod{}
		pod.Namespace, pod.Name, _ = strings.Cut(p.Pod, "/")
		switch p.State {
		case "serving":
		case "excluded":
			pod.Direct = p.Reason
		default:
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

func services(d *ask.State, v *View) error {
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

func endpoints(d *ask.State, v *View) error {
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
