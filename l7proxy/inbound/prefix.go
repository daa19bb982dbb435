package inbound

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Prefixes are where redirected connections arrive: the kernel wrote the frontend's id into the address's low bits.
type Prefixes struct{ V4, V6 netip.Prefix }

// The lengths of the prefixes: an id has 22 bits, which IPv6 has more than enough room for.
const (
	bitsV4 = 10
	bitsV6 = 96
)

// Check tells what is wrong with the prefixes.
func (p Prefixes) Check() error {
	switch {
	case !p.V4.IsValid() || !p.V4.Addr().Is4() || p.V4.Bits() != bitsV4:
		return fmt.Errorf("the prefix of redirected IPv4 connections is %s, which is no /%d of IPv4", p.V4, bitsV4)
	case !p.V6.IsValid() || !p.V6.Addr().Is6() || p.V6.Addr().Is4In6() || p.V6.Bits() != bitsV6:
		return fmt.Errorf("the prefix of redirected IPv6 connections is %s, which is no /%d of IPv6", p.V6, bitsV6)
	}
	return nil
}

// Frontend returns the id of the frontend that a connection was addressed to, from the address at which it was
// accepted. The address has to be inside the prefix: 127.0.0.1 would decode as well, and then whoever in the pod
// dials the listener itself would reach a Service.
func (p Prefixes) Frontend(local netip.Addr) (id uint32, ok bool) {
	local = local.Unmap().WithZone("")
	switch {
	case p.V4.Contains(local):
		b := local.As4()
		id = binary.BigEndian.Uint32(b[:]) & (1<<(32-bitsV4) - 1)
	case p.V6.Contains(local):
		b := local.As16()
		id = binary.BigEndian.Uint32(b[12:])
	}
	return id, id > 0 && id <= model.MaxFrontendID
}
