package datapath

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/sluice-mesh/sluice/bpf"
)

// Counters returns what the programs decided since the maps were made, by the names in bpf/abi.h.
func (d *Datapath) Counters() (map[string]uint64, error) {
	all := make(map[string]uint64, len(d.counters))
	var perCPU []uint64
	for i, name := range d.counters {
		if err := d.maps.Counters.Lookup(i, &perCPU); err != nil {
			return nil, fmt.Errorf("read the counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			all[name] += n
		}
	}
	return all, nil
}

// counterNames reads the names from the type that the programs were compiled with.
func counterNames(spec *ebpf.CollectionSpec) (map[uint32]string, error) {
	var counter *btf.Enum
	if err := spec.Types.TypeByName("counter", &counter); err != nil {
		return nil, fmt.Errorf("the counters' names: %w", err)
	}
	names := map[uint32]string{}
	for _, v := range counter.Values {
		if v.Value != uint64(bpf.RedirectCounterCOUNTER_COUNT) {
			names[uint32(v.Value)] = strings.ToLower(strings.TrimPrefix(v.Name, "COUNTER_"))
		}
	}
	return names, nil
}
