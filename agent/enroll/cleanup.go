package enroll

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup takes away what an agent that is gone left in the pods' namespaces: the route. A pod that has ended left
// nothing; everything else goes with its descriptors.
func Cleanup(cfg Config, pods []Wanted) error {
	cfg.Proc = cmp.Or(cfg.Proc, "/proc")
	o := opener{proc: cfg.Proc, port: cfg.Port, prefix: cfg.PrefixV6}
	search := map[string]bool{}
	for _, w := range pods {
		search[w.UID] = w.NetNS == ""
	}
	found, err := scan(cfg.Proc, search)
	if err != nil {
		return err
	}
	var all error
	for _, w := range pods {
		path := cmp.Or(w.NetNS, found[w.UID])
		if path == "" {
			continue
		}
		fd, _, err := o.openNS(path)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = inside(fd, func() error { return o.route(netlink.RouteDel) })
			unix.Close(fd)
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("remove the route from pod %s: %w", w, err))
		}
	}
	return all
}
