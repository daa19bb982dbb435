package forward

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2peer is a peer that speaks HTTP/2, frame by frame. SETTINGS and PING are answered as they come, and told of in no
// other way; so are WINDOW_UPDATEs, which are summed up.
type h2peer struct {
	*peer
	framer *http2.Framer
	enc    *hpack.Encoder
	block  bytes.Buffer
	dec    *hpack.Decoder
	read   []string // fields of the block that is decoded

	settings map[http2.SettingID]uint32
	acked    bool           // our SETTINGS
	window   map[uint32]int // by stream, what the other side has given back
	credit   bool           // DATA is given back as it comes
}

func newH2peer(p *peer) *h2peer {
	h := &h2peer{peer: p, framer: http2.NewFramer(p, p), settings: map[http2.SettingID]uint32{}, window: map[uint32]int{}, credit: true}
	h.enc = hpack.NewEncoder(&h.block)
	h.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) { h.read = append(h.read, f.Name+"="+f.Value) })
	return h
}

// h2 is a client's connection of HTTP/2.
func (l *lab) h2(settings ...http2.Setting) *h2peer {
	l.tb.Helper()
	return l.h2To(l.addr, settings...)
}

func (l *lab) h2To(addr string, settings ...http2.Setting) *h2peer {
	l.tb.Helper()
	h := newH2peer(l.dialTo(addr))
	h.peer.send(http2.ClientPreface)
	h.must(h.framer.WriteSettings(settings...))
	return h
}

// h2 takes the next connection as one of HTTP/2, and answers its preface.
func (b *origin) h2(settings ...http2.Setting) *h2peer {
	b.tb.Helper()
	return b.accept().h2(settings...)
}

func (p *peer) h2(settings ...http2.Setting) *h2peer {
	p.tb.Helper()
	p.want(http2.ClientPreface)
	h := newH2peer(p)
	h.must(h.framer.WriteSettings(settings...))
	return h
}

func setting(id http2.SettingID, value uint32) http2.Setting {
	return http2.Setting{ID: id, Val: value}
}

func (h *h2peer) must(err error) {
	h.tb.Helper()
	if err != nil {
		h.tb.Fatalf("the %s writes a frame: %v", h.who, err)
	}
}

// encode makes a block of "name=value" lines.
func (h *h2peer) encode(fields []string) []byte {
	h.block.Reset()
	for _, f := range fields {
		at := strings.IndexByte(f[1:], '=') + 1
		_ = h.enc.WriteField(hpack.HeaderField{Name: f[:at], Value: f[at+1:]}) // into memory
	}
	return h.block.Bytes()
}

// head sends a header block; fields are "name=value".
func (h *h2peer) head(id uint32, end bool, fields ...string) {
	h.tb.Helper()
	h.within(patience)
	h.must(h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h.encode(fields), EndHeaders: true, EndStream: end}))
}

// ask sends the head of a request.
func (h *h2peer) ask(id uint32, method, path string, end bool, more ...string) {
	h.tb.Helper()
	h.head(id, end, append([]string{":method=" + method, ":scheme=http", ":authority=web", ":path=" + path}, more...)...)
}

// asked is what a backend gets of it.
func asked(id uint32, method, path string, end bool, more ...string) string {
	return headLine(id, end, append([]string{":method=" + method, ":scheme=http", ":authority=web", ":path=" + path}, more...)...)
}

func headLine(id uint32, end bool, fields ...string) string {
	return fmt.Sprintf("HEADERS %d %s%s", id, strings.Join(fields, " "), endOf(end))
}

func endOf(end bool) string {
	if end {
		return " END"
	}
	return ""
}

func (h *h2peer) data(id uint32, s string, end bool) {
	h.tb.Helper()
	h.within(patience)
	h.must(h.framer.WriteData(id, end, []byte(s)))
}

func (h *h2peer) rst(id uint32, code http2.ErrCode) {
	h.tb.Helper()
	h.within(patience)
	h.must(h.framer.WriteRSTStream(id, code))
}

// frame reads the next frame that is not answered here, as a line: "HEADERS 1 a=b END", "DATA 1 hello", "RST_STREAM 1 CANCEL".
func (h *h2peer) frame() (string, error) {
	for {
		h.within(patience)
		f, err := h.framer.ReadFrame()
		if err != nil {
			return "", err
		}
		if line := h.line(f); line != "" {
			return line, nil
		}
	}
}

