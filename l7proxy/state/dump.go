package state

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// Dump is what is in force, for people: sorted, and in words where that helps.
type Dump struct {
	Version   uint64          `json:"version"`
	Services  []ServiceDump   `json:"services"`
	Endpoints []EndpointsDump `json:"endpoints"`
	Pods      []PodDump       `json:"pods"`
	Refused   []model.Refusal `json:"refused"` // the version that was refused; an earlier one may be in force
}

// ServiceDump is one Service.
type ServiceDump struct {
	Service string     `json:"service"`
	Ports   []PortDump `json:"ports"`
}

// PortDump is one port. A port without tables passes everything on to Default.
type PortDump struct {
	Number      uint16           `json:"number"`
	Name        string           `json:"name,omitempty"`
	AppProtocol string           `json:"appProtocol,omitempty"`
	Frontends   []model.Frontend `json:"frontends"`
	Default     string           `json:"default"`
	Tables      []TableDump      `json:"tables"`
}

// TableDump says which routes won on a port, for the clients that it applies to.
type TableDump struct {
	Clients   string       `json:"clients"`             // a namespace, or what is left of them
	Namespace string       `json:"namespace,omitempty"` // of the clients; "": the table is the producer's
	Explicit  bool         `json:"explicit,omitempty"`
	GRPC      bool         `json:"grpc,omitempty"`
	Routes    []string     `json:"routes"` // in order of precedence
	Rules     []model.Rule `json:"rules"`  // in order of precedence between equally specific matches
}

// EndpointsDump is one endpoint set.
type EndpointsDump struct {
	Set         string         `json:"set"`
	AppProtocol string         `json:"appProtocol,omitempty"`
	Affinity    model.Duration `json:"affinity,omitempty"`
	Endpoints   []EndpointDump `json:"endpoints"`
}

// EndpointDump is one endpoint, and the requests that it has now.
type EndpointDump struct {
	model.Endpoint
	Outstanding int64 `json:"outstanding"`
}

// PodDump is one pod, and the connections that it has open now.
type PodDump struct {
	model.EnrolledPod
	Connections int `json:"connections"`
}

// Dump returns what is in force now.
func (s *State) Dump() Dump {
	v := s.current.Load()
	d := Dump{
		Version: v.version, Services: []ServiceDump{}, Endpoints: []EndpointsDump{}, Pods: []PodDump{}, Refused: []model.Refusal{},
	}
	for _, key := range slices.SortedFunc(maps.Keys(v.services), model.ServiceKey.Compare) {
		d.Services = append(d.Services, dumpService(v.services[key].model))
	}
	for _, key := range slices.SortedFunc(slices.Values(s.cfg.Registry.Known()), model.EndpointsKey.Compare) {
		d.Endpoints = append(d.Endpoints, dumpEndpoints(s.cfg.Registry.Set(key)))
	}
	for _, p := range v.pods {
		families := slices.Sorted(maps.Keys(p.listeners))
		d.Pods = append(d.Pods, PodDump{model.EnrolledPod{Pod: p.Model, Families: families}, p.Connections()})
	}
	slices.SortFunc(d.Pods, func(a, b PodDump) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	for _, unit := range slices.Sorted(maps.Keys(v.refused)) {
		d.Refused = append(d.Refused, v.refused[unit])
	}
	return d
}

func dumpService(s *model.Service) ServiceDump {
	d := ServiceDump{Service: s.String()}
	for i := range s.Ports {
		p := &s.Ports[i]
		port := PortDump{
			Number: p.Number, Name: p.Name, AppProtocol: p.AppProtocol, Frontends: p.Frontends, Default: p.Default.String(), Tables: []TableDump{},
		}
		for _, ns := range slices.Sorted(maps.Keys(p.Consumers)) {
			port.Tables = append(port.Tables, dumpTable("namespace "+ns, ns, p.Consumers[ns]))
		}
		if p.Producer != nil {
			clients := "all namespaces"
			if len(p.Consumers) > 0 {
				clients = "all other namespaces"
			}
			port.Tables = append(port.Tables, dumpTable(clients, "", p.Producer))
		}
		d.Ports = append(d.Ports, port)
	}
	return d
}

func dumpTable(clients, namespace string, t *model.RouteTable) TableDump {
	d := TableDump{Clients: clients, Namespace: namespace, Explicit: t.Explicit, GRPC: t.GRPC, Routes: []string{}, Rules: t.Rules}
	for i := range t.Rules {
		if route := t.Rules[i].Route.String(); !slices.Contains(d.Routes, route) {
			d.Routes = append(d.Routes, route)
		}
	}
	return d
}

func dumpEndpoints(s *upstream.Set) EndpointsDump {
	d := EndpointsDump{Set: s.Key.String(), Endpoints: []EndpointDump{}}
	unit := s.Unit()
	if unit == nil { // removed since
		return d
	}
	d.AppProtocol, d.Affinity = unit.AppProtocol, unit.Affinity
	outstanding := map[netip.AddrPort]int64{}
	for _, e := range s.Endpoints() {
		outstanding[e.Address] = e.Outstanding()
	}
	for _, e := range unit.Endpoints {
		d.Endpoints = append(d.Endpoints, EndpointDump{e, outstanding[e.Address]})
	}
	return d
}
