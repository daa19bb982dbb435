package bpf

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// net6 is the IPv6 prefix.
func net6() (net.IP, *net.IPNet, error) {
	var b [16]byte
	binary.BigEndian.PutUint16(b[0:], uint16(RedirectPrefixPREFIX_V60))
	binary.BigEndian.PutUint16(b[2:], uint16(RedirectPrefixPREFIX_V61))
	binary.BigEndian.PutUint16(b[4:], uint16(RedirectPrefixPREFIX_V62))
	return net.ParseCIDR(netip.PrefixFrom(netip.AddrFrom16(b), int(RedirectPrefixPREFIX_V6BITS)).String())
}

// prefixed is the address that connections to the frontend are rewritten to.
func prefixed(family int, id uint32, port uint16) netip.AddrPort {
	if family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(RedirectPrefixPREFIX_V4)|id))), port)
	}
	ip, _, _ := net6()
	b := [16]byte(ip)
	binary.BigEndian.PutUint32(b[12:], id)
	return netip.AddrPortFrom(netip.AddrFrom16(b), port)
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func name(t *testing.T, fd int, of func(int) (unix.Sockaddr, error)) netip.AddrPort {
	t.Helper()
	sa, err := of(fd)
	if err != nil {
		t.Fatal(err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	t.Fatalf("an address of the kind %T", sa)
	return netip.AddrPort{}
}

// reachable waits until there are routes to the addresses: the kernel makes those of IPv6 in the background.
func reachable(all ...netip.Addr) error {
	deadline := time.Now().Add(20 * time.Second)
	for _, a := range all {
		for {
			c, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String())
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			runtime.Gosched()
		}
	}
	return nil
}

// counterNames are the names that abi.h gives the counters.
func counterNames(t *testing.T) map[RedirectCounter]string {
	t.Helper()
	spec, err := LoadRedirect()
	if err != nil {
		t.Fatal(err)
	}
	var e *btf.Enum
	if err := spec.Types.TypeByName("counter", &e); err != nil {
		t.Fatal(err)
	}
	names := map[RedirectCounter]string{}
	for _, v := range e.Values {
		if c := RedirectCounter(v.Value); c != RedirectCounterCOUNTER_COUNT {
			names[c] = strings.ToLower(strings.TrimPrefix(v.Name, "COUNTER_"))
		}
	}
	return names
}
