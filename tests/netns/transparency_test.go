package netns

import (
	"net"
	"slices"
	"strconv"
	"testing"

	"github.com/sluice-mesh/sluice/agent/datapath"
)

// The listener is bound to loopback and takes one port; every other is the application's.
func TestApplicationCanBindAnyPortButTheListeners(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	for host, want := range map[string][]int{
		"0.0.0.0": {datapath.ListenerPort}, "::": {datapath.ListenerPort}, near.IPv4.String(): {}, near.IPv6.String(): {},
	} {
		var taken []int
		m.in(near, "bind", &taken, host)
		if !slices.Equal(taken, want) {
			t.Errorf("on %s the application cannot bind %v, want %v", host, taken, want)
		}
	}
	m.routed("web", near)
}

// Nothing of ours shows on the pod's address: neither to itself nor to its neighbours.
func TestNothingAnswersOnThePodsAddress(t *testing.T) {
	m := start(t)
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", m.pods["web-v1"], m.pods["near"])
	for _, addr := range []string{m.pods["web-v1"].IPv4.String(), m.pods["web-v1"].IPv6.String()} {
		for _, from := range []string{"far", "web-v1"} {
			var found []int
			m.in(m.pods[from], "scan", &found, addr)
			if !slices.Equal(found, []int{port}) {
				t.Errorf("from %s, ports %v of %s answer, want the server's %d only", from, found, addr, port)
			}
		}
	}
}

// redirect/README pitfall 1: a process that dials our listener or the prefix by itself reaches nothing.
func TestDiallingListenerOrPrefixIsRefused(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	listener := strconv.Itoa(datapath.ListenerPort)
	prefixV4, prefixV6 := datapath.PrefixV4.Addr().As4(), datapath.PrefixV6.Addr().As16()
	addresses := []string{net.JoinHostPort("127.0.0.1", listener), net.JoinHostPort("::1", listener)}
	for id := range byte(4) { // the ids of the Service's frontends are small
		prefixV4[3], prefixV6[15] = id, id
		for _, port := range []string{"80", listener, "8080"} {
			addresses = append(addresses, net.JoinHostPort(net.IP(prefixV4[:]).String(), port), net.JoinHostPort(net.IP(prefixV6[:]).String(), port))
		}
	}
	var results map[string]string
	m.in(near, "dial", &results, addresses...)
	if len(results) != len(addresses) {
		t.Fatalf("%d results of %d", len(results), len(addresses))
	}
	for addr, what := range results {
		if what != "refused" {
			t.Errorf("dialling %s: %s, want it refused", addr, what)
		}
	}
	m.routed("web", near)
}
