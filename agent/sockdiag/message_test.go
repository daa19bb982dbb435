package sockdiag

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The layout of <linux/inet_diag.h>, by offset: what the kernel reads out of a request.
func TestRequests(t *testing.T) {
	u16, u32 := binary.NativeEndian.Uint16, binary.NativeEndian.Uint32
	dump := dumpRequest(unix.AF_INET6, 77)
	s := Socket{Family: unix.AF_INET}
	for i := range s.id {
		s.id[i] = byte(i + 1)
	}
	destroy := destroyRequest(s)
	for what, c := range map[string][2]int{
		"length of a dump":      {int(u32(dump)), 16 + 56 + 12},
		"its kind":              {int(u16(dump[4:])), 20},
		"its flags":             {int(u16(dump[6:])), 0x301},
		"its family":            {int(dump[16]), 10},
		"its protocol":          {int(dump[17]), 6},
		"its extensions":        {int(dump[18]), 1 << 1}, // INET_DIAG_INFO is 2
		"its states":            {int(u32(dump[20:])), 0b1011_0011_0110},
		"its attribute":         {int(u16(dump[74:])), 2 | 0x8000},
		"its attribute's size":  {int(u16(dump[72:])), 12},
		"the nested one":        {int(u16(dump[78:])), 1},
		"the nested one's size": {int(u16(dump[76:])), 8},
		"the map":               {int(u32(dump[80:])), 77},
		"length of a destroy":   {int(u32(destroy)), 16 + 56},
		"its own kind":          {int(u16(destroy[4:])), 21},
		"its own flags":         {int(u16(destroy[6:])), 0x5},
		"its own family":        {int(destroy[16]), 2},
	} {
		if c[0] != c[1] {
			t.Errorf("%s is %#x, not %#x", what, c[0], c[1])
		}
	}
	if len(dump) != 84 || len(destroy) != 72 || !bytes.Equal(destroy[24:], s.id[:]) {
		t.Errorf("the requests are %d and %d bytes; the socket's id is %x", len(dump), len(destroy), destroy[24:])
	}
}

// answer encodes what the kernel would send: a socket with attributes.
func answer(family, state uint8, id byte, attrs ...[]byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN+messageSize)
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	b[16], b[17], b[20] = family, state, id
	for _, a := range attrs {
		b = append(b, a...)
		b = append(b, make([]byte, align(len(b))-len(b))...)
	}
	return finish(b)
}

// answerQueued is an answer with bytes in the socket's two queues.
func answerQueued(family, state, id, received, sent uint8, attrs ...[]byte) []byte {
	b := answer(family, state, id, attrs...)
	b[16+56], b[16+60] = received, sent
	return b
}

func ending(kind uint16, errno int32) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint16(b[4:], kind)
	return finish(binary.NativeEndian.AppendUint32(b, uint32(-errno)))
}

func kept(value string) []byte {
	return attribute(storages|unix.NLA_F_NESTED, attribute(unix.SK_DIAG_BPF_STORAGE|unix.NLA_F_NESTED, slices.Concat(
		attribute(unix.SK_DIAG_BPF_STORAGE_MAP_ID, []byte{1, 0, 0, 0}), attribute(unix.SK_DIAG_BPF_STORAGE_MAP_VALUE, []byte(value)))))
}

func TestAnswers(t *testing.T) {
	other := attribute(8, []byte{7, 7, 7}) // INET_DIAG_SHUTDOWN and the like, with a length that is no multiple of 4
	for name, c := range map[string]struct {
		datagram []byte
		want     []Socket
		done     bool
		err      error
	}{
		"nothing yet":        {},
		"the end":            {datagram: ending(unix.NLMSG_DONE, 0), done: true},
		"an acknowledgement": {datagram: ending(unix.NLMSG_ERROR, 0), done: true},
		"a refusal":          {datagram: ending(unix.NLMSG_ERROR, int32(unix.ENOENT)), done: true, err: unix.ENOENT},
		"a dump that failed": {datagram: ending(unix.NLMSG_DONE, int32(unix.EPERM)), done: true, err: unix.EPERM},
		"two sockets": {
			datagram: slices.Concat(answer(2, 1, 5, other, kept("abcd")), answer(10, 8, 6, other)),
			want:     []Socket{{Family: 2, State: 1, Storage: []byte("abcd"), id: [48]byte{5}}, {Family: 10, State: 8, id: [48]byte{6}}},
		},
		"what is queued, and when data went over it": {
			datagram: answerQueued(2, 1, 5, 7, 11, attribute(2, slices.Concat(make([]byte, 44), []byte{20, 0, 0, 0, 9, 9, 9, 9, 30, 0, 0, 0}))),
			want: []Socket{{
				Family: 2, State: 1, id: [48]byte{5}, Queued: 18, SinceSent: 20 * time.Millisecond, SinceReceived: 30 * time.Millisecond,
			}},
		},
		"a tcp_info of an older kernel": {
			datagram: answer(2, 1, 5, attribute(2, make([]byte, 52))),
			want:     []Socket{{Family: 2, State: 1, id: [48]byte{5}}},
		},
		"sockets and the end": {
			datagram: slices.Concat(answer(2, 1, 5), ending(unix.NLMSG_DONE, 0)),
			want:     []Socket{{Family: 2, State: 1, id: [48]byte{5}}}, done: true,
		},
		"storage of other maps only": {
			datagram: answer(2, 1, 5, attribute(storages|unix.NLA_F_NESTED, nil)),
			want:     []Socket{{Family: 2, State: 1, id: [48]byte{5}}},
		},
		"cut in the header":     {datagram: answer(2, 1, 5)[:10], done: true, err: errShort},
		"cut in the socket":     {datagram: finish(answer(2, 1, 5)[:40]), done: true, err: errShort},
		"longer than it is":     {datagram: answer(2, 1, 5, other)[:80], done: true, err: errShort},
		"an empty attribute":    {datagram: answer(2, 1, 5, []byte{0, 0, 20, 0}), done: true, err: errShort},
		"attribute too long":    {datagram: answer(2, 1, 5, []byte{200, 0, 20, 0}), done: true, err: errShort},
		"ending without errno":  {datagram: finish(ending(unix.NLMSG_DONE, 0)[:16]), done: true, err: errShort},
		"length below a header": {datagram: make([]byte, 16), done: true, err: errShort},
	} {
		t.Run(name, func(t *testing.T) {
			got, done, err := parse(c.datagram)
			if done != c.done || !errors.Is(err, c.err) {
				t.Fatalf("done: %v, error: %v", done, err)
			}
			if err == nil && !reflect.DeepEqual(got, c.want) {
				t.Errorf("sockets %+v, want %+v", got, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(answer(2, 1, 5, kept("abcd")))
	f.Add(slices.Concat(answer(2, 1, 5), ending(unix.NLMSG_DONE, 0)))
	f.Add(ending(unix.NLMSG_ERROR, 2))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		all, _, err := parse(datagram)
		if least := len(all) * (unix.NLMSG_HDRLEN + messageSize); err == nil && least > len(datagram) {
			t.Errorf("%d sockets in %d bytes", len(all), len(datagram))
		}
	})
}
