// Reverseproxy is what a Go program gets from the standard library: httputil.ReverseProxy with a field match, path prefixes,
// two weighted backends and a connection pool, for the benchmark to compare with.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/config"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("reverseproxy", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to listen on")
	backends := flags.String("backends", "", "comma-separated `address=weight`")
	routes := flags.Int("routes", 1, "`number` of path prefixes; 1: any path")
	h2c := flags.Bool("h2c", false, "speak HTTP/2 without TLS on both sides")
	if flags.Parse(args) != nil {
		return 2
	}
	chosen, err := parseBackends(*backends)
	if err == nil {
		protocols := protocols(*h2c)
		server := &http.Server{Addr: *listen, Handler: handler(chosen, *routes, protocols), Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
		err = server.ListenAndServe()
	}
	fmt.Fprintln(os.Stderr, "reverseproxy:", err)
	return 1
}

func protocols(h2c bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(!h2c)
	p.SetUnencryptedHTTP2(h2c)
	return p
}

type backends struct {
	hosts   []string
	weights []int
	total   int
}

func parseBackends(list string) (backends, error) {
	var b backends
	for field := range strings.SplitSeq(list, ",") {
		host, weight, _ := strings.Cut(field, "=")
		if _, err := netip.ParseAddrPort(host); err != nil {
			return b, fmt.Errorf("backend %q: %w", field, err)
		}
		w, err := strconv.Atoi(weight)
		if err != nil || w < 1 {
			return b, fmt.Errorf("backend %q: want a weight of 1 or more", field)
		}
		b.hosts, b.weights, b.total = append(b.hosts, host), append(b.weights, w), b.total+w
	}
	return b, nil
}

func (b backends) pick() string {
	n := rand.IntN(b.total)
	for i, w := range b.weights {
		if n -= w; n < 0 {
			return b.hosts[i]
		}
	}
	return b.hosts[0]
}

func handler(b backends, routes int, protocols *http.Protocols) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", b.pick(), r.In.Host
		},
		Transport: &http.Transport{
			Protocols: protocols, MaxIdleConnsPerHost: config.Pool, IdleConnTimeout: 2 * time.Minute, DisableCompression: true,
		},
		BufferPool: newPool(),
		ErrorLog:   log.New(os.Stderr, "", 0),
	}
	prefixes := map[string]bool{}
	if routes > 1 {
		for i := range routes {
			prefixes[config.Prefix(i)] = true
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(config.MatchName) != config.MatchValue || routes > 1 && !prefixes[prefixOf(r.URL.Path)] {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	})
}

// prefixOf is the path's first two elements, which is what the benchmark's routes have.
func prefixOf(path string) string {
	slashes := 0
	for i := range len(path) {
		if path[i] == '/' {
			if slashes++; slashes == 3 {
				return path[:i]
			}
		}
	}
	return path
}
