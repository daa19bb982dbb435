package admin

import (
	"fmt"
	"net/netip"
	"strings"
)

// Address is where a server listens: an address and port, or the path of a unix socket.
type Address struct {
	tcp    netip.AddrPort
	unix   string
	public bool // whoever reaches the machine may ask: for health and metrics only
}

const (
	unixPrefix = "unix:"
	maxPath    = 107 - len(freshSuffix) // what fits into sockaddr_un, its terminating zero not counted
)

// ParseAddress reads 127.0.0.1:15020, [::1]:15020 or unix:PATH. Any other address is refused: what is served there is
// for those who are on the machine.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, unixPrefix); ok {
		if path == "" || len(path) > maxPath {
			return Address{}, fmt.Errorf("admin address %q: the socket's path needs 1 to %d bytes", s, maxPath)
		}
		return Address{unix: path}, nil
	}
	tcp, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		return Address{}, fmt.Errorf("admin address %q: it is neither ADDRESS:PORT, such as 127.0.0.1:15020, nor unix:PATH", s)
	case !tcp.Addr().IsLoopback():
		return Address{}, fmt.Errorf("admin address %q: it is reachable from elsewhere; use a loopback address, such as 127.0.0.1:%d, or unix:PATH",
			s, tcp.Port())
	}
	return Address{tcp: tcp}, nil
}

// ParsePublic reads an address and port of any interface, such as 0.0.0.0:15023.
func ParsePublic(s string) (Address, error) {
	tcp, err := netip.ParseAddrPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("address %q: it is not ADDRESS:PORT, such as 0.0.0.0:15023", s)
	}
	return Address{tcp: tcp, public: true}, nil
}

// IsZero tells whether there is no address.
func (a Address) IsZero() bool { return a == Address{} }

func (a Address) String() string {
	if a.unix != "" {
		return unixPrefix + a.unix
	}
	return a.tcp.String()
}
