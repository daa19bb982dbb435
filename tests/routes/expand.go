package routes

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	gatewayGroup = "gateway.networking.k8s.io"
	httpRoute    = "HTTPRoute"
)

// Addresses are a pod's.
type Addresses struct{ V4, V6 netip.Addr }

// Base are the objects that the case has before its own: its Services and what is behind them.
func (c *Case) Base(pods map[string]Addresses) ([]Object, error) {
	text, err := files.ReadFile("base.yaml")
	if err != nil {
		return nil, err
	}
	var b base
	if err := decode(text, &b); err != nil {
		return nil, fmt.Errorf("base.yaml: %w", err)
	}
	objects := []Object{{Key{"Namespace", "", c.Namespace}, map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": c.Namespace},
	}}}
	for _, name := range slices.Sorted(maps.Keys(b.Services)) {
		spec := map[string]any{"ports": servicePorts(b.Ports)}
		if name == "echo" {
			spec["ports"] = servicePorts(b.Parent)
			maps.Copy(spec, c.Echo)
		}
		ports := slicePorts(spec["ports"].([]any))
		objects = append(objects, c.object("v1", "Service", name, map[string]any{"spec": spec}))
		for family, pick := range map[string]func(Addresses) netip.Addr{
			"IPv4": func(a Addresses) netip.Addr { return a.V4 }, "IPv6": func(a Addresses) netip.Addr { return a.V6 },
		} {
			var endpoints []any
			for _, pod := range b.Services[name] {
				endpoints = append(endpoints, map[string]any{"addresses": []any{pick(pods[pod]).String()}})
			}
			s := c.object("discovery.k8s.io/v1", "EndpointSlice", name+"-"+strings.ToLower(family), map[string]any{
				"addressType": family, "endpoints": endpoints, "ports": ports,
			})
			s.Content["metadata"].(map[string]any)["labels"] = map[string]any{"kubernetes.io/service-name": name}
			objects = append(objects, s)
		}
	}
	return objects, nil
}

func servicePorts(ports []basePort) []any {
	var all []any
	for _, p := range ports {
		all = append(all, map[string]any{"name": p.Name, "port": p.Port, "targetPort": p.TargetPort})
	}
	return all
}

// slicePorts are a Service's ports as its slices have them.
func slicePorts(ports []any) []any {
	var all []any
	for _, p := range ports {
		port := p.(map[string]any)
		number := port["targetPort"]
		if number == nil {
			number = port["port"]
		}
		all = append(all, map[string]any{"name": port["name"], "port": number})
	}
	return all
}

func (c *Case) object(apiVersion, kind, name string, rest map[string]any) Object {
	o := Object{Key{kind, c.Namespace, name}, map[string]any{
		"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name, "namespace": c.Namespace},
	}}
	maps.Copy(o.Content, rest)
	return o
}

// Expand makes whole objects of what is to be applied.
func (c *Case) Expand(a *Apply, pods map[string]Addresses) ([]Object, error) {
	var objects []Object
	for i := range a.Routes {
		objects = append(objects, c.route(&a.Routes[i]))
	}
	for i, content := range a.Objects {
		filled, err := fillAddresses(content, pods)
		if err != nil {
			return nil, err
		}
		kind, _ := filled["kind"].(string)
		meta, _ := filled["metadata"].(map[string]any)
		name, _ := meta["name"].(string)
		if kind == "" || name == "" {
			return nil, fmt.Errorf("%s: objects[%d] has no kind or no name", c.Name, i)
		}
		if filled["apiVersion"] == nil {
			filled["apiVersion"] = apiVersionOf(kind)
		}
		if meta["namespace"] == nil {
			meta["namespace"] = c.Namespace
		}
		objects = append(objects, Object{Key{kind, meta["namespace"].(string), name}, filled})
	}
	return objects, nil
}

// fillAddresses puts the pods' addresses in the place of $POD.4 and $POD.6, in a copy.
func fillAddresses(content map[string]any, pods map[string]Addresses) (map[string]any, error) {
	b, err := yaml.Marshal(content)
	if err != nil {
		return nil, err
	}
	var pairs []string
	for name, a := range pods {
		pairs = append(pairs, "$"+name+".4", a.V4.String(), "$"+name+".6", a.V6.String())
	}
	filled := map[string]any{}
	err = yaml.Unmarshal([]byte(strings.NewReplacer(pairs...).Replace(string(b))), &filled)
	return filled, err
}

func apiVersionOf(kind string) string {
	switch kind {
	case "EndpointSlice":
		return "discovery.k8s.io/v1"
	case "Service", "Namespace", "ConfigMap", "Pod":
		return "v1"
	}
	return gatewayGroup + "/v1"
}

func (c *Case) route(r *Route) Object {
	key := Key{r.Kind, r.Namespace, r.Name}
	if key.Kind == "" {
		key.Kind = httpRoute
	}
	if key.Name == "" {
		key.Name = "route"
	}
	if key.Namespace == "" {
		key.Namespace = c.Namespace
	}
	meta := map[string]any{"name": key.Name, "namespace": key.Namespace}
	if r.Created != "" {
		meta["creationTimestamp"] = r.Created
	}
	if len(r.Annotations) > 0 {
		meta["annotations"] = r.Annotations
	}
	parents := r.Parents
	if parents == nil {
		parents = []map[string]any{{"group": "", "kind": "Service", "name": "echo", "namespace": c.Namespace, "port": 80}}
	}
	spec := map[string]any{"parentRefs": parents}
	if r.Hostnames != nil {
		spec["hostnames"] = r.Hostnames
	}
	if r.Rules != nil {
		spec["rules"] = r.Rules
	}
	return Object{key, map[string]any{"apiVersion": gatewayGroup + "/v1", "kind": key.Kind, "metadata": meta, "spec": spec}}
}

// key reads "Kind/name" or "Kind/namespace/name".
func (c *Case) key(s string) Key {
	parts := strings.Split(s, "/")
	if len(parts) == 3 {
		return Key{parts[0], parts[1], parts[2]}
	}
	return Key{parts[0], c.Namespace, parts[len(parts)-1]}
}
