package http1

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// readRequest is parseRequest through a Reader.
func readRequest(r *Reader) (result, error) {
	var req message.Request
	h, err := r.Request(&req, limits, time.Minute)
	if err != nil {
		return result{}, err
	}
	return result{about: aboutRequest(&req, h), fields: lines(req.Fields)}, nil
}

// body holds that this, and nothing else, comes next.
func body(t *testing.T, r *Reader, want string) {
	t.Helper()
	for len(r.Buffered()) < len(want) {
		if err := r.Fill(); err != nil {
			t.Errorf("after %q: %v", r.Buffered(), err)
			return
		}
	}
	if got := string(r.Buffered()); got != want {
		t.Errorf("behind the head is %q, want %q", got, want)
	}
	r.Use(len(want))
}

func TestReaderTakesHeadsInPieces(t *testing.T) {
	for _, in := range []string{usualRequest, "\r\n" + usualRequest, post("Content-Length: 5"), head("GET http://b/ HTTP/1.0")} {
		want := parseRequest([]byte(in))
		want.n = 0
		for _, size := range []int{1, 2, 3, 4, 5, 100, len(in) - 1, len(in), len(in) + 4} {
			r, p := connect(t)
			p.wg.Go(func() { p.pieces(in+"body", size) })
			got, err := readRequest(r)
			if err != nil || got != want {
				t.Errorf("%q in pieces of %d:\n got %+v, error %v\nwant %+v", in, size, got, err, want)
			}
			body(t, r, "body")
		}
	}
}

func TestReaderTakesResponsesInPieces(t *testing.T) {
	interim := head("HTTP/1.1 103 Early Hints", "Link: </a>")
	for _, size := range []int{1, 2, 3, 4, 5, 100, len(interim), 1000} {
		r, p := connect(t)
		p.wg.Go(func() { p.pieces(interim+interim+usualResponse+"body", size) })
		for _, want := range []int{103, 103, 200} {
			var resp message.Response
			h, err := r.Response("GET", &resp, limits)
			if err != nil || resp.Status != want || want == 200 && (h.Body != Length || h.Length != 1234) {
				t.Errorf("in pieces of %d: %d, %+v, error %v, want %d", size, resp.Status, h, err, want)
			}
		}
		body(t, r, "body")
	}
}

// What is wrong is told when it has come, not when the time is over.
func TestReaderTellsErrorsAtOnce(t *testing.T) {
	for in, want := range map[string]*Error{
		"GET / HTTP/1.1\n":                 errLineEnd,
		"GET / HTTP/1.1\r\nX: y\n":         errLineEnd,
		"GET / HTTP/1.1\r\n\n":             errLineEnd,
		"GET / HTTP/1.1\r\nX: y\r\n\n":     errLineEnd,
		"GET / HTTP/1.1\r\nX: y\r\nY: z\n": errLineEnd,
		"\n":                               errLineEnd,
		"(":                                errMethod,
		"GET / HTTP/1.1\r\nX : y\r\n\r\n":  errFieldSpace,
		"GET /" + strings.Repeat("x", 2*limits.Target):             errTargetLong,
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", limits.Head): errHeadLarge,
	} {
		r, p := connect(t)
		p.wg.Go(func() { p.pieces(in, max(1, len(in)/16)) })
		if _, err := readRequest(r); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", short(in), err, want)
		}
	}
	for in, want := range map[string]*Error{
		"HTTP/1.1 200 OK\n":             errLineEnd,
		"HTTP/1.1 200 OK\r\nX: y\r\n\n": errLineEnd,
		"S":                             errStatusLine,
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", limits.Head): errHeadLarge,
	} {
		r, p := connect(t)
		p.wg.Go(func() { p.pieces(in, max(1, len(in)/16)) })
		var resp message.Response
		if _, err := r.Response("GET", &resp, limits); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", short(in), err, want)
		}
	}
}

