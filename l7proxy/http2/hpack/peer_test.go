package hpack

import (
	"bytes"
	"testing"

	oracle "golang.org/x/net/http2/hpack"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// peer is another implementation's encoder.
type peer struct {
	*oracle.Encoder
	t   testing.TB
	out bytes.Buffer
}

func newPeer(t testing.TB) *peer {
	p := &peer{t: t}
	p.Encoder = oracle.NewEncoder(&p.out)
	return p
}

// encode encodes one block.
func (p *peer) encode(f message.Fields) []byte {
	p.out.Reset()
	for _, x := range f {
		if err := p.WriteField(oracle.HeaderField{Name: x.Name, Value: x.Value, Sensitive: x.Sensitive}); err != nil {
			p.t.Fatal(err)
		}
	}
	return bytes.Clone(p.out.Bytes())
}

// reader is another implementation's decoder.
type reader struct {
	*oracle.Decoder
	got message.Fields
}

func newReader(tableSize int) *reader {
	r := &reader{}
	r.Decoder = oracle.NewDecoder(uint32(tableSize), func(f oracle.HeaderField) {
		r.got = append(r.got, message.Field{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive})
	})
	return r
}

// decode decodes one block.
func (r *reader) decode(block []byte) (message.Fields, error) {
	r.got = message.Fields{}
	if _, err := r.Write(block); err != nil {
		return nil, err
	}
	return r.got, r.Close()
}

// call is the head of a gRPC call as grpc-go sends it, with a trace of its own for each call.
func call(trace string) message.Fields {
	return fields(":method: POST", ":scheme: http", ":path: /helloworld.Greeter/SayHello", ":authority: greeter.default.svc.cluster.local:50051",
		"content-type: application/grpc", "user-agent: grpc-go/1.76.0", "te: trailers", "grpc-timeout: 999m", "traceparent: "+trace)
}

// firstCall is the first block of a connection.
func firstCall() []byte {
	var p peer
	p.Encoder = oracle.NewEncoder(&p.out)
	return p.encode(call("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
}

// calls are the blocks of many calls on a connection: with the same fields each time, or with a new trace in each.
func calls(t testing.TB, n int, traced bool) [][]byte {
	p, blocks := newPeer(t), make([][]byte, n)
	trace := []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	for i := range blocks {
		if traced {
			for at, x := 3, i; x > 0; at, x = at+1, x>>4 {
				trace[at] = "0123456789abcdef"[x&15]
			}
		}
		blocks[i] = p.encode(call(string(trace)))
	}
	return blocks
}
