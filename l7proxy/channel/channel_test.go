package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	key := model.ServiceKey{Namespace: "shop", Name: "web"}
	for _, msg := range []any{
		&model.Update{Version: 1, Full: true, RemovedServices: []model.ServiceKey{key}, Endpoints: []model.EndpointSet{{
			Namespace: "shop", Name: "web", Port: 80,
			Endpoints: []model.Endpoint{{Address: netip.MustParseAddrPort("[fd00::1]:8080"), Zone: "a"}},
		}}},
		&model.Pods{Version: 2, Removed: []string{"uid"}, Complete: true},
		&model.Ack{Version: 2, Refused: []model.Refusal{{Service: &key, Reason: "why"}, {Pod: "uid", Reason: "why"}}},
		&model.Draining{},
		&model.Released{},
	} {
		a, b := pair(t)
		if err := a.Send(msg); err != nil {
			t.Fatalf("%T: %v", msg, err)
		}
		got, fds, err := b.Receive()
		if err != nil || len(fds) != 0 {
			t.Fatalf("%T: %d descriptors, error %v", msg, len(fds), err)
		}
		if diff := cmp.Diff(msg, got, cmpopts.EquateComparable(netip.AddrPort{}, netip.Prefix{})); diff != "" {
			t.Errorf("%T: -sent +received\n%s", msg, diff)
		}
	}
}

func TestDescriptorsStayWithTheirMessage(t *testing.T) {
	a, b := pair(t)
	var want [][]string
	for i := range 3 {
		pods := &model.Pods{Version: uint64(i)}
		var fds []int
		var names []string
		for j := range i + 1 {
			pods.Added = append(pods.Added, model.EnrolledPod{UID: fmt.Sprint(j), Families: []model.Family{model.IPv4}})
			for _, kind := range []string{"netns", "listener"} {
				name := fmt.Sprintf("%s-%d-%d", kind, i, j)
				names = append(names, name)
				fds = append(fds, named(t, name))
			}
		}
		want = append(want, names)
		if err := a.Send(pods, fds...); err != nil {
			t.Fatal(err)
		}
		if err := a.Send(&model.Update{Version: uint64(i)}); err != nil { // one without descriptors in between
			t.Fatal(err)
		}
	}
	for i := range want {
		msg, fds, err := b.Receive()
		if err != nil || msg.(*model.Pods).Version != uint64(i) {
			t.Fatalf("message %d: %v, %v", i, msg, err)
		}
		var got []string
		for _, fd := range fds {
			got = append(got, nameOfFile(t, fd))
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor %d is not close-on-exec (%v)", fd, err)
			}
			unix.Close(fd)
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("message %d: -want +got\n%s", i, diff)
		}
		if msg, fds, err := b.Receive(); err != nil || len(fds) != 0 || msg.(*model.Update).Version != uint64(i) {
			t.Fatalf("message after %d: %v, %d descriptors, %v", i, msg, len(fds), err)
		}
	}
}

func TestAsManyDescriptorsAsAllowed(t *testing.T) {
	a, b := pair(t)
	pods := &model.Pods{}
	var fds []int
	f := named(t, "shared")
	for range MaxDescriptors {
		pods.Added = append(pods.Added, model.EnrolledPod{})
		fds = append(fds, f)
	}
	if err := a.Send(pods, fds...); err != nil {
		t.Fatal(err)
	}
	_, got, err := b.Receive()
	defer closeAll(got)
	if err != nil || len(got) != MaxDescriptors {
		t.Fatalf("%d descriptors, %v", len(got), err)
	}
	pods.Added = append(pods.Added, model.EnrolledPod{})
	if err := a.Send(pods, append(fds, f)...); err == nil || !strings.Contains(err.Error(), "split it") {
		t.Errorf("one more: %v", err)
	}
	if err := a.Send(&model.Released{}); err != nil {
		t.Errorf("a message that was not sent spoilt the socket: %v", err)
	}
}

// What is no message costs the socket, and nothing that came stays open.
func TestBadFramesAreRefusedAndTheirDescriptorsClosed(t *testing.T) {
	for name, c := range map[string]struct {
		bytes string
		fds   int
		want  string
	}{
		"too large":                        {"\xff\xff\xff\xff", 1, "claims 4294967295 bytes"},
		"no JSON":                          {frameOf("hello"), 1, "decode a message"},
		"empty":                            {frameOf(""), 1, "decode a message"},
		"more JSON":                        {frameOf(`{"type":"Released","fds":0,"body":{}} {}`), 0, "decode a message"},
		"unknown type":                     {frameOf(`{"type":"Goodbye","fds":1,"body":{}}`), 1, `its type "Goodbye" is unknown`},
		"no type":                          {frameOf(`{"fds":0,"body":{}}`), 1, `its type "" is unknown`},
		"no body":                          {frameOf(`{"type":"Released"}`), 0, "it has no body"},
		"body of another kind":             {frameOf(`{"type":"Released","body":[]}`), 0, "decode Released"},
		"null":                             {frameOf(`{"type":"Ack","body":null}`), 0, "it has no body"},
		"fewer descriptors than announced": {frameOf(`{"type":"Hello","fds":1,"body":{}}`), 0, "announces 1 descriptors, 0 came"},
		"more descriptors than announced":  {frameOf(`{"type":"Released","fds":0,"body":{}}`), 2, "announces 0 descriptors, 2 came"},
		"descriptors that do not belong":   {frameOf(`{"type":"Released","fds":1,"body":{}}`), 1, "Released has 1 descriptors and needs 0"},
		"a pod's listener is missing":      {frameOf(`{"type":"Pods","fds":1,"body":{"added":[{"families":["ipv4"]}]}}`), 1, "Pods has 1 descriptors and needs 2"},
		"more than allowed":                {frameOf(`{"type":"Pods","fds":251,"body":{}}`), MaxDescriptors + 1, "more than 250 descriptors"},
		"more than there is room for":      {frameOf(`{"type":"Pods","fds":253,"body":{}}`), 253, "descriptors were lost"},
		"cut off in the length":            {"\x00\x00", 1, "unexpected EOF"},
		"cut off":                          {frameOf(`{"type":"Released","fds":0,"body":{}}`)[:20], 1, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			r, w := pipe(t)
			fds := make([]int, c.fds)
			for i := range fds {
				fds[i] = int(w.Fd())
			}
			var rights []byte
			if len(fds) > 0 {
				rights = unix.UnixRights(fds...)
			}
			if _, _, err := a.c.WriteMsgUnix([]byte(c.bytes), rights, nil); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if strings.HasPrefix(name, "cut off") {
				a.c.Close()
			}
			msg, got, err := b.Receive()
			if err == nil || msg != nil || got != nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("message %v, descriptors %v, error %v; want an error with %q", msg, got, err, c.want)
			}
			if _, _, again := b.Receive(); !errors.Is(again, err) {
				t.Errorf("the next Receive: %v", again)
			}
			if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // else somebody still holds the other end
				t.Errorf("descriptors stayed open: %v", err)
			}
		})
	}
}

