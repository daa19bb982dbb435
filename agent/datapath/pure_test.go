package datapath

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
)

func TestNumber(t *testing.T) {
	a, b, c := addrA, addrB, addrC
	const last = 1000
	type ids = map[netip.AddrPort]uint32
	for name, x := range map[string]struct {
		addrs []netip.AddrPort
		known ids
		next  uint32
		want  ids
		after uint32
	}{
		"nothing":                 {next: 5, want: ids{}, after: 5},
		"the first":               {addrs: []netip.AddrPort{a, b}, want: ids{a: 1, b: 2}, after: 3},
		"one twice":               {addrs: []netip.AddrPort{a, a}, next: 7, want: ids{a: 7}, after: 8},
		"what is known stays":     {addrs: []netip.AddrPort{a, b}, known: ids{b: 9}, next: 7, want: ids{a: 7, b: 9}, after: 8},
		"one in use is passed by": {addrs: []netip.AddrPort{a}, known: ids{b: 7, c: 8}, next: 7, want: ids{a: 9}, after: 10},
		"the last":                {addrs: []netip.AddrPort{a}, next: last, want: ids{a: last}, after: last + 1},
		"round, never 0":          {addrs: []netip.AddrPort{a, b}, known: ids{c: 1}, next: last, want: ids{a: last, b: 2}, after: 3},
		"a number that is none":   {addrs: []netip.AddrPort{a}, next: last + 99, want: ids{a: 1}, after: 2},
	} {
		got, after, err := number(x.addrs, x.known, x.next, last)
		if err != nil || !maps.Equal(got, x.want) || after != x.after {
			t.Errorf("%s: %v, next %d, %v; want %v, next %d", name, got, after, err, x.want, x.after)
		}
	}
}

func TestNumberWhenAllIdsAreInUse(t *testing.T) {
	known := map[netip.AddrPort]uint32{addrA: 1, addrB: 2}
	if ids, _, err := number([]netip.AddrPort{addrC}, known, 1, 2); err == nil {
		t.Errorf("%v was given out of none", ids)
	}
	if ids, _, err := number([]netip.AddrPort{addrB, addrC}, known, 1, 3); err != nil || ids[addrC] != 3 {
		t.Errorf("the last one: %v, %v", ids, err)
	}
}

func TestDiff(t *testing.T) {
	a, b, c, d := Frontend{addrA, 1, 0}, Frontend{addrB, 2, 0}, Frontend{addrC, 3, 0}, Frontend{addrD, 4, FailClosed}
	b2 := Frontend{addrB, 2, FailClosed}
	mapped := Frontend{netip.AddrPortFrom(netip.AddrFrom16(addrA.Addr().As16()), addrA.Port()), 1, 0}
	for name, x := range map[string]struct{ have, want, remove, change, add []Frontend }{
		"nothing":             {},
		"the same":            {have: []Frontend{a, b}, want: []Frontend{b, a}},
		"all new, sorted":     {want: []Frontend{d, c, a}, add: []Frontend{a, d, c}},
		"all gone, sorted":    {have: []Frontend{c, d, a}, remove: []Frontend{a, d, c}},
		"one of each":         {have: []Frontend{a, b}, want: []Frontend{b2, c}, remove: []Frontend{a}, change: []Frontend{b2}, add: []Frontend{c}},
		"another id":          {have: []Frontend{a}, want: []Frontend{{addrA, 9, 0}}, change: []Frontend{{addrA, 9, 0}}},
		"the last one counts": {want: []Frontend{b, b2}, add: []Frontend{b2}},
		"mapped is the same":  {have: []Frontend{a}, want: []Frontend{mapped}},
		"of a zone, as it is": {want: []Frontend{{netip.MustParseAddrPort("[fe80::1%eth0]:80"), 5, 0}}, add: []Frontend{{netip.MustParseAddrPort("[fe80::1]:80"), 5, 0}}},
	} {
		remove, change, add := diff(x.have, x.want)
		if !slices.Equal(remove, x.remove) || !slices.Equal(change, x.change) || !slices.Equal(add, x.add) {
			t.Errorf("%s: remove %v, change %v, add %v", name, remove, change, add)
		}
	}
}

// More frontends than one system call reads.
func TestManyFrontends(t *testing.T) {
	m := newMachine(t, 0)
	d := m.open()
	var want []Frontend
	for i := range uint32(3 * batch) {
		want = append(want, Frontend{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80), i + 1, Flags(i % 2)})
	}
	m.must(d.SetFrontends(want))
	got, err := d.Frontends()
	m.must(err)
	if !slices.Equal(got, want) {
		t.Errorf("%d frontends were set, and %d others are listed", len(want), len(got))
	}
	m.must(d.SetFrontends(want[:1]))
	if got, err = d.Frontends(); err != nil || !slices.Equal(got, want[:1]) {
		t.Errorf("the frontends are %d, %v", len(got), err)
	}
}

func TestMoreFrontendsThanTheKernelTakes(t *testing.T) {
	m := newMachine(t, 0)
	d := m.open()
	n := d.maps.Frontends.MaxEntries()
	var want []Frontend
	for i := range n + 1 {
		want = append(want, Frontend{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80), i + 1, 0})
	}
	if err := d.SetFrontends(want); err == nil {
		t.Fatal("more than fit are taken")
	} else {
		t.Log(err)
	}
	m.must(d.SetFrontends(want[1:]))
}
