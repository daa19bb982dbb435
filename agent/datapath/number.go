package datapath

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/sluice-mesh/sluice/bpf"
)

const idMax = uint32(bpf.RedirectPrefixFRONTEND_ID_MAX)

// Number returns the ids of frontends: from 1 to 2^22-1. An address keeps its id for as long as it is asked for or in
// the kernel, also over restarts. An id that was given up is given out again only after all others were.
func (d *Datapath) Number(addrs []netip.AddrPort) (map[netip.AddrPort]uint32, error) {
	known := maps.Clone(d.there)
	maps.Copy(known, d.numbered)
	ids, next, err := number(addrs, known, d.next, idMax)
	if err != nil {
		return nil, err
	}
	if next != d.next {
		// First: an agent that is killed must not give them out twice.
		if err := d.cfg.write("reserve frontend ids", func() error {
			return d.maps.Numbering.Put(uint32(0), bpf.RedirectNumbering{Next: next, Layout: bpf.RedirectLayoutLAYOUT_VERSION})
		}); err != nil {
			return nil, err
		}
	}
	d.next, d.numbered = next, ids
	return maps.Clone(ids), nil
}

// number gives an id to each address: the one that is known, or one from 1 to last that is not in use, from next on and
// round. It returns what next is then.
func number(addrs []netip.AddrPort, known map[netip.AddrPort]uint32, next, last uint32) (map[netip.AddrPort]uint32, uint32, error) {
	used := make(map[uint32]bool, len(known)+len(addrs))
	for _, id := range known {
		used[id] = true
	}
	ids := make(map[netip.AddrPort]uint32, len(addrs))
	for _, a := range addrs {
		if _, again := ids[a]; again {
			continue
		}
		if id, ok := known[a]; ok {
			ids[a] = id
			continue
		}
		if len(used) >= int(last) {
			return nil, 0, fmt.Errorf("there are no more than %d ids for frontends", last)
		}
		for next == 0 || next > last || used[next] {
			if next++; next > last {
				next = 1
			}
		}
		ids[a], used[next] = next, true
		next++
	}
	return ids, next, nil
}

// readNumbers learns the ids that are in use.
func (d *Datapath) readNumbers() error {
	n, err := readNumbering(d.cfg)
	if err != nil {
		return err
	}
	d.next = n.Next
	list, err := d.Frontends()
	if err != nil {
		return err
	}
	d.there = make(map[netip.AddrPort]uint32, len(list))
	for _, f := range list {
		d.there[f.Addr] = f.ID
	}
	return nil
}
