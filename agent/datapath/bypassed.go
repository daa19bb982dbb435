package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/sluice-mesh/sluice/agent/sockdiag"
	"github.com/sluice-mesh/sluice/bpf"
)

// How long nothing has to go over a connection that is between two exchanges. The kernel keeps the times of a socket in
// ticks of up to 10 ms: where data went out and came within one, nobody knows which was first, and a second without an
// answer decides.
const (
	quiet     = 30 * time.Millisecond
	veryQuiet = time.Second
)

// CloseBypassed closes the connections of a namespace that went to a frontend past the proxy, at a limited rate, so
// that they come back through it. Those that seem to be in the middle of an exchange are left, and counted as busy,
// unless even these are to go. Connections to what is no frontend any more stay, and all do while the bypass switch is
// on: they would come back as they are. It ends with ctx. The descriptor stays the caller's.
func (d *Datapath) CloseBypassed(ctx context.Context, netns, perSecond int, evenBusy bool) (closed, busy int, err error) {
	c, err := sockdiag.Open(netns)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = c.Close() }() // nothing more is asked of it
	sockets, err := c.List(d.maps.Bypassed.FD())
	if err != nil {
		return 0, 0, err
	}
	interval := time.NewTicker(time.Second / time.Duration(max(perSecond, 1)))
	defer interval.Stop()
	for _, s := range sockets {
		redirected, err := d.redirects(s.Storage)
		if err != nil {
			return closed, busy, err
		}
		if !redirected {
			continue
		}
		if !evenBusy && !betweenExchanges(s) {
			busy++
			continue
		}
		if closed > 0 {
			select {
			case <-interval.C:
			case <-ctx.Done():
				return closed, busy, nil
			}
		}
		switch err := c.Destroy(s); {
		case err == nil:
			closed++
		case !errors.Is(err, sockdiag.ErrGone):
			return closed, busy, err
		}
	}
	return closed, busy, nil
}

// betweenExchanges tells whether a client's connection seems to wait for its next request: it is quiet, and what went
// over it last was the server's. An answer that takes its time, or a connection still being made, does not look so; a
// stream whose server has nothing to say for a while does.
func betweenExchanges(s sockdiag.Socket) bool {
	switch {
	case !s.Established() || s.Queued > 0:
		return false
	case s.SinceReceived == s.SinceSent:
		return s.SinceReceived >= veryQuiet
	default:
		return s.SinceReceived < s.SinceSent && s.SinceReceived >= quiet
	}
}

// redirects tells whether a connection with this record would be redirected if it was made now. A socket without a
// record went where it was meant to.
func (d *Datapath) redirects(record []byte) (bool, error) {
	if record == nil {
		return false, nil
	}
	var r bpf.RedirectBypassRecord
	if err := binary.Read(bytes.NewReader(record), binary.NativeEndian, &r); err != nil {
		return false, fmt.Errorf("read what is kept on a socket: %w", err)
	}
	var now bpf.RedirectSettings
	if err := d.maps.Settings.Lookup(uint32(0), &now); err != nil {
		return false, fmt.Errorf("read the settings: %w", err)
	}
	if now.Bypass != 0 {
		return false, nil
	}
	var f bpf.RedirectFrontend
	if err := d.maps.Frontends.Lookup(r.Frontend, &f); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("look for a frontend: %w", err)
	}
	return f.Flags&bpf.RedirectFlagFLAG_PASS_THROUGH == 0, nil
}
