package node

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// fakePods enrolls at once what is desired, with listeners that are sockets of this process.
type fakePods struct {
	w       *world
	changed chan struct{}

	given   bool
	desired map[string]enroll.Wanted
	held    map[string]*enroll.Held
	failing map[string]error // by UID
	sockets map[*enroll.Pod][]uint64
	cookies map[string]uint64 // of namespaces, which outlive what enrolls them
	spaces  map[uint64]string // whose a namespace is

	slow       bool // nothing is enrolled for now
	by         enroll.By
	started    time.Time
	stay       bool // namespaces live on when their pods are not to be enrolled any more
	releaseErr error
}

func (f *fakePods) SetDesired(all []enroll.Wanted) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.given = true
	f.desired = map[string]enroll.Wanted{}
	for _, p := range all {
		f.desired[p.UID] = p
	}
	for uid, h := range f.held {
		_, wanted := f.desired[uid]
		switch {
		case !wanted && h.Ending == "":
			h.Ending, h.Leaving = "it is not to be enrolled any more", f.stay
			f.w.note("pod %s ends", uid)
		case wanted && h.Leaving:
			h.Ending, h.Leaving = "", false
			f.w.note("pod %s stays", uid)
		}
	}
	f.enroll()
}

// end is the end of a pod's namespace. The lock is held.
func (f *fakePods) end(uid string) {
	f.held[uid].Ending, f.held[uid].Leaving = "its network namespace is gone", false
	f.w.note("pod %s ends", uid)
	mark(f.changed)
}

// enroll brings in what is missing. The lock is held.
func (f *fakePods) enroll() {
	for _, uid := range slices.Sorted(maps.Keys(f.desired)) {
		if f.held[uid] == nil && f.failing[uid] == nil && !f.slow {
			f.held[uid] = &enroll.Held{Pod: f.open(f.desired[uid]), By: f.by, Started: f.started}
			f.w.note("pod %s is enrolled", uid)
		}
	}
	mark(f.changed)
}

// open makes a pod. Its listeners are sockets on loopback; a memory file stands for its namespace.
func (f *fakePods) open(w enroll.Wanted) *enroll.Pod {
	if f.cookies[w.UID] == 0 {
		f.cookies[w.UID] = uint64(100 + len(f.cookies))
	}
	p := &enroll.Pod{Wanted: w, Cookie: f.cookies[w.UID], IPv4: netip.MustParseAddr("10.0.0.1"), Port: 337}
	netns, err := unix.MemfdCreate("netns", unix.MFD_CLOEXEC)
	if err != nil {
		panic(err)
	}
	ns, err := inode(netns)
	if err != nil {
		panic(err)
	}
	f.spaces[ns] = w.UID
	var listeners []enroll.Listener
	for _, family := range families() {
		fd := listen()
		socket, err := inode(fd)
		if err != nil {
			panic(err)
		}
		f.sockets[p] = append(f.sockets[p], socket)
		listeners = append(listeners, enroll.Listener{Family: family, FD: fd})
	}
	// Only package enroll can make a Pod, out of a real namespace. What it keeps to itself is given to it here.
	setField(p, "netns", netns)
	setField(p, "listeners", listeners)
	return p
}

func setField(p *enroll.Pod, name string, value any) {
	field := reflect.ValueOf(p).Elem().FieldByName(name)
	reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Set(reflect.ValueOf(value))
}

// shut closes the pod's descriptors, as enroll does when it is released.
func shut(p *enroll.Pod) {
	field := reflect.ValueOf(p).Elem().FieldByName("mu")
	mu := reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Interface().(*sync.Mutex)
	_ = p.Use(func(netns int, listeners []enroll.Listener) error {
		unix.Close(netns)
		for _, l := range listeners {
			unix.Close(l.FD)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	setField(p, "listeners", []enroll.Listener(nil))
	setField(p, "closed", true)
}

func listen() int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		panic(fmt.Sprintf("listen on loopback: %v", err))
	}
	return fd
}

// dial makes a connection to a pod's listener, which queues there. The descriptor is the caller's.
func (f *fakePods) dial(uid string, family model.Family) int {
	var fd int
	err := f.held[uid].Use(func(_ int, listeners []enroll.Listener) error {
		for _, l := range listeners {
			if l.Family != family {
				continue
			}
			at, err := unix.Getsockname(l.FD)
			if err != nil {
				return err
			}
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			return unix.Connect(fd, at)
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	return fd
}

func (f *fakePods) View() enroll.View {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	v := enroll.View{Settled: f.given}
	for _, uid := range slices.Sorted(maps.Keys(f.held)) {
		v.Pods = append(v.Pods, *f.held[uid])
	}
	for _, uid := range slices.Sorted(maps.Keys(f.desired)) {
		if err := f.failing[uid]; err != nil {
			v.Failed = append(v.Failed, enroll.Failure{Wanted: f.desired[uid], Err: err})
		} else if f.held[uid] == nil {
			v.Settled = false
		}
	}
	return v
}

func (f *fakePods) Release(p *enroll.Pod) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.note("pod %s is released", p.UID)
	shut(p)
	if h := f.held[p.UID]; h != nil && h.Pod == p {
		delete(f.held, p.UID)
	}
	f.enroll()
	f.w.checkInvariants("the release of pod " + p.UID)
	return f.releaseErr
}

func (f *fakePods) Changed() <-chan struct{} { return f.changed }

// has tells whether the agent holds a socket. The lock is held.
func (f *fakePods) has(socket uint64) bool {
	for _, h := range f.held {
		if slices.Contains(f.sockets[h.Pod], socket) {
			return true
		}
	}
	return false
}

// restart is what enrolment is like after the agent came back: the same namespaces, with listeners that are new.
func (f *fakePods) restart() {
	for _, h := range f.held {
		shut(h.Pod)
	}
	f.given, f.held, f.desired = false, map[string]*enroll.Held{}, map[string]enroll.Wanted{}
}

func (f *fakePods) closeAll() {
	for _, h := range f.held {
		shut(h.Pod)
	}
}

func mark(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
