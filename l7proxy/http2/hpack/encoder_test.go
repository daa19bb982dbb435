package hpack

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// means holds what others read in a block, and that no table is needed for it.
func means(t *testing.T, block []byte, want ...message.Field) {
	t.Helper()
	got, err := newReader(0).decode(block)
	if err != nil {
		t.Errorf("%x: %v", block, err)
	}
	same(t, "another implementation", got, append(message.Fields{}, want...))
	d := NewDecoder(0)
	same(t, "ours", decode(t, d, block), append(message.Fields{}, want...))
}

func is(t *testing.T, block []byte, wire string) {
	t.Helper()
	if want := unhex(t, wire); !bytes.Equal(block, want) {
		t.Errorf("%x, want %x", block, want)
	}
}

// RFC 7541, 6.1 and appendix A: what the static table has whole is one byte.
func TestPseudoFieldsOfTheStaticTable(t *testing.T) {
	is(t, AppendMethod(nil, "GET"), "82")
	is(t, AppendMethod(nil, "POST"), "83")
	is(t, AppendPath(nil, "/", "", false), "84")
	is(t, AppendPath(nil, "/index.html", "", false), "85")
	is(t, AppendScheme(nil, "http"), "86")
	is(t, AppendScheme(nil, "https"), "87")
	for wire, status := range map[string]int{"88": 200, "89": 204, "8a": 206, "8b": 304, "8c": 400, "8d": 404, "8e": 500} {
		is(t, AppendStatus(nil, status), wire)
	}
	is(t, AppendIndexed(nil, 61), "bd")
}

// RFC 7541, 6.2.2: all else is literal, without indexing.
func TestPseudoFields(t *testing.T) {
	for _, m := range []string{"PUT", "get", "GETS", "OPTIONS", "CONNECT", strings.Repeat("M", 300)} {
		means(t, AppendMethod(nil, m), message.Field{Name: ":method", Value: m})
	}
	for _, s := range []string{"ftp", "HTTP", "", "httpx"} {
		means(t, AppendScheme(nil, s), message.Field{Name: ":scheme", Value: s})
	}
	for _, a := range []string{"", "a", "www.example.com:80", strings.Repeat("a", 127), strings.Repeat("a", 128)} {
		means(t, AppendAuthority(nil, a), message.Field{Name: ":authority", Value: a})
	}
	for _, p := range []struct {
		path, query string
		has         bool
		want        string
	}{
		{"/", "", true, "/?"},
		{"/", "a=b", true, "/?a=b"},
		{"/index.html", "", true, "/index.html?"},
		{"/index.htm", "", false, "/index.htm"},
		{"*", "", false, "*"},
		{"/a", "ignored", false, "/a"},
		{"/" + strings.Repeat("a", 62), strings.Repeat("b", 62), true, "/" + strings.Repeat("a", 62) + "?" + strings.Repeat("b", 62)},
		{"/" + strings.Repeat("a", 63), strings.Repeat("b", 62), true, "/" + strings.Repeat("a", 63) + "?" + strings.Repeat("b", 62)},
	} {
		means(t, AppendPath(nil, p.path, p.query, p.has), message.Field{Name: ":path", Value: p.want})
	}
	for status := 100; status <= 999; status++ {
		means(t, AppendStatus(nil, status), message.Field{Name: ":status", Value: string([]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)})})
	}
}

// RFC 7541, 6.2.2 and 6.2.3; RFC 9113, 8.2.1: names in lower case, and values as they are.
func TestAppendField(t *testing.T) {
	is(t, AppendField(nil, &message.Field{Name: "X", Value: "Y"}), "00 0178 0159")
	is(t, AppendField(nil, &message.Field{Name: "X", Value: "Y", Sensitive: true}), "10 0178 0159")
	is(t, AppendField(nil, &message.Field{Name: "Accept-Charset"}), "0f00 00")
	is(t, AppendField(nil, &message.Field{Name: "cookie", Value: "Y", Sensitive: true}), "1f11 0159")
	random := rand.New(rand.NewPCG(9, 10))
	for range 3000 {
		f := message.Field{Value: randomBytes(random), Name: randomBytes(random), Sensitive: random.IntN(2) == 0}
		if random.IntN(2) == 0 {
			f.Name = static[1+random.IntN(staticLen)].Name
		}
		want := f
		want.Name = lower(f.Name)
		upper := f
		upper.Name = strings.Map(func(r rune) rune {
			if 'a' <= r && r <= 'z' && random.IntN(2) == 0 {
				return r - 'a' + 'A'
			}
			return r
		}, f.Name)
		means(t, AppendField(nil, &f), want)
		if strings.ToValidUTF8(f.Name, "") == f.Name {
			means(t, AppendField(nil, &upper), want)
		}
	}
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return string(b)
}

func randomBytes(random *rand.Rand) string {
	b := make([]byte, random.IntN(1<<random.IntN(9)))
	for i := range b {
		b[i] = byte(random.IntN(256))
	}
	return string(b)
}

// What was there before stays, and each appends behind it.
func TestAppendsBehindWhatIsThere(t *testing.T) {
	var b []byte
	b = AppendTableSizeUpdate(b, 0)
	b = AppendMethod(b, "GET")
	b = AppendScheme(b, "http")
	b = AppendPath(b, "/a", "b", true)
	b = AppendAuthority(b, "c")
	b = AppendField(b, &message.Field{Name: "D", Value: "e"})
	b = AppendIndexed(b, 16)
	b = AppendStatus(b, 418)
	means(t, b, fields(":method: GET", ":scheme: http", ":path: /a?b", ":authority: c", "d: e", "accept-encoding: gzip, deflate", ":status: 418")...)
}

// RFC 7541, 6.3.
func TestAppendTableSizeUpdate(t *testing.T) {
	is(t, AppendTableSizeUpdate(nil, 0), "20")
	is(t, AppendTableSizeUpdate(nil, 30), "3e")
	is(t, AppendTableSizeUpdate(nil, 31), "3f00")
	is(t, AppendTableSizeUpdate(nil, 4096), "3fe11f")
}
