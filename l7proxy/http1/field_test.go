package http1

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// both tries field lines in a request and in a response.
func both(t *testing.T, want *Error, fields ...string) {
	t.Helper()
	for _, f := range fields {
		refused(t, parseRequest, want, head("GET / HTTP/1.1", "Host: a", f), head("GET / HTTP/1.1", f, "Host: a"))
		refused(t, responseTo("GET"), want, head("HTTP/1.1 200 OK", f), head("HTTP/1.1 200 OK", "X: y", f, "Content-Length: 0"))
	}
}

func TestRFC9112_5_FieldLines(t *testing.T) {
	in := head("GET / HTTP/1.1", "B:2", "a: 1", "Host:\ta\t ", "b: \t two  words\tand a tab \t", "Empty:", "Spaces:  \t", "!#$%&'*+-.^_`|~09aZ: t",
		"Colons: a:b::c", "Latin: caf\xe9 \x80\xff", "Eight: 12345678", "Nine: 123456789", "Tabs: a\tb\tcdefgh\tijk", "B: 3")
	want := "B: 2\na: 1\nHost: a\nb: two  words\tand a tab\nEmpty: \nSpaces: \n!#$%&'*+-.^_`|~09aZ: t\n" +
		"Colons: a:b::c\nLatin: caf\xe9 \x80\xff\nEight: 12345678\nNine: 123456789\nTabs: a\tb\tcdefgh\tijk\nB: 3\n"
	if got := parseRequest([]byte(in)); got.fields != want {
		t.Errorf("the order or the spelling changed:\n got %q, error %v\nwant %q", got.fields, got.err, want)
	}
	splits(t, parseRequest, in)
	in = strings.Replace(in, "GET / HTTP/1.1", "HTTP/1.1 204 No Content", 1)
	if got := responseTo("GET")([]byte(in)); got.fields != want {
		t.Errorf("the order or the spelling changed:\n got %q, error %v\nwant %q", got.fields, got.err, want)
	}
	splits(t, responseTo("GET"), in)
}

func TestRFC9112_5_ColonMissing(t *testing.T) { both(t, errFieldColon, "X", "Host", "Content-Length") }

func TestRFC9112_5_1_SpaceBeforeColon(t *testing.T) {
	both(t, errFieldSpace, "X : y", "X\t: y", "X  \t : y", "X y: z", "Content-Length : 5", "Transfer-Encoding : chunked", "Host : a", "X ", "X y")
}

func TestRFC9112_5_2_Folds(t *testing.T) {
	both(t, errFold, " X: y", "\tX: y", "X: y\r\n z", "X: y\r\n\tz", "X:\r\n chunked", "X:\r\n \r\nY: z", " ", "\t")
}

func TestRFC9112_5_1_NameMalformed(t *testing.T) {
	both(t, errFieldName, ":", ": y", "X(: y", "X,Y: z", "X/Y: z", "X;: y", "X\"Y\": z", "[X]: y", "X{}: y", "X\\: y", "X=1: y", "X@: y", "X?: y", "<X>: y",
		"N\xc3\xa9: y", "X\x80: y", "\xffX: y", "{")
	for c := range 256 {
		b := byte(c)
		if !syntax.Is(b, syntax.TokenByte) && !syntax.IsSpace(b) && b != ':' && b != '\r' && b != '\n' {
			both(t, errFieldName, "X"+string([]byte{b})+"Y: z")
		}
	}
}

// Which bytes a token has is written down here once more, as RFC 9110, 5.6.2 lists them.
func TestRFC9110_5_6_2_Tokens(t *testing.T) {
	const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for c := range 256 {
		if got, want := syntax.Is(byte(c), syntax.TokenByte), strings.IndexByte(token, byte(c)) >= 0; got != want {
			t.Errorf("%q in a token: %v, want %v", byte(c), got, want)
		}
		if got, want := syntax.Is(byte(c), syntax.TargetByte), c > 0x20 && c < 0x7f && c != '#'; got != want {
			t.Errorf("%q in a target: %v, want %v", byte(c), got, want)
		}
	}
}

