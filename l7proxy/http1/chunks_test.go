package http1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// decoded is what became of a chunked body.
type decoded struct {
	data     string
	chunks   string // "5 3": the sizes; "5!" is one whose end did not come
	trailers string
	taken    int // bytes of the body
	last     bool
	err      *Error
}

// decode decodes what comes in pieces of that size, as a reader with a buffer would.
func decode(in string, piece int) (d decoded) {
	var c Chunks
	for have := 0; ; {
		p, n, err := c.Next([]byte(in[d.taken:have]))
		if err != nil {
			d.err = err
			return d
		}
		d.taken += n
		d.data += string(p.Data)
		if p.Begins > 0 {
			d.chunks += fmt.Sprintf(" %d!", p.Begins)
		}
		if p.Ends {
			d.chunks = strings.TrimSuffix(d.chunks, "!")
		}
		switch {
		case p.Last:
			d.last = true
			d.trailers = lines(c.Trailers)
			return d
		case n > 0:
		case have == len(in):
			return d
		default:
			have = min(have+piece, len(in))
		}
	}
}

// decodes holds that a body is decoded as wanted, in whatever pieces it comes, and that nothing behind it is touched.
func decodes(t *testing.T, in string, want decoded) {
	t.Helper()
	if want.chunks != "" {
		want.chunks = " " + want.chunks
	}
	for piece := 1; piece <= len(in); piece++ {
		got := decode(in, piece)
		if want.err != nil {
			if got.err != want.err || got.last {
				t.Errorf("%s in pieces of %d:\n got %+v\nwant error %v", short(in), piece, got, want.err)
			}
			continue
		}
		if got != want {
			t.Errorf("%s in pieces of %d:\n got %+v\nwant %+v", short(in), piece, got, want)
			return
		}
	}
}

func malformed(t *testing.T, want *Error, bodies ...string) {
	t.Helper()
	for _, in := range bodies {
		decodes(t, in, decoded{err: want})
		decodes(t, "3\r\nabc\r\n"+in, decoded{err: want})
	}
}

func TestRFC9112_7_1_Chunks(t *testing.T) {
	for in, want := range map[string]decoded{
		"0\r\n\r\n":               {},
		"5\r\nhello\r\n0\r\n\r\n": {data: "hello", chunks: "5"},
		"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n":         {data: "abcdef", chunks: "1 2 3"},
		"a\r\n0123456789\r\n0\r\n\r\n":                       {data: "0123456789", chunks: "10"},
		"A\r\n0123456789\r\n0\r\n\r\n":                       {data: "0123456789", chunks: "10"},
		"0000000000000001\r\nx\r\n000\r\n\r\n":               {data: "x", chunks: "1"},
		"4\r\n\r\n\r\n\r\n0\r\n\r\n":                         {data: "\r\n\r\n", chunks: "4"}, // data is data
		"5\r\n0\r\n\r\n\r\n0\r\n\r\n":                        {data: "0\r\n\r\n", chunks: "5"},
		"1e\r\n" + strings.Repeat("é", 15) + "\r\n0\r\n\r\n": {data: strings.Repeat("é", 15), chunks: "30"},
	} {
		want.last, want.taken = true, len(in)
		decodes(t, in, want)
		decodes(t, in+"GET / HTTP/1.1\r\n", want) // the next request is not touched
	}
}

func TestRFC9112_7_1_ChunksIncomplete(t *testing.T) {
	whole := "5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
	for i := range len(whole) {
		if got := decode(whole[:i], 1); got.last || got.err != nil || !strings.HasPrefix("helloabc", got.data) {
			t.Errorf("%q: %+v", whole[:i], got)
		}
	}
	decodes(t, "5\r\nhel", decoded{data: "hel", chunks: "5!", taken: 6})
	decodes(t, "7fffffffffffffff\r\nhel", decoded{data: "hel", chunks: "9223372036854775807!", taken: 21})
}

