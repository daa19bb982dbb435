package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// serve makes the router translate each Service's addresses to those of its endpoints, as kube-proxy's nftables mode does.
func (r *router) serve(services []Service) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(r.ns.Fd())))
	if err != nil {
		return err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		table := &nftables.Table{Name: "sluice-lab", Family: family}
		// Adding what may be there, deleting it and adding it again is one transaction: no packet meets a half of it.
		c.AddTable(table)
		c.DelTable(table)
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{
			Name: "services", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		for _, s := range services {
			for _, rule := range rules(s, family) {
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables (is nf_tables there, with NAT and numgen?): %w", err)
	}
	return nil
}

// rules are one for each endpoint: the first takes 1/n of the connections, the next 1/(n-1) of the rest, and so on.
func rules(s Service, family nftables.TableFamily) [][]expr.Any {
	var out [][]expr.Any
	for _, ip := range s.ClusterIPs {
		if ip.Is4() != (family == nftables.TableFamilyIPv4) {
			continue
		}
		for i, pod := range s.Endpoints {
			to := pod.IPv4
			if ip.Is6() {
				to = pod.IPv6
			}
			rule := append(toService(ip, s.Port), oneIn(len(s.Endpoints)-i)...)
			out = append(out, append(rule, translate(netip.AddrPortFrom(to, s.TargetPort), family)...))
		}
	}
	return out
}

// toService matches TCP to an address and a port.
func toService(ip netip.Addr, port uint16) []expr.Any {
	offset := uint32(16) // of the destination in an IPv4 header
	if ip.Is6() {
		offset = 24
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(ip.BitLen() / 8)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip.AsSlice()},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
}

// oneIn matches a random one of n connections.
func oneIn(n int) []expr.Any {
	if n == 1 {
		return nil
	}
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}

func translate(to netip.AddrPort, family nftables.TableFamily) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegProtoMin: 2},
	}
}
