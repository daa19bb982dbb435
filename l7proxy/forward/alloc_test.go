package forward

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// literal makes frames of one stream, which are patched with its id when they are sent.
func literal(tb testing.TB, head []string, body string, trailers ...string) []byte {
	tb.Helper()
	var out, block bytes.Buffer
	f := http2.NewFramer(&out, nil)
	encode := func(fields []string) []byte {
		block.Reset()
		enc := hpack.NewEncoder(&block)
		enc.SetMaxDynamicTableSizeLimit(0)
		for i := 0; i < len(fields); i += 2 {
			if err := enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
				tb.Fatal(err)
			}
		}
		return block.Bytes()
	}
	write := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	write(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(head), EndHeaders: true}))
	write(f.WriteData(1, len(trailers) == 0, []byte(body)))
	if len(trailers) > 0 {
		write(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(trailers), EndHeaders: true, EndStream: true}))
	}
	return out.Bytes()
}

const frameHead = 9

// patch writes the id into each of the frames.
func patch(frames []byte, id uint32) {
	for len(frames) > 0 {
		binary.BigEndian.PutUint32(frames[5:], id)
		frames = frames[frameHead+int(frames[0])<<16+int(frames[1])<<8+int(frames[2]):]
	}
}

// bare is a peer that allocates nothing.
type bare struct {
	conn net.Conn
	buf  []byte
	n    int
}

func newBare(tb testing.TB, c net.Conn, client bool) *bare {
	tb.Helper()
	if client {
		if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
			tb.Fatal(err)
		}
	} else if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		tb.Fatal(err)
	}
	f := http2.NewFramer(c, nil)
	for _, err := range []error{f.WriteSettings(), f.WriteSettingsAck(), f.WriteWindowUpdate(0, 1<<31-1<<16)} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	return &bare{conn: c, buf: make([]byte, 64<<10)}
}

// end reads up to a frame with END_STREAM, and returns its stream.
func (b *bare) end() (uint32, error) {
	for {
		for b.n >= frameHead {
			size := frameHead + int(b.buf[0])<<16 + int(b.buf[1])<<8 + int(b.buf[2])
			if b.n < size {
				break
			}
			kind, flags, id := http2.FrameType(b.buf[3]), b.buf[4], binary.BigEndian.Uint32(b.buf[5:])
			b.n = copy(b.buf, b.buf[size:b.n])
			if (kind == http2.FrameData || kind == http2.FrameHeaders) && flags&1 != 0 {
				return id, nil
			}
		}
		n, err := b.conn.Read(b.buf[b.n:])
		if err != nil {
			return 0, err
		}
		b.n += n
	}
}

// BenchmarkUnary is a unary call of gRPC from HTTP/2 to HTTP/2, peers included.
func BenchmarkUnary(b *testing.B) {
	l := newLab(b, everything(), Limits{})
	o := l.origin()
	answer := literal(b, []string{":status", "200", "content-type", "application/grpc"}, "\x00\x00\x00\x00\x05hello", "grpc-status", "0")
	go func() {
		c, err := o.ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for up := newBare(b, c, false); ; {
			id, err := up.end()
			if err != nil {
				return
			}
			patch(answer, id)
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}()
	conn, err := net.Dial("tcp", l.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	c := newBare(b, conn, true)
	request := literal(b, []string{":method", "POST", ":scheme", "http", ":path", "/shop.Cart/Add", ":authority", "web", "content-type", "application/grpc", "te", "trailers"},
		"\x00\x00\x00\x00\x05hello")
	id := uint32(1)
	b.ReportAllocs()
	for b.Loop() {
		patch(request, id)
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		if got, err := c.end(); err != nil || got != id {
			b.Fatalf("stream %d, %v", got, err)
		}
		id += 2
	}
}

// Design, "budgets": no allocation per request in the steady state.
func TestUnaryCallDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and its pools forget")
	}
	if r := testing.Benchmark(BenchmarkUnary); r.N == 0 || r.AllocsPerOp() != 0 {
		t.Errorf("%d calls, %v", r.N, r.MemString())
	} else {
		t.Log(r, r.MemString())
	}
}