func TestRFC9110_15_5_9_SlowHead(t *testing.T) {
	const within = 100 * time.Millisecond
	for name, say := range map[string]func(*peer){
		"nothing":     func(*peer) {},
		"a beginning": func(p *peer) { p.pieces("GET / HTTP/1.1\r\nHost:", 100) },
		"a drip": func(p *peer) { // what comes does not buy time
			p.say("GET / HTTP/1.1\r\nHost: a\r\nX: ")
			for begun := time.Now(); time.Since(begun) < 4*within && p.pieces("x", 1); {
			}
			p.say("\r\n\r\n")
		},
	} {
		r, p := connect(t)
		p.wg.Go(func() { say(p) })
		var req message.Request
		if _, err := r.Request(&req, limits, within); !errors.Is(err, ErrHeadTime) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHeadTimeEndsWithTheHead(t *testing.T) {
	const within = 300 * time.Millisecond
	r, p := connect(t)
	in := withSize("GET / HTTP/1.1", BufferSize+1) // takes two reads, so that there is a deadline
	p.wg.Go(func() { p.say(in) })
	var req message.Request
	if _, err := r.Request(&req, limits, within); err != nil {
		t.Fatal(err)
	}
	p.wg.Go(func() {
		<-time.After(within) // its being over is what is tested
		p.say("body")
	})
	body(t, r, "body")
}

func TestReaderGrowsForLargeHeads(t *testing.T) {
	for _, size := range []int{100, BufferSize - 1, BufferSize, BufferSize + 1, BufferSize + minRoom, 2 * BufferSize, 40 << 10, limits.Head} {
		in := withSize("POST / HTTP/1.1", size)
		r, p := connect(t)
		p.wg.Go(func() { p.say(in + "body") })
		want := parseRequest([]byte(in))
		got, err := readRequest(r)
		if got.n = size; err != nil || got != want {
			t.Errorf("a head of %d bytes: %s, error %v", size, short(got.about), err)
		}
		body(t, r, "body")
		if r.Release(); r.buf != nil || r.lent != nil {
			t.Errorf("after a head of %d bytes a buffer of %d is kept", size, len(r.buf))
		}
	}
}

func TestReaderTakesTheLargestHeadInDrips(t *testing.T) {
	in := withSize("POST / HTTP/1.1", limits.Head)
	want := parseRequest([]byte(in))
	r, p := connect(t)
	p.wg.Go(func() { p.pieces(in, 1021) })
	got, err := readRequest(r)
	if got.n = len(in); err != nil || got != want {
		t.Errorf("%s, error %v", short(got.about), err)
	}
}

// A head has to stay as it is for as long as its body is read behind it, whatever the reader does with its buffer.
func TestHeadsStayWhileBodiesAreRead(t *testing.T) {
	const length = 150_000
	content := make([]byte, length)
	for i := range content {
		content[i] = byte('a' + i%23)
	}
	for _, size := range []int{100, 5000, BufferSize - minRoom, BufferSize - minRoom + 1, BufferSize - 3, BufferSize, BufferSize + 1, 30_000, limits.Head} {
		for _, keep := range []int{0, 1, 3, 4000} { // bytes that are left in the buffer before the next Fill
			in := withSize("POST /path?query HTTP/1.1", size)
			r, p := connect(t)
			p.wg.Go(func() { p.say(in + string(content)) })
			var req message.Request
			h, err := r.Request(&req, limits, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			before := strings.Clone(aboutRequest(&req, h) + lines(req.Fields))
			for taken := 0; taken < length; {
				if len(r.Buffered()) <= keep {
					checkRoom(t, r)
					if err := r.Fill(); err != nil {
						t.Fatal(err)
					}
				}
				n := len(r.Buffered())
				if taken+n < length {
					n = max(n-keep, 0)
				}
				if got := string(r.Buffered()[:n]); got != string(content[taken:taken+n]) {
					t.Fatalf("a head of %d bytes: the body changed at %d", size, taken)
				}
				r.Use(n)
				taken += n
			}
			if after := aboutRequest(&req, h) + lines(req.Fields); after != before {
				t.Errorf("a head of %d bytes changed while the body was read:\n%s\n%s", size, short(before), short(after))
			}
			r.Release()
		}
	}
}

// checkRoom holds that a body behind a head is not read in pieces that are hardly worth a system call.
func checkRoom(t *testing.T, r *Reader) {
	t.Helper()
	r.room()
	if room := len(r.buf) - r.end; room < minRoom {
		t.Errorf("behind a head of %d bytes there is room for %d", r.pinned, room)
	}
}

func TestReaderServesPipelinedRequests(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var stream strings.Builder
	var heads, bodies []string
	for i := range 200 {
		bodies = append(bodies, strings.Repeat("b", random.IntN(300)))
		heads = append(heads, head(fmt.Sprintf("POST /%d HTTP/1.1", i), "Host: a", fmt.Sprintf("Content-Length: %d", len(bodies[i])), "X: "+strings.Repeat("x", random.IntN(300))))
		stream.WriteString(heads[i] + bodies[i])
	}
	for _, size := range []int{97, 5000, stream.Len()} {
		r, p := connect(t)
		p.wg.Go(func() { p.pieces(stream.String(), size) })
		for i := range heads {
			if err := r.Await(); err != nil {
				t.Fatal(err)
			}
			want := parseRequest([]byte(heads[i]))
			want.n = 0
			got, err := readRequest(r)
			if err != nil || got != want {
				t.Fatalf("request %d in pieces of %d:\n got %+v, error %v\nwant %+v", i, size, got, err, want)
			}
			for len(r.Buffered()) < len(bodies[i]) {
				if err := r.Fill(); err != nil {
					t.Fatal(err)
				}
			}
			if got := string(r.Buffered()[:len(bodies[i])]); got != bodies[i] {
				t.Fatalf("the body of request %d is %q", i, got)
			}
			r.Use(len(bodies[i]))
			r.Release()
			if next := len(r.Buffered()) > 0; next != (r.buf != nil) {
				t.Fatalf("after request %d: bytes of a next one: %v, a buffer: %v", i, next, r.buf != nil)
			}
		}
	}
}

// counted counts what a Reader lends.
type counted struct {
	*Reader
	takes, drops int
	dropped      chan struct{} // at the first Drop
}

func (c *counted) Take() []byte {
	c.takes++
	return c.Reader.Take()
}

func (c *counted) Drop() {
	c.Reader.Drop()
	if c.drops++; c.drops == 1 {
		close(c.dropped)
	}
}

func TestIdleConnectionsHoldNoBuffer(t *testing.T) {
	r, p := connect(t)
	c := &counted{Reader: r, dropped: make(chan struct{})}
	p.wg.Go(func() {
		<-c.dropped // the reader found nothing
		p.say("hello")
	})
	n, err := r.conn.ReadIdle(c)
	if err != nil || n != 5 || c.takes != 2 || c.drops != 1 {
		t.Errorf("%d bytes, error %v; a buffer was taken %d times and dropped %d times, want 2 and 1", n, err, c.takes, c.drops)
	}
	if string(r.buf[:n]) != "hello" || r.lent == nil {
		t.Errorf("the buffer has %q", r.buf[:n])
	}
}

func TestReaderGivesItsBufferBack(t *testing.T) {
	holds := func(r *Reader) bool { return r.buf != nil || r.lent != nil || len(r.Buffered()) > 0 }
	r, p := connect(t)
	p.say(usualRequest + "x")
	if err := r.Await(); err != nil || string(r.Buffered()) != usualRequest+"x" {
		t.Fatalf("%v, %q", err, r.Buffered())
	}
	if _, err := readRequest(r); err != nil {
		t.Fatal(err)
	}
	if r.Release(); !holds(r) || string(r.Buffered()) != "x" {
		t.Error("the beginning of the next request went with the buffer")
	}
	r.Use(1)
	if r.Release(); holds(r) {
		t.Error("after Release the buffer is held")
	}
	p.say("x")
	if err := r.Await(); err != nil || !holds(r) {
		t.Error(err)
	}
	if r.Reset(nil, r.buffers); holds(r) {
		t.Error("after Reset the buffer is held")
	}
	r, p = connect(t)
	p.end()
	if err := r.Await(); !errors.Is(err, io.EOF) || holds(r) {
		t.Errorf("at the end: %v; a buffer: %v", err, holds(r))
	}
}

// Buffers that two connections share must never be lent to both.
func TestBuffersAreLentOnce(t *testing.T) {
	buffers := &Buffers{}
	const connections = 8
	var readers [connections]*Reader
	var peers [connections]*peer
	for i := range readers {
		readers[i] = &Reader{}
		var c *sock.Conn
		c, peers[i] = socketPair(t)
		readers[i].Reset(c, buffers)
	}
	sizes := []int{100, BufferSize - 3, BufferSize + 1, 3 * BufferSize}
	var reqs [connections]message.Request
	for round := range 20 {
		want := [connections]string{}
		for i, r := range readers {
			want[i] = fmt.Sprintf("/%d/%d", round, i)
			in := withSize("GET "+want[i]+" HTTP/1.1", sizes[(round+i)%len(sizes)])
			p := peers[i]
			p.wg.Go(func() { p.say(in + "body") })
			if err := r.Await(); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Request(&reqs[i], limits, time.Minute); err != nil {
				t.Fatal(err)
			}
			body(t, r, "body")
		}
		for i, r := range readers {
			if reqs[i].Path != want[i] {
				t.Fatalf("round %d: the request of connection %d is now that for %s", round, i, reqs[i].Path)
			}
			r.Release()
		}
	}
}

func TestReaderTellsEnds(t *testing.T) {
	var req message.Request
	var resp message.Response
	request := func(r *Reader) error { _, err := r.Request(&req, limits, time.Minute); return err }
	response := func(r *Reader) error { _, err := r.Response("GET", &resp, limits); return err }
	for _, c := range []struct {
		said string
		read func(*Reader) error
		want error
	}{
		{"", (*Reader).Await, io.EOF},
		{"", (*Reader).Fill, io.EOF},
		{"", request, io.EOF},
		{"", response, io.EOF},
		{"G", request, io.ErrUnexpectedEOF},
		{usualRequest[:len(usualRequest)-1], request, io.ErrUnexpectedEOF},
		{"H", response, io.ErrUnexpectedEOF},
		{usualResponse[:len(usualResponse)-1], response, io.ErrUnexpectedEOF},
		{usualRequest, request, nil},
		{usualResponse, response, nil},
		{head("HTTP/1.1 103 X"), func(r *Reader) error { return errors.Join(response(r), response(r)) }, io.EOF}, // between two is no middle
		{usualResponse, func(r *Reader) error { return errors.Join(response(r), r.Fill()) }, io.EOF},
	} {
		r, p := connect(t)
		p.say(c.said)
		p.end()
		if err := c.read(r); !errors.Is(err, c.want) {
			t.Errorf("after %q: %v, want %v", c.said, err, c.want)
		}
		r, _ = connect(t)
		if err := r.conn.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.read(r); err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrHeadTime) {
			t.Errorf("of a closed connection: %v", err)
		}
	}
}

func TestReaderTellsResets(t *testing.T) {
	r, p := connect(t)
	if _, err := r.conn.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	p.say("GET")
	p.close() // with bytes that it did not read: a reset
	var req message.Request
	if _, err := r.Request(&req, limits, time.Minute); !sock.IsReset(err) {
		t.Errorf("got %v", err)
	}
}

// dripped is what a Reader that gets one byte at a time finds out, after how many bytes, and how often it has to parse.
func dripped(in string, parse parser) (got result, after, parses int) {
	r := Reader{buf: []byte(in)}
	scanned := 0
	for r.end = 1; r.end <= len(in); r.end++ {
		if r.ends(&scanned) {
			parses++
			if got = parse([]byte(in[:r.end])); got != (result{}) {
				return got, r.end, parses
			}
		}
	}
	return got, len(in), parses
}

func TestDrippingHeadsCostNoSquare(t *testing.T) {
	request := withSize("GET / HTTP/1.1", limits.Head)
	response := withSize("HTTP/1.1 200 OK", limits.Head)
	many := "GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", (limits.Head-100)/6) + "Host: a\r\n\r\n"
	for _, c := range []struct {
		in    string
		parse parser
	}{{request, parseRequest}, {response, responseTo("GET")}, {many, parseRequest}} {
		got, after, parses := dripped(c.in, c.parse)
		if got.n != len(c.in) || after != len(c.in) {
			t.Errorf("%s: after %d bytes %s, error %v", short(c.in), after, short(got.about), got.err)
		}
		if most := 2 + limits.Head/minRoom; parses > most {
			t.Errorf("%s: parsed %d times, want at most %d", short(c.in), parses, most)
		}
	}
}

func TestDrippingHeadsEndWhereTheyEnd(t *testing.T) {
	ok := usualRequest
	inputs := []string{ok, "\r\n" + ok, post("Content-Length: 5"), head("GET / HTTP/1.0"), "GET / HTTP/1.1\r\n\r\n", "\r\n\r\n" + ok, "\n" + ok, "\r\n\n" + ok}
	for i := range ok { // a CR or an LF is missing or too many
		inputs = append(inputs, ok[:i]+"\n"+ok[i:], ok[:i]+ok[i+1:], ok[:i]+"\r"+ok[i:], ok[:i]+"\n\n"+ok[i:])
	}
	for _, in := range inputs {
		got, after, _ := dripped(in, parseRequest)
		want := parseRequest([]byte(in))
		if got != want && (got != result{} || want.n > 0 || want.err == errLineEnd) { // other errors may wait for the head's end
			t.Fatalf("%q:\n got %+v\nwant %+v", in, got, want)
		}
		if first := earliest(in); got.n > 0 && after != got.n || got.err == errLineEnd && after != first {
			t.Errorf("%q: known after %d bytes only, not %d: %+v", in, after, first, got)
		}
	}
}

// earliest is after how many bytes a parser that looks each time knows something.
func earliest(in string) int {
	for i := range len(in) + 1 {
		if parseRequest([]byte(in[:i])) != (result{}) {
			return i
		}
	}
	return len(in)
}
