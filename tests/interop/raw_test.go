package interop

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawConn is one side of an HTTP/2 connection whose frames a test sees and writes.
type rawConn struct {
	net.Conn
	*http2.Framer
}

// rawClient connects to a Service and says that HTTP/2 is spoken.
func (m *mesh) rawClient(t *testing.T, service string) rawConn {
	t.Helper()
	c, err := m.dialer.dial(t.Context(), m.target(service))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	raw := newRaw(c)
	if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	if err := raw.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return raw
}

func newRaw(c net.Conn) rawConn {
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return rawConn{c, f}
}

// block encodes fields without the dynamic table. They are name, value, name, value, ...
func block(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true}) // a buffer takes all
	}
	return b.Bytes()
}

// call sends a gRPC request of an empty message.
func (c rawConn) call(stream uint32, path string) error {
	return errors.Join(c.open(stream, path), c.WriteData(stream, true, []byte("\x00\x00\x00\x00\x00")))
}

// open sends the head of a gRPC request.
func (c rawConn) open(stream uint32, path string) error {
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, BlockFragment: block(
		":method", "POST", ":scheme", "http", ":path", path, ":authority", "grpc", "content-type", "application/grpc", "te", "trailers",
	)})
}

// next is the next frame of the stream. The frames of the connection are answered where they have to be.
func (c rawConn) next(stream uint32) (http2.Frame, error) {
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			err = fmt.Errorf("GOAWAY %v %q", f.ErrCode, f.DebugData())
		case *http2.WindowUpdateFrame:
		default:
			if f.Header().StreamID == stream {
				return f, nil
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

// values are a head's fields by name; of several with one name the last.
func values(h *http2.MetaHeadersFrame) map[string]string {
	v := map[string]string{}
	for _, f := range h.Fields {
		v[f.Name] = f.Value
	}
	return v
}