func TestFramesArriveInPieces(t *testing.T) {
	a, b := pair(t)
	frame, err := encode(&model.Hello{Node: strings.Repeat("n", 300_000)}, 1)
	if err != nil {
		t.Fatal(err)
	}
	f := named(t, "heartbeat")
	go func() {
		rights := unix.UnixRights(f)
		for piece := 1; len(frame) > 0; piece = piece*3 + 1 {
			// The kernel may take less than the piece: the socket's buffer is smaller than the frame.
			n, _, err := a.c.WriteMsgUnix(frame[:min(piece, len(frame))], rights, nil)
			if err != nil {
				t.Error(err)
				return
			}
			frame, rights = frame[n:], nil
		}
	}()
	msg, fds, err := b.Receive()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fds)
	if got := len(msg.(*model.Hello).Node); got != 300_000 || nameOfFile(t, fds[0]) != "heartbeat" {
		t.Errorf("%d bytes, %s", got, nameOfFile(t, fds[0]))
	}
}

func TestWritersDoNotMixTheirMessages(t *testing.T) {
	a, b := pair(t)
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				if err := a.Send(&model.Ack{Version: uint64(w), Refused: []model.Refusal{{Pod: strings.Repeat("x", 5000)}}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	got := map[uint64]int{}
	for range writers * each {
		msg, _, err := b.Receive()
		if err != nil {
			t.Fatal(err)
		}
		got[msg.(*model.Ack).Version]++
	}
	wg.Wait()
	for w := range writers {
		if got[uint64(w)] != each {
			t.Errorf("writer %d: %d messages", w, got[uint64(w)])
		}
	}
}

func TestEndAndDeadlineBetweenMessages(t *testing.T) {
	a, b := pair(t)
	if err := b.c.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after the deadline: %v", err)
	}
	if err := b.c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(model.Released{}); err != nil {
		t.Fatal(err)
	}
	if msg, _, err := b.Receive(); err != nil {
		t.Fatalf("%v, %v", msg, err)
	}
	a.c.Close()
	for range 2 {
		if _, _, err := b.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
	}
	if err := b.Send(model.Released{}); err == nil {
		t.Error("a message went to nobody")
	}
}

func TestSendRefusesWhatIsNoMessage(t *testing.T) {
	a, _ := pair(t)
	if err := a.Send("hello"); err == nil || !strings.Contains(err.Error(), "string is no message") {
		t.Error(err)
	}
	if err := a.Send(&model.Hello{}); err == nil || !strings.Contains(err.Error(), "needs 1") {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"type":"Register","fds":0,"body":{"protocol":1,"pid":2}}`,
		`{"type":"Hello","fds":1,"body":{"protocol":1,"prefixV4":"127.64.0.0/10","prefixV6":""}}`,
		`{"type":"Pods","fds":3,"body":{"version":1,"added":[{"uid":"a","families":["ipv4","ipv6"]}],"complete":true}}`,
		`{"type":"Ack","fds":0,"body":{"version":9,"refused":[{"service":{"namespace":"a","name":"b"},"reason":"c"}]}}`,
		`{"type":"Update","fds":0,"body":{"full":true,"services":[{"namespace":"a","name":"b","ports":[{"number":80}]}]}}`,
	} {
		f.Add([]byte(seed), 0)
		f.Add([]byte(seed), 1)
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, frame []byte, fds int) {
		msg, err := decode(frame, fds)
		if err != nil {
			return
		}
		// What was taken for a message can be sent on, and is the same message.
		again, err := encode(msg, fds)
		if err != nil {
			t.Fatalf("encode %#v: %v", msg, err)
		}
		back, err := decode(again[headerSize:], fds)
		if err != nil {
			t.Fatalf("decode %s: %v", again, err)
		}
		if diff := cmp.Diff(msg, back, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("-first +second\n%s", diff)
		}
	})
}

func frameOf(body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = New(c.(*net.UnixConn))
	}
	return conns[0], conns[1]
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// named makes a descriptor that can be told from others.
func named(t *testing.T, name string) int {
	t.Helper()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func nameOfFile(t *testing.T, fd int) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(link, "/memfd:"), " (deleted)")
}