func TestRFC9110_5_5_ControlCharacters(t *testing.T) {
	for c := range 0x80 {
		b := string([]byte{byte(c)})
		if c >= 0x20 && c != 0x7f || strings.Contains("\t\r\n", b) {
			continue
		}
		// At each place of the eight bytes that are looked at together, and behind them.
		for at := range 18 {
			both(t, errFieldValue, "X: "+strings.Repeat("v", at)+b+strings.Repeat("v", 17-at))
		}
		both(t, errFieldValue, "X: \t"+b, "X:"+b, "X: a\tb\tc\t"+b+"\t")
	}
}

func TestControlAgreesWithTheSlowWay(t *testing.T) {
	for c := range 256 {
		for d := range 256 {
			for at := range 9 {
				in := []byte("0123456789abcdefg")
				in[at], in[at+8] = byte(c), byte(d)
				want := bytes.IndexFunc(in, func(r rune) bool { return r < 0x80 && isControl(byte(r)) })
				if want < 0 {
					want = len(in)
				}
				if got := control(in); got != want {
					t.Fatalf("control(%q) is %d, want %d", in, got, want)
				}
			}
		}
	}
}

// Nothing that ends a line for one reader and not for another one gets through, wherever it is.
func TestRFC9112_2_2_BareCROrLFAnywhere(t *testing.T) {
	for _, c := range []struct {
		parse parser
		in    string
	}{
		{parseRequest, head("POST /p?q HTTP/1.1", "Host: a", "Content-Length: 5", "X: y z", "Empty:")},
		{responseTo("GET"), head("HTTP/1.1 200 Fine So", "Content-Length: 5", "X: y z", "Empty:")},
	} {
		parse, in := c.parse, c.in
		if whole := parse([]byte(in)); whole.err != nil || whole.n != len(in) {
			t.Fatalf("%q: %+v", in, whole)
		}
		for i := range len(in) - 1 {
			for _, bad := range []string{
				in[:i] + "\r" + in[i:],
				in[:i] + "\n" + in[i:],
				in[:i] + "\n\n" + in[i:],
				in[:i] + "\x00" + in[i:],
				in[:i] + "\r" + in[i+1:],
				in[:i] + "\n" + in[i+1:],
				in[:i] + "\x00" + in[i+1:],
				in[:i] + "\x0b" + in[i+1:],
			} {
				if got := parse([]byte(bad)); got.n != 0 && bad != in {
					t.Errorf("%q is accepted: %+v", bad, got)
				}
				splits(t, parse, bad)
			}
		}
	}
}

func TestRFC9112_2_2_LineEnds(t *testing.T) {
	both(t, errLineEnd, "X: y\nZ: z", "X\n", "X: y\n", "X:\n", "X: y\n\r", "\n")
	both(t, errBareCR, "X: y\rz", "X: y\r\rz", "X: y\r", "X\rY: z", "\rX: y", "X:\ry", "\r")
}

func TestErrorsSayTheRule(t *testing.T) {
	for _, e := range []*Error{errTargetLong, errVersion, errHeadLarge, errCodingUnknown, errLengthTwice, ErrHeadTime, errTrailersLarge, errOptions} {
		if want := fmt.Sprintf("%s (%s)", e.Reason, e.Rule); e.Error() != want || !strings.HasPrefix(e.Rule, "RFC ") {
			t.Errorf("%+v says %q", e, e.Error())
		}
	}
	if e := (&Error{Reason: "why"}); e.Error() != "why" {
		t.Errorf("without a rule it says %q", e.Error())
	}
	for e, status := range map[*Error]int{errTargetLong: 414, errHeadLarge: 431, errTrailersLarge: 431, errCodingUnknown: 501, errVersion: 505, ErrHeadTime: 408, errLengthTwice: 400} {
		if e.Status != status {
			t.Errorf("%v is answered %d, not %d", e, e.Status, status)
		}
	}
}