func TestRFC9112_7_1_ChunkSizeMalformed(t *testing.T) {
	malformed(t, errChunkSize,
		"\r\n", "\r\n0\r\n\r\n", " 5\r\nhello\r\n", "\t5\r\nhello\r\n", "g\r\n", "-1\r\n", "+5\r\nhello\r\n", "0x5\r\nhello\r\n", "5h\r\nhello\r\n", "5.0\r\nhello\r\n", "5,5\r\nhello\r\n",
		"5 \r\nhello\r\n", "5\t\r\nhello\r\n", "5 5\r\nhello\r\n", "5:\r\nhello\r\n", "5\x00\r\nhello\r\n", "5\r\r\nhello\r\n", "\r5\r\nhello\r\n", ";a\r\n", "٥\r\n", "\xb5\r\n",
		"8000000000000000\r\n", "ffffffffffffffff\r\n", "10000000000000005\r\nhello\r\n", "00000000000000005\r\nhello\r\n", "fffffffffffffffff",
		"x", "\rx", "-", "x\n", "\n",
	)
}

func TestRFC9112_7_1_ChunkEndMalformed(t *testing.T) {
	malformed(t, errChunkEnd, "5\r\nhello0\r\n\r\n", "5\r\nhello!\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r0\r\n\r\n", "5\r\nhello\r\r\n", "5\r\nhello ", "5\r\nhello\n", "4\r\nhello\r\n0\r\n\r\n")
	malformed(t, errChunkSize, "5\r\nhello\r\n\r\n0\r\n\r\n", "5\r\nhello\r\n \r\n")
	malformed(t, errLineEnd, "5\nhello\r\n0\r\n\r\n", "0\n\r\n", "0\n\n", "5;a\nhello\r\n", "0\r\n\n", "0\r\nX: y\n\r\n", "0\r\nX: y\r\n\n")
	malformed(t, errBareCR, "0\r\n\rX\r\n", "0\r\nX: y\rz\r\n\r\n", "0\r\nX: y\r\r\n\r\n", "0\r\nX\r: y\r\n\r\n")
}

func TestRFC9112_7_1_1_ChunkExtensions(t *testing.T) {
	for _, ext := range []string{
		";a", ";a=b", ";a=\"b\"", ";a=\"\"", ";a=\"b;c=d\\\"\\\\ \t\x80\"", ";a;b;c=d", " ;a", "\t ; \ta \t= \tb", ";a =b;c= \"d\"", ";!#$%&'*+-.^_`|~=!", ";a=1;a=2",
	} {
		in := "5" + ext + "\r\nhello\r\n0" + ext + "\r\n\r\n"
		decodes(t, in, decoded{data: "hello", chunks: "5", taken: len(in), last: true})
	}
	for _, ext := range []string{
		";", ";;a", "; ", ";a;", ";a=", ";a= ", ";=b", ";a=b c", ";a b", ";a=\"b", ";a=\"b\\", ";a=\"b\\\"", ";a=\"b\"c", ";a=\"b\" ", ";a ", ";a\x00", ";a=\"\x00\"", ";a=\"\\\x01\"", ";a=\"\x7f\"",
		";a=\"b\rc\"", ";a\r", ";a,b", ";a=b=c", ";\x80", ";a==b", ";(a)", " ;", ";a=\x80", ";a=\"b\\\x7f\"",
	} {
		malformed(t, errChunkExt, "5"+ext+"\r\nhello\r\n0\r\n\r\n", "0"+ext+"\r\n\r\n")
	}
}

func TestRFC9112_7_1_1_ChunkLineTooLong(t *testing.T) {
	name := strings.Repeat("x", maxChunkLine-len("5;\r"))
	longest := "5;" + name + "\r\nhello\r\n0\r\n\r\n"
	decodesLong(t, longest, decoded{data: "hello", chunks: " 5", taken: len(longest), last: true})
	decodesLong(t, "5;x"+longest[2:], decoded{err: errChunkLine})
	decodesLong(t, "5;"+strings.Repeat("x", maxChunkLine), decoded{err: errChunkLine})
	decodesLong(t, strings.Repeat("0", maxChunkLine), decoded{err: errChunkSize})
}

