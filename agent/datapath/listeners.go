package datapath

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/bpf"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// SetListener steers the pod's redirected connections of the family to the listening socket, which stays the caller's.
// The kernel takes it out by itself when its last descriptor is closed.
func (d *Datapath) SetListener(cookie uint64, f model.Family, fd int) error {
	key, err := listenerKey(cookie, f)
	if err != nil {
		return err
	}
	// Once steered to the wrong pod, a connection would be taken for that one's.
	is, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return fmt.Errorf("find out whose the listener is: %w", err)
	}
	if is != cookie {
		return fmt.Errorf("the listener is in the namespace %d, not in the pod's, %d", is, cookie)
	}
	return d.cfg.write("set a listener", func() error { return d.maps.Listeners.Put(key, uint64(fd)) })
}

// ClearListener ends that. Connects of the pod go direct then, or are refused where the Service fails closed; what is
// queued on the listener stays there.
func (d *Datapath) ClearListener(cookie uint64, f model.Family) error {
	key, err := listenerKey(cookie, f)
	if err != nil {
		return err
	}
	return d.remove("clear a listener", d.maps.Listeners, key)
}

func listenerKey(cookie uint64, f model.Family) (bpf.RedirectListenerKey, error) {
	family, err := familyNumber(f)
	return bpf.RedirectListenerKey{Netns: cookie, Family: family}, err
}
