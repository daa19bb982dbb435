// Package datapath makes the kernel match the model: the programs in bpf/, their maps, and where they are attached.
//
// Everything is pinned, so connections are served while no agent runs, and the next one takes over what it finds. Each
// method compares what is desired with what is there and writes the difference, in an order in which no connection
// meets a half-made state: at any step, and also when the steps end there for good, a connect to a frontend reaches the
// pod's listener with the frontend's id, or goes direct, or is refused where the Service fails closed.
package datapath

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/bpf"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// ListenerPort is the port of the listeners in the pods, bound to loopback. The application cannot have it there, so it
// is one that IANA has assigned to nobody (334 to 343), below 1024, where an ordinary process may not listen, and below
// 600, where bindresvport(3) begins to look for source ports (the kernel's NFS client: 665).
const ListenerPort = 337

// PrefixV4 and PrefixV6 are where redirected connections are sent, with the frontend's id in the low bits.
var (
	PrefixV4 = netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(bpf.RedirectPrefixPREFIX_V4)))),
		int(bpf.RedirectPrefixPREFIX_V4BITS))
	PrefixV6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{
		byte(bpf.RedirectPrefixPREFIX_V60 >> 8), byte(bpf.RedirectPrefixPREFIX_V60 & 0xff),
		byte(bpf.RedirectPrefixPREFIX_V61 >> 8), byte(bpf.RedirectPrefixPREFIX_V61 & 0xff),
		byte(bpf.RedirectPrefixPREFIX_V62 >> 8), byte(bpf.RedirectPrefixPREFIX_V62 & 0xff),
	}), int(bpf.RedirectPrefixPREFIX_V6BITS))
)

// Flags say what becomes of a connect to a frontend. The bypass switch lifts them all.
type Flags uint32

// The flags.
const (
	FailClosed  = Flags(bpf.RedirectFlagFLAG_FAIL_CLOSED)  // refused, not direct, while no proxy serves
	NoEndpoints = Flags(bpf.RedirectFlagFLAG_NO_ENDPOINTS) // refused
	PassThrough = Flags(bpf.RedirectFlagFLAG_PASS_THROUGH) // left alone
)

// Frontend is an address and TCP port to which connects are redirected.
type Frontend struct {
	Addr  netip.AddrPort
	ID    uint32 // from Number
	Flags Flags
}

// Pod is a network namespace whose connects are redirected.
type Pod struct {
	Cookie     uint64     // SO_NETNS_COOKIE of the namespace
	NetNS      int        // a descriptor of it; it stays the caller's
	IPv4, IPv6 netip.Addr // the pod's own, which applications see as theirs; the zero Addr where it has none
	Port       uint16     // of its listeners
}

// Config is where the datapath is.
type Config struct {
	// BPFFS is a folder on a BPF file system, below its root and ours alone.
	BPFFS string
	// Cgroup is the cgroup2 folder above the pods, never the root. With "", Open attaches nothing: it opens what an
	// agent left.
	Cgroup string
	// HeartbeatLimit is the age from which on the proxy's last sign of progress does not count; 2 s.
	HeartbeatLimit time.Duration
	Log            *slog.Logger

	// write does one write to the kernel; a test lets one fail.
	write func(what string, do func() error) error
}

func (c Config) withDefaults() Config {
	c.HeartbeatLimit = cmp.Or(c.HeartbeatLimit, 2*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.write == nil {
		c.write = write
	}
	return c
}

func write(what string, do func() error) error {
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Below BPFFS. A folder of maps is whole or not there: it gets its name when it is complete, and loses it before it is
// taken apart. Links are pinned one by one.
func (c Config) maps() string     { return filepath.Join(c.BPFFS, "maps") }
func (c Config) mapsNew() string  { return filepath.Join(c.BPFFS, "maps_new") }
func (c Config) mapsOld() string  { return filepath.Join(c.BPFFS, "maps_old") }
func (c Config) links() string    { return filepath.Join(c.BPFFS, "links") }
func (c Config) podLinks() string { return filepath.Join(c.BPFFS, "pods") }

func familyNumber(f model.Family) (uint32, error) {
	switch f {
	case model.IPv4:
		return unix.AF_INET, nil
	case model.IPv6:
		return unix.AF_INET6, nil
	}
	return 0, fmt.Errorf("%q is no address family", f)
}
