package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/bpf"
)

// batch is how many entries one system call reads. It has to exceed the entries of one hash bucket.
const batch = 4096

// Frontends returns what is in the kernel, sorted by address.
func (d *Datapath) Frontends() ([]Frontend, error) {
	keys, values := make([]bpf.RedirectFrontendKey, batch), make([]bpf.RedirectFrontend, batch)
	var all []Frontend
	var cursor ebpf.MapBatchCursor
	for {
		n, err := d.maps.Frontends.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			all = append(all, decode(keys[i], values[i]))
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // the end
			slices.SortFunc(all, func(a, b Frontend) int { return a.Addr.Compare(b.Addr) })
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the frontends: %w", err)
		}
	}
}

// SetFrontends makes the kernel's frontends those. It ends at the first write that fails; another call goes on.
//
// What is to go goes first: the proxy loses it next, and it makes room. Then what changes: an entry is swapped whole, so
// a connect has the old id or the new one, and a proxy has to know both. What is new comes last; a connect to it is as
// if there was no mesh until it is there.
func (d *Datapath) SetFrontends(want []Frontend) error {
	for _, f := range want {
		if err := f.check(); err != nil {
			return err
		}
	}
	have, err := d.Frontends()
	if err != nil {
		return err
	}
	remove, change, add := diff(have, want)
	for _, f := range remove {
		if err := d.remove("remove frontend "+f.Addr.String(), d.maps.Frontends, key(f.Addr)); err != nil {
			return err
		}
		delete(d.there, f.Addr)
	}
	for _, f := range slices.Concat(change, add) {
		err := d.cfg.write("set frontend "+f.Addr.String(), func() error {
			return d.maps.Frontends.Put(key(f.Addr), bpf.RedirectFrontend{Id: f.ID, Flags: bpf.RedirectFlag(f.Flags)})
		})
		if errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("%w: the kernel takes %d frontends", err, d.maps.Frontends.MaxEntries())
		}
		if err != nil {
			return err
		}
		d.there[f.Addr] = f.ID
	}
	return nil
}

// check refuses what the kernel cannot hold.
func (f Frontend) check() error {
	if !f.Addr.IsValid() {
		return errors.New("a frontend without an address cannot be set")
	}
	if f.ID == 0 || f.ID > idMax {
		return fmt.Errorf("frontend %s has the id %d, which is not from 1 to %d", f.Addr, f.ID, idMax)
	}
	return nil
}

// canonical is the address as the kernel spells it.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// diff returns what leads from one set to the other, each sorted by address. In want, the last of an address counts.
func diff(have, want []Frontend) (remove, change, add []Frontend) {
	wanted := make(map[netip.AddrPort]Frontend, len(want))
	for _, f := range want {
		f.Addr = canonical(f.Addr)
		wanted[f.Addr] = f
	}
	for _, f := range have {
		w, stays := wanted[f.Addr]
		switch {
		case !stays:
			remove = append(remove, f)
		case w != f:
			change = append(change, w)
		}
		delete(wanted, f.Addr)
	}
	for _, f := range wanted {
		add = append(add, f)
	}
	for _, list := range [][]Frontend{remove, change, add} {
		slices.SortFunc(list, func(a, b Frontend) int { return a.Addr.Compare(b.Addr) })
	}
	return remove, change, add
}

func key(a netip.AddrPort) bpf.RedirectFrontendKey {
	return bpf.RedirectFrontendKey{Address: a.Addr().As16(), Port: a.Port(), Protocol: unix.IPPROTO_TCP}
}

func decode(k bpf.RedirectFrontendKey, v bpf.RedirectFrontend) Frontend {
	return Frontend{
		Addr: canonical(netip.AddrPortFrom(netip.AddrFrom16(k.Address), k.Port)),
		ID:   v.Id, Flags: Flags(v.Flags),
	}
}