func (h *h2peer) line(f http2.Frame) string {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			h.acked = true
			return ""
		}
		_ = f.ForeachSetting(func(s http2.Setting) error {
			h.settings[s.ID] = s.Val
			return nil
		})
		_ = h.framer.WriteSettingsAck() // the other side may be gone
	case *http2.PingFrame:
		if !f.IsAck() {
			_ = h.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		h.window[id] += int(f.Increment)
	case *http2.HeadersFrame:
		h.read = nil
		if _, err := h.dec.Write(f.HeaderBlockFragment()); err != nil {
			h.tb.Errorf("the %s decodes a block: %v", h.who, err)
		}
		return headLine(id, f.StreamEnded(), h.read...)
	case *http2.DataFrame:
		if h.credit && f.Length > 0 {
			_ = h.framer.WriteWindowUpdate(0, f.Length)
			if !f.StreamEnded() {
				_ = h.framer.WriteWindowUpdate(id, f.Length)
			}
		}
		return fmt.Sprintf("DATA %d %s%s", id, f.Data(), endOf(f.StreamEnded()))
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %s", id, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %s", f.LastStreamID, f.ErrCode)
	default:
		return f.Header().Type.String()
	}
	return ""
}

// refusal is an answer of the proxy's own.
func refusal(id uint32, status int, reason string) string {
	text := "sluice: " + reason + "\n"
	return headLine(id, false, fmt.Sprint(":status=", status), "content-type=text/plain; charset=utf-8", fmt.Sprint("content-length=", len(text))) +
		"\x00" + fmt.Sprintf("DATA %d %s END", id, text)
}

// grpcRefusal is one to a call of gRPC.
func grpcRefusal(id uint32, code int, reason string) string {
	return headLine(id, true, ok200, "content-type=application/grpc", fmt.Sprint("grpc-status=", code), "grpc-message=sluice: "+reason)
}

// want reads exactly these frames.
func (h *h2peer) want(lines ...string) {
	h.tb.Helper()
	for want := range strings.SplitSeq(strings.Join(lines, "\x00"), "\x00") {
		got, err := h.frame()
		if err != nil || got != want {
			h.tb.Fatalf("the %s got (%v)\n%.2000q\nwant\n%.2000q", h.who, err, got, want)
		}
	}
}

// wantGone: the connection ends without a further frame but a GOAWAY.
func (h *h2peer) wantGone() {
	h.tb.Helper()
	for {
		got, err := h.frame()
		switch {
		case errors.Is(err, io.EOF) || isReset(err):
			return
		case err != nil || !strings.HasPrefix(got, "GOAWAY"):
			h.tb.Fatalf("the %s got %q, %v; want the end", h.who, got, err)
		}
	}
}

// body reads DATA of a stream until n bytes of it have come, or its end.
func (h *h2peer) body(id uint32, n int) (got int, end bool) {
	h.tb.Helper()
	prefix := fmt.Sprintf("DATA %d ", id)
	for got < n && !end {
		line, err := h.frame()
		data, ok := strings.CutPrefix(line, prefix)
		if err != nil || !ok {
			h.tb.Fatalf("the %s got %.200q, %v after %d bytes; want DATA", h.who, line, err, got)
		}
		data, end = strings.CutSuffix(data, " END")
		got += len(data)
	}
	return got, end
}

// ping is answered after everything that was sent before it was worked off.
func (h *h2peer) ping() {
	h.tb.Helper()
	h.must(h.framer.WritePing(false, [8]byte{1}))
	for {
		h.within(patience)
		f, err := h.framer.ReadFrame()
		if err != nil {
			h.tb.Fatalf("the %s waits for a PING's answer: %v", h.who, err)
		}
		if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
			return
		}
		if line := h.line(f); line != "" {
			h.tb.Fatalf("the %s got %q before the PING's answer", h.who, line)
		}
	}
}

// h2lab is a lab with one backend.
func h2lab(tb testing.TB) (*lab, *origin) {
	tb.Helper()
	l := newLab(tb, everything(), Limits{})
	return l, l.origin()
}

const ok200 = ":status=200"
