package datapath

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/bpf"
)

// SetProxyCgroups says which cgroups are never redirected: those of the proxy and of its successor. 0: none.
func (d *Datapath) SetProxyCgroups(ids [2]uint64) error {
	s := d.settings
	s.ProxyCgroups = ids
	return d.set(s)
}

// ProxyCgroups returns what SetProxyCgroups set last, also for a predecessor.
func (d *Datapath) ProxyCgroups() [2]uint64 { return d.settings.ProxyCgroups }

// SetBypass turns the kill switch: while it is on, every connect on the node is left alone. It lifts fail-closed too.
func (d *Datapath) SetBypass(on bool) error {
	s := d.settings
	s.Bypass = 0
	if on {
		s.Bypass = 1
	}
	return d.set(s)
}

// Bypass tells how SetBypass turned it last, also a predecessor's.
func (d *Datapath) Bypass() bool { return d.settings.Bypass != 0 }

func (d *Datapath) set(s bpf.RedirectSettings) error {
	if s == d.settings {
		return nil
	}
	if err := d.cfg.write("write the settings", func() error { return d.maps.Settings.Put(uint32(0), s) }); err != nil {
		return err
	}
	d.settings = s
	return nil
}

// HeartbeatFD is the descriptor of the map into which the proxy writes the time of its last progress: CLOCK_MONOTONIC
// in ns, in its first eight bytes. It stays ours, and is valid until Close.
func (d *Datapath) HeartbeatFD() int { return d.maps.Heartbeat.FD() }

// LastBeat returns how long ago that was. It is signed: a beat of another CPU may be a little ahead.
func (d *Datapath) LastBeat() time.Duration {
	var beat uint64
	var now unix.Timespec
	if d.maps.Heartbeat.Lookup(uint32(0), &beat) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return math.MaxInt64 // neither can fail; if it does, nothing is known of the proxy
	}
	return time.Duration(now.Nano() - int64(beat))
}