// decodesLong is decodes with few of the many sizes of pieces.
func decodesLong(t *testing.T, in string, want decoded) {
	t.Helper()
	for _, piece := range []int{1, 7, 1000, len(in)} {
		got := decode(in, piece)
		if want.err != nil && got.err == want.err && !got.last {
			continue
		}
		if got != want {
			t.Errorf("%s in pieces of %d:\n got %+v\nwant %+v", short(in), piece, got, want)
		}
	}
}

func TestRFC9112_7_1_2_Trailers(t *testing.T) {
	for section, want := range map[string]string{
		"X: y\r\n":                            "X: y\n",
		"b:2\r\nA:\t1 \r\nb: 3\r\n":           "b: 2\nA: 1\nb: 3\n",
		"grpc-status: 0\r\ngrpc-message:\r\n": "grpc-status: 0\ngrpc-message: \n",
	} {
		in := "3\r\nabc\r\n0\r\n" + section + "\r\n"
		decodes(t, in, decoded{data: "abc", chunks: "3", trailers: want, taken: len(in), last: true})
		decodes(t, in+"X: z\r\n\r\n", decoded{data: "abc", chunks: "3", trailers: want, taken: len(in), last: true})
	}
}

func TestRFC9110_6_5_1_ForbiddenTrailersAreLeftOut(t *testing.T) {
	in := "0\r\nA: 1\r\n"
	for _, name := range []string{
		"Transfer-Encoding", "CONTENT-LENGTH", "host", "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade", "Expect",
	} {
		in += name + ": chunked\r\n"
	}
	in += "B: 2\r\n\r\n"
	decodes(t, in, decoded{trailers: "A: 1\nB: 2\n", taken: len(in), last: true})
}

func TestRFC9112_7_1_2_TrailersMalformed(t *testing.T) {
	for want, bad := range map[*Error][]string{
		errFieldSpace: {"X : y"},
		errFold:       {" X: y", "X: y\r\n z"},
		errFieldColon: {"X"},
		errFieldName:  {": y", "X(: y", "\x00"},
		errFieldValue: {"X: \x00", "X: a\x7f"},
	} {
		for _, line := range bad {
			malformed(t, want, "0\r\n"+line+"\r\n\r\n", "0\r\nA: b\r\n"+line+"\r\n\r\n", "0;a\r\n"+line+"\r\nA: b\r\n\r\n")
		}
	}
}

func TestRFC6585_5_TrailersTooLarge(t *testing.T) {
	longest := "0\r\nX: " + strings.Repeat("x", maxTrailers-len("X: \r\n\r\n")) + "\r\n\r\n"
	decodesLong(t, longest, decoded{trailers: longest[3:len(longest)-4] + "\n", taken: len(longest), last: true})
	decodesLong(t, "0\r\nX: x"+longest[6:], decoded{err: errTrailersLarge})
	decodesLong(t, "0\r\n"+strings.Repeat("X: y\r\n", maxTrailers), decoded{err: errTrailersLarge})
	decodesLong(t, "0\r\nX: "+strings.Repeat("x", 2*maxTrailers), decoded{err: errTrailersLarge})
}

func TestChunksKeepTheMemoryOfTrailers(t *testing.T) {
	c := Chunks{Trailers: make(message.Fields, 0, 4)}
	memory := c.Trailers[:1]
	if p, _, err := c.Next([]byte("0\r\nX: y\r\n\r\n")); !p.Last || err != nil || memory[0].Name != "X" {
		t.Errorf("%+v %v %v", p, err, memory)
	}
	for range 2 { // over is over
		if p, n, err := c.Next([]byte("5\r\nhello\r\n")); !p.Last || n != 0 || err != nil {
			t.Errorf("after the end: %+v, %d bytes, %v", p, n, err)
		}
	}
}
