package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// fakeKernel keeps what package datapath writes, write by write, in its order, and can refuse any of them.
type fakeKernel struct {
	w *world

	numbers   map[netip.AddrPort]uint32
	last      uint32
	frontends map[netip.AddrPort]datapath.Frontend
	pods      map[uint64]bool
	listeners map[listenerKey]uint64 // socket by namespace and family
	cgroups   [2]uint64
	busy      map[string]int // how many turns the pod's connections that bypassed are still busy
	checkErr  error
	bypass    bool

	beating bool
	stopped time.Time // when the last beat was, if it is not beating
	skew    time.Duration

	writes int                     // so far
	refuse func(what string) error // asked before each write, and before what is read at the start
}

type listenerKey struct {
	cookie uint64
	family model.Family
}

var errRefused = errors.New("the kernel is out of order")

// write is one write. The lock is held.
func (k *fakeKernel) write(what string, do func()) error {
	k.writes++
	if k.refuse != nil {
		if err := k.refuse(what); err != nil {
			k.w.note("kernel refuses to %s", what)
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	do()
	k.w.note("kernel: %s", what)
	k.w.checkInvariants("the kernel's " + what)
	return nil
}

func (k *fakeKernel) read(what string) error {
	if k.refuse != nil {
		if err := k.refuse(what); err != nil {
			k.w.note("kernel refuses to %s", what)
			return err
		}
	}
	return nil
}

// Number keeps the id of an address for as long as it is asked for or in the kernel.
func (k *fakeKernel) Number(addrs []netip.AddrPort) (map[netip.AddrPort]uint32, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if err := k.read("number the frontends"); err != nil {
		return nil, err
	}
	ids := map[netip.AddrPort]uint32{}
	for _, a := range addrs {
		if f, there := k.frontends[a]; there {
			ids[a] = f.ID
		} else if id, known := k.numbers[a]; known {
			ids[a] = id
		} else {
			k.last++
			ids[a] = k.last
		}
	}
	k.numbers = ids
	return maps.Clone(ids), nil
}

func (k *fakeKernel) Frontends() ([]datapath.Frontend, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if err := k.read("list the frontends"); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Values(k.frontends)), nil
}

// SetFrontends removes, changes and adds, and ends at the first write that fails.
func (k *fakeKernel) SetFrontends(want []datapath.Frontend) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	wanted := byAddress(want)
	for _, a := range slices.SortedFunc(maps.Keys(k.frontends), netip.AddrPort.Compare) {
		if _, stays := wanted[a]; !stays {
			if err := k.write("remove "+a.String(), func() { delete(k.frontends, a) }); err != nil {
				return err
			}
		}
	}
	for _, change := range []bool{true, false} {
		for _, f := range want {
			have, there := k.frontends[f.Addr]
			if there != change || have == f {
				continue
			}
			if f.ID == 0 {
				k.w.fail("the frontend %s has no id", f.Addr)
			}
			if err := k.write("set "+f.Addr.String(), func() { k.frontends[f.Addr] = f }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *fakeKernel) Pods() ([]uint64, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if err := k.read("list the pods"); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(k.pods)), nil
}

func (k *fakeKernel) AddPod(p datapath.Pod) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.write(fmt.Sprintf("add pod %d", p.Cookie), func() { k.pods[p.Cookie] = true })
}

// RemovePod takes out the entry, the listeners, and then what steers.
func (k *fakeKernel) RemovePod(cookie uint64) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	for _, f := range families() {
		if err := k.clear(cookie, f); err != nil {
			return err
		}
	}
	if !k.pods[cookie] {
		return nil
	}
	return k.write(fmt.Sprintf("remove pod %d", cookie), func() { delete(k.pods, cookie) })
}

func (k *fakeKernel) SetListener(cookie uint64, f model.Family, fd int) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	socket, err := inode(fd)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("set listener %d %s", cookie, f)
	if err := k.write(what, func() { k.listeners[listenerKey{cookie, f}] = socket }); err != nil {
		return err
	}
	k.w.mustBeAccepted(what, socket)
	return nil
}

func (k *fakeKernel) ClearListener(cookie uint64, f model.Family) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.clear(cookie, f)
}

func (k *fakeKernel) clear(cookie uint64, f model.Family) error {
	key := listenerKey{cookie, f}
	if _, there := k.listeners[key]; !there {
		return nil
	}
	return k.write(fmt.Sprintf("clear listener %d %s", cookie, f), func() { delete(k.listeners, key) })
}

// forgetClosed takes out the listeners of which the last descriptor was closed, as the kernel does by itself.
func (k *fakeKernel) forgetClosed() {
	maps.DeleteFunc(k.listeners, func(_ listenerKey, socket uint64) bool {
		return !k.w.pods.has(socket) && !k.w.proxies.has(socket)
	})
}

func (k *fakeKernel) LastBeat() time.Duration {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if k.beating {
		return k.skew
	}
	return time.Since(k.stopped)
}

// hang and beat stop and start the heartbeat. The lock is held.
func (k *fakeKernel) hang() {
	if k.beating {
		k.beating, k.stopped = false, time.Now()
		k.w.note("the heartbeat stops")
	}
}

func (k *fakeKernel) beat() { k.beating = true }

func (k *fakeKernel) SetProxyCgroups(ids [2]uint64) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.write(fmt.Sprintf("exempt %v", ids), func() { k.cgroups = ids })
}

func (k *fakeKernel) ProxyCgroups() [2]uint64 {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.cgroups
}

func (k *fakeKernel) SetBypass(on bool) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.write(fmt.Sprintf("bypass %t", on), func() { k.bypass = on })
}

func (k *fakeKernel) Bypass() bool {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.bypass
}

func (k *fakeKernel) CloseBypassed(_ context.Context, netns, perSecond int, evenBusy bool) (closed, busy int, err error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	ns, err := inode(netns)
	if err != nil {
		return 0, 0, err
	}
	pod := k.w.pods.spaces[ns]
	if evenBusy {
		k.busy[pod] = 0
		k.w.note("close even busy ones of %s", pod)
		return 1, 0, nil
	}
	k.w.note("close bypassed of %s, %d a second", pod, perSecond)
	if k.busy[pod] > 0 {
		k.busy[pod]--
		return 0, 1, nil
	}
	return 1, 0, nil
}

func (k *fakeKernel) Counters() (map[string]uint64, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return map[string]uint64{"redirected": 3}, k.read("read the counters")
}

func (k *fakeKernel) Check() error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.checkErr
}

func inode(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("look at descriptor %d: %w", fd, err)
	}
	return st.Ino, nil
}
