package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// Namespace is where the benchmark's objects and pods are.
const Namespace = "bench"

// The ports of the Services: HTTP/1.1's and gRPC's. Their pods listen on others.
const (
	ServicePort = 80
	GRPCPort    = 9000
)

// Services renders the namespace, the Service that has the routes, and one for each backend, which selects pods by the label "version".
// addresses are the ClusterIPs: the routed Service's, then the backends'.
func Services(backends []Backend, addresses []netip.Addr, targetPort, grpcTargetPort uint16) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n", Namespace)
	service := func(name string, address netip.Addr, selector string) {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata:
  name: %s
  namespace: %s
spec:
  clusterIP: %s
  clusterIPs: [%q]
  ipFamilies: [IPv4]
  selector: {%s}
  ports:
  - name: http
    port: %d
    targetPort: %d
    protocol: TCP
  - name: grpc
    port: %d
    targetPort: %d
    protocol: TCP
    appProtocol: kubernetes.io/h2c
`, name, Namespace, address, address, selector, ServicePort, targetPort, GRPCPort, grpcTargetPort)
	}
	service("web", addresses[0], "app: web")
	for i, e := range backends {
		service(e.Name, addresses[i+1], "app: web, version: "+e.Name)
	}
	return []byte(b.String())
}

// Routes renders one HTTPRoute for each route.
func Routes(backends []Backend, routes int) []byte {
	var b strings.Builder
	for i := range max(1, routes) {
		path := "/"
		if routes > 1 {
			path = Prefix(i)
		}
		fmt.Fprintf(&b, `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: route-%04d
  namespace: %s
spec:
  parentRefs:
  - group: ""
    kind: Service
    name: web
    port: %d
  rules:
  - matches:
    - path: {type: PathPrefix, value: %s}
      headers:
      - {name: %s, value: %q}
    backendRefs:
`, i, Namespace, ServicePort, path, MatchName, MatchValue)
		for _, e := range backends {
			fmt.Fprintf(&b, "    - {name: %s, port: %d, weight: %d}\n", e.Name, ServicePort, e.Weight)
		}
	}
	return []byte(b.String())
}

// GRPCRoute renders the one route of the gRPC workloads.
func GRPCRoute(backends []Backend) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata:
  name: route
  namespace: %s
spec:
  parentRefs:
  - group: ""
    kind: Service
    name: web
    port: %d
  rules:
  - matches:
    - headers:
      - {name: %s, value: %q}
    backendRefs:
`, Namespace, GRPCPort, MatchName, MatchValue)
	for _, e := range backends {
		fmt.Fprintf(&b, "    - {name: %s, port: %d, weight: %d}\n", e.Name, GRPCPort, e.Weight)
	}
	return []byte(b.String())
}
