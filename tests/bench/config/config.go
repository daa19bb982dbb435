// Package config renders what each proxy of the benchmark is told, so that all of them do the same: match a request field
// (and, where there are many routes, a path prefix), choose one of two weighted backends, keep connections to them alive,
// answer 404 where nothing matches. Data in, text out.
package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// The field that a request must carry to be routed, and its value.
const (
	MatchName  = "x-bench"
	MatchValue = "yes"
)

// Host is the authority of every request.
const Host = "web.bench.svc.cluster.local"

// Pool is how many idle connections a proxy may keep to a backend: more than any workload opens.
const Pool = 2048

// maxConnections is how many clients a proxy is to serve at once: more than any workload opens, and with the connections to
// the backends still within the 20,000 descriptors that machines grant without asking.
const maxConnections = 8000

// Backend is one weighted choice.
type Backend struct {
	Name    string
	Address netip.AddrPort
	Weight  int
}

// Setup is what a proxy is to do.
type Setup struct {
	Listen   netip.AddrPort
	Backends []Backend
	Threads  int    // workers or threads: what the proxy may use at once
	Routes   int    // 1: any path; more: one path prefix a route
	GRPC     bool   // HTTP/2 on both sides; one route
	Dir      string // for files of the proxy's own
}

// Prefix is the path prefix of the route with the given number, from 0.
func Prefix(route int) string { return fmt.Sprintf("/r/%04d", route) }

// Paths are what a client asks for: up to 16 routes, spread evenly over all of them, so that neither the first nor the last
// decides the result. small is the path where there is one route.
func Paths(routes int, small string) []string {
	if routes <= 1 {
		return []string{small}
	}
	n := min(16, routes)
	paths := make([]string, n)
	for i := range paths {
		paths[i] = Prefix((2*i+1)*routes/(2*n)) + small
	}
	return paths
}

// HAProxy renders haproxy.cfg and the map of prefixes that it refers to (empty for one route).
func HAProxy(s Setup) (cfg, prefixes string) {
	h2 := ""
	if s.GRPC {
		h2 = " proto h2"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `global
    nbthread %d
    maxconn %d
defaults
    mode http
    timeout connect 5s
    timeout client 120s
    timeout server 120s
    timeout http-keep-alive 120s
    option http-keep-alive
    http-reuse always
frontend in
    bind %s%s
    acl routed req.hdr(%s) -m str %s
    http-request return status 404 unless routed
`, s.Threads, maxConnections, s.Listen, h2, MatchName, MatchValue)
	if s.Routes > 1 {
		fmt.Fprintf(&b, "    use_backend %%[path,map_beg(%s/routes.map)]\n", s.Dir)
	} else {
		b.WriteString("    default_backend web\n")
	}
	b.WriteString("backend web\n    balance roundrobin\n")
	for _, e := range s.Backends {
		fmt.Fprintf(&b, "    server %s %s%s weight %d pool-max-conn %d pool-purge-delay 120s\n", e.Name, e.Address, h2, e.Weight, Pool)
	}
	if s.Routes <= 1 {
		return b.String(), ""
	}
	var m strings.Builder
	for i := range s.Routes {
		fmt.Fprintf(&m, "%s/ web\n", Prefix(i))
	}
	return b.String(), m.String()
}

// Nginx renders nginx.conf for the proxy.
func Nginx(s Setup) string {
	http2 := ""
	if s.GRPC {
		http2 = " http2"
	}
	var b strings.Builder
	b.WriteString(nginxHead(s.Threads))
	b.WriteString("    upstream web {\n        zone web 256k;\n")
	for _, e := range s.Backends {
		fmt.Fprintf(&b, "        server %s weight=%d max_fails=0;\n", e.Address, e.Weight)
	}
	fmt.Fprintf(&b, `        keepalive %d;
        keepalive_requests 1000000000;
        keepalive_timeout 120s;
    }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_max_temp_file_size 0;
    client_max_body_size 0;
    http2_max_concurrent_streams 1000;
    server {
        listen %s%s reuseport;
`, Pool, s.Listen, http2)
	if s.GRPC {
		b.WriteString(nginxLocation("/", "grpc_pass grpc"))
	} else if s.Routes > 1 {
		for i := range s.Routes {
			b.WriteString(nginxLocation(Prefix(i)+"/", "proxy_pass http"))
		}
	} else {
		b.WriteString(nginxLocation("/", "proxy_pass http"))
	}
	b.WriteString("    }\n}\n")
	return b.String()
}

func nginxLocation(prefix, pass string) string {
	variable := strings.ReplaceAll(MatchName, "-", "_")
	return fmt.Sprintf("        location %s { if ($http_%s != %q) { return 404; } %s://web; }\n", prefix, variable, MatchValue, pass)
}

func nginxHead(workers int) string {
	return fmt.Sprintf(`daemon off;
user root;
worker_processes %d;
pid nginx.pid;
error_log stderr warn;
events { worker_connections %d; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 120s;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
`, workers, 2*maxConnections)
}

// Files are what a backend serves beside its small answer, by the name below its root.
func Files() map[string][]byte {
	const text = "sluice--"
	return map[string][]byte{
		"10k": []byte(strings.Repeat(text, 10<<10/len(text))),
		"1m":  []byte(strings.Repeat(text, 1<<20/len(text))),
	}
}

// NginxBackend renders nginx.conf for a backend of the given name: a small answer to everything, the Files besides.
func NginxBackend(name string, port uint16, root string) string {
	var b strings.Builder
	b.WriteString(nginxHead(1))
	fmt.Fprintf(&b, `    open_file_cache max=16 inactive=1h;
    server {
        listen %d;
        root %s;
        add_header x-backend %s;
        default_type text/plain;
        location / { return 200 "the small answer of a backend that has little to say: %s\n"; }
`, port, root, name, name)
	for _, file := range slices.Sorted(maps.Keys(Files())) {
		fmt.Fprintf(&b, "        location = /%s { }\n", file)
	}
	b.WriteString("    }\n}\n")
	return b.String()
}
