package http2

import (
	"fmt"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// fieldsFrom reads lines like ":method GET".
func fieldsFrom(lines ...string) (f message.Fields) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, " ")
		f.Add(name, value)
	}
	return f
}

func with(base []string, more ...string) []string {
	return append(append([]string{}, base...), more...)
}

// without leaves out a pseudo-field.
func without(base []string, name string) (kept []string) {
	for _, l := range base {
		if !strings.HasPrefix(l, name+" ") {
			kept = append(kept, l)
		}
	}
	return kept
}

func TestRequestsThatAreInOrder(t *testing.T) {
	extended := []string{":method CONNECT", ":protocol websocket", ":scheme https", ":authority a.example", ":path /chat?x"}
	for _, c := range []struct {
		name, want string
		lines      []string
	}{
		{"RFC 9113, 8.3.1", "GET http://a.example/", get("/")},
		{"query", "GET http://a.example/a?b=c?d", get("/a?b=c?d")},
		{"an empty query", "GET http://a.example/a?", get("/a?")},
		{"two slashes", "GET http://a.example//b", get("//b")},
		{"8.3.1: Host is the authority", "GET http://b.example/ x=y", with(without(get("/"), ":authority"), "host b.example", "x y")},
		{"8.3.1: the same Host goes", "GET http://a.example/ x=y", get("/", "host a.example", "x y")},
		{"8.3.1: normalized", "GET http://a.example/", get("/", "host A.example:80")},
		{"8.3.1: no authority at all", "GET http:///", without(get("/"), ":authority")},
		{"8.3.1: OPTIONS *", "OPTIONS http://a.example*", []string{":method OPTIONS", ":scheme http", ":authority a.example", ":path *"}},
		{"8.5: CONNECT", "CONNECT a.example:443", []string{":method CONNECT", ":authority a.example:443"}},
		{"RFC 8441, 4", "CONNECT https://a.example/chat?x protocol=websocket", extended},
		{"8.2.2: te", "GET http://a.example/ te=trailers", get("/", "te trailers")},
		{"8.2.3: cookies stay apart", "GET http://a.example/ cookie=a=b cookie=c=d", get("/", "cookie a=b", "cookie c=d")},
		{"8.2.1: an empty value, and space within one", "GET http://a.example/ a= b=c d", get("/", "a ", "b c d")},
		{"IPv6", "GET http://[::1]:80/", with([]string{":method GET", ":scheme http", ":authority [::1]:80", ":path /"})},
		{"an order of their own", "GET http://a.example/", []string{":path /", ":authority a.example", ":scheme http", ":method GET"}},
		{"length", "POST http://a.example/ content-length=10", post("content-length 10")},
	} {
		var r message.Request
		if _, err := parseRequest(fieldsFrom(c.lines...), &r, 1<<10); err != nil || aboutRequest(&r, false) != c.want {
			t.Errorf("%s: %s, %v\nwant %s", c.name, aboutRequest(&r, false), err, c.want)
		}
	}
}

func TestRequestsThatAreMalformed(t *testing.T) {
	connect := []string{":method CONNECT", ":authority a.example:443"}
	extended := []string{":method CONNECT", ":protocol websocket", ":scheme http", ":authority a.example", ":path /"}
	for _, c := range []struct {
		name  string
		want  *Error
		lines []string
	}{
		{"8.2.1: a capital letter", errFieldName, get("/", "Accept x")},
		{"8.2.1: an empty name", errFieldName, get("/", " x")},
		{"8.2.1: a space in a name", errFieldName, append(get("/"), "a\tb x")},
		{"8.2.1: a colon in a name", errFieldName, get("/", "a:b x")},
		{"8.2.1: a byte above ASCII in a name", errFieldName, get("/", "\xe4 x")},
		{"8.2.1: CR", errFieldValue, get("/", "a b\rc")},
		{"8.2.1: LF", errFieldValue, get("/", "a b\nc")},
		{"8.2.1: NUL", errFieldValue, get("/", "a b\x00c")},
		{"RFC 9110, 5.5: DEL", errFieldValue, get("/", "a b\x7fc")},
		{"8.2.1: space before a value", errFieldValue, get("/", "a  b")},
		{"8.2.1: space behind a value", errFieldValue, get("/", "a b\t")},
		{"8.2.1: nothing but space", errFieldValue, get("/", "a  ")},
		{"8.2.2: connection", errFieldHop, get("/", "connection close")},
		{"8.2.2: proxy-connection", errFieldHop, get("/", "proxy-connection close")},
		{"8.2.2: keep-alive", errFieldHop, get("/", "keep-alive x")},
		{"8.2.2: transfer-encoding", errFieldHop, get("/", "transfer-encoding chunked")},
		{"8.2.2: upgrade", errFieldHop, get("/", "upgrade h2c")},
		{"8.2.2: te", errFieldHop, get("/", "te gzip")},
		{"8.2.2: te, and more", errFieldHop, get("/", "te trailers, gzip")},
		{"8.3: late", errPseudo, with([]string{"a b"}, get("/")...)},
		{"8.3: late, one", errPseudo, with(without(get("/"), ":path"), "a b", ":path /")},
		{"8.3: unknown", errPseudo, with([]string{":x y"}, get("/")...)},
		{"8.3: of a response", errPseudo, with([]string{":status 200"}, get("/")...)},
		{"8.3: repeated", errPseudo, with([]string{":path /"}, get("/")...)},
		{"8.3.1: no method", errPseudoMissing, without(get("/"), ":method")},
		{"8.3.1: no scheme", errPseudoMissing, without(get("/"), ":scheme")},
		{"8.3.1: no path", errPseudoMissing, without(get("/"), ":path")},
		{"8.3.1: an empty path", errPath, get("")},
		{"8.3.1: a path without a slash", errPath, get("a")},
		{"8.3.1: an absolute URI", errPath, get("http://a.example/")},
		{"8.3.1: * of GET", errPath, get("*")},
		{"a fragment", errPath, get("/a#b")},
		{"a space in the path", errPath, append(without(get("/"), ":path"), ":path /a b HTTP/1.1")},
		{"CR LF in the path", errPath, get("/a\r\nx:y")},
		{"a byte above ASCII in the path", errPath, get("/\xe4")},
		{"an empty method", errMethod, with([]string{":method "}, without(get("/"), ":method")...)},
		{"a space in the method", errMethod, with([]string{":method GET / HTTP/1.1"}, without(get("/"), ":method")...)},
		{"a long method", errMethod, with([]string{":method " + strings.Repeat("X", maxMethod+1)}, without(get("/"), ":method")...)},
		{"another scheme", errScheme, with(without(get("/"), ":scheme")[:1], ":scheme ftp", ":authority a.example", ":path /")},
		{"8.3.1: userinfo", errAuthority, with(without(get("/"), ":authority"), "host u@a.example")},
		{"a list of hosts", errAuthority, with(without(get("/"), ":authority"), "host a, b")},
		{"a port too large", errAuthority, with(without(get("/"), ":authority"), "host a:65536")},
		{"8.3.1: another Host", errHost, get("/", "host b.example")},
		{"8.3.1: another port", errHost, get("/", "host a.example:81")},
		{"two Hosts", errHost, get("/", "host a.example", "host a.example")},
		{"8.5: CONNECT with a path", errConnect, with(connect, ":path /")},
		{"8.5: CONNECT with a scheme", errConnect, with(connect, ":scheme http")},
		{"8.5: CONNECT without a port", errConnect, []string{":method CONNECT", ":authority a.example"}},
		{"8.5: CONNECT without an authority", errConnect, []string{":method CONNECT"}},
		{"RFC 8441, 4: without CONNECT", errProtocol, get("/")},
		{"RFC 8441, 4: without a path", errPseudoMissing, without(extended, ":path")},
		{"RFC 8441, 4: without an authority", errPseudoMissing, without(extended, ":authority")},
		{"RFC 8441, 4: an empty protocol", errProtocol, with(without(extended, ":protocol"), ":protocol ")},
		{"8.1.1: a length that is none", errLength, post("content-length x")},
		{"8.1.1: a negative length", errLength, post("content-length -1")},
		{"8.1.1: a list of lengths", errLength, post("content-length 5, 5")},
		{"8.1.1: a length above 63 bits", errLength, post("content-length 9223372036854775808")},
		{"8.1.1: two lengths", errLength, post("content-length 5", "content-length 5")},
		{"a long path", errTargetLong, get("/" + strings.Repeat("a", 1<<10))},
	} {
		lines := c.lines
		if c.name == "RFC 8441, 4: without CONNECT" {
			lines = with([]string{":protocol websocket"}, lines...)
		}
		fields := fieldsFrom(lines...)
		if c.name == "8.2.1: an empty name" {
			fields[len(fields)-1].Name = ""
		}
		var r message.Request
		if _, err := parseRequest(fields, &r, 1<<10); err != c.want {
			t.Errorf("%s: %v\nwant %v", c.name, err, c.want)
		}
	}
}

func TestResponses(t *testing.T) {
	for _, c := range []struct {
		name  string
		want  *Error
		lines []string
	}{
		{"8.3.2", nil, []string{":status 200", "a b"}},
		{"interim", nil, []string{":status 103"}},
		{"a status of no class", nil, []string{":status 999"}},
		{"8.3.2: no status", errStatus, []string{"a b"}},
		{"8.3.2: nothing", errStatus, nil},
		{"two digits", errStatus, []string{":status 20"}},
		{"a letter", errStatus, []string{":status 20x"}},
		{"a zero in front", errStatus, []string{":status 099"}},
		{"a reason", errStatus, []string{":status 200 OK"}},
		{"8.6: 101", errStatus, []string{":status 101"}},
		{"8.3: repeated", errPseudo, []string{":status 200", ":status 200"}},
		{"8.3: of a request", errPseudo, []string{":status 200", ":path /"}},
		{"8.2.2", errFieldHop, []string{":status 200", "connection close"}},
		{"8.2.1", errFieldName, []string{":status 200", "A b"}},
		{"8.1.1", errLength, []string{":status 200", "content-length x"}},
	} {
		var r message.Response
		if _, err := parseResponse(fieldsFrom(c.lines...), &r); err != c.want {
			t.Errorf("%s: %v\nwant %v", c.name, err, c.want)
		}
	}
}

// What our writers make is what our parsers take for the same, without what belongs to a connection of HTTP/1.1.
func TestBlocksOfRequests(t *testing.T) {
	for _, c := range []struct {
		r    message.Request
		want string
	}{
		{message.Request{Method: "GET", Authority: "a.example", Path: "/", HasQuery: true}, "GET http://a.example/?"},
		{message.Request{Method: "DELETE", Authority: "a.example", Path: "/a", Query: "b", HasQuery: true, Scheme: "https"}, "DELETE https://a.example/a?b"},
		{message.Request{Method: "OPTIONS", Authority: "a.example", Path: "*"}, "OPTIONS http://a.example*"},
		{message.Request{Method: "CONNECT", Authority: "a.example:443"}, "CONNECT a.example:443"},
		{message.Request{Method: "CONNECT", Authority: "a", Path: "/x", Protocol: "websocket"}, "CONNECT http://a/x protocol=websocket"},
		{message.Request{Method: "GET", Path: "/", Authority: "a", Fields: fieldsFrom(
			"Host b", "Connection close, X-Mine", "X-Mine 1", "Keep-Alive 2", "TE gzip, trailers;q=1", "Transfer-Encoding chunked",
			"Upgrade h2c", "Proxy-Connection x", "Accept */*", "Content-Length 3", "Expect 100-continue")},
			"GET http://a/ te=trailers accept=*/* content-length=3 expect=100-continue"},
		{message.Request{Method: "GET", Path: "/", Authority: "a", Fields: fieldsFrom("TE gzip", "connection a", "connection b", "a 1", "b 2", "c 3")}, "GET http://a/ c=3"},
	} {
		var got message.Request
		r := &reader{conn: &Conn{buffers: &Buffers{}, limits: Limits{}.withDefaults()}}
		fields, _, err := r.fieldsOf(AppendRequest(nil, &c.r))
		if err == nil {
			_, err = parseRequest(fields, &got, 1<<10)
		}
		if err != nil || aboutRequest(&got, false) != c.want {
			t.Errorf("%s, %v\nwant %s", aboutRequest(&got, false), err, c.want)
		}
	}
	for method, want := range map[string]asked{"GET": askedUsual, "POST": askedUsual, "HEAD": askedHead, "CONNECT": askedConnect, "HEADS": askedUsual, strings.Repeat("H", 200): askedUsual} {
		if got := methodOf(AppendRequest(nil, &message.Request{Method: method, Path: "/"})); got != want {
			t.Errorf("%s: %d", method, got)
		}
	}
}

func TestBlocksOfResponses(t *testing.T) {
	for status := range 1000 {
		if status < 100 {
			continue
		}
		block := AppendResponse(nil, &message.Response{Status: status, Fields: fieldsFrom("A b", "Content-Length 3", "Connection x", "X y")})
		var got message.Response
		r := &reader{conn: &Conn{buffers: &Buffers{}, limits: Limits{}.withDefaults()}}
		fields, _, err := r.fieldsOf(block)
		if err == nil && status != 101 {
			_, err = parseResponse(fields, &got)
		}
		want := fmt.Sprintf("%d a=b content-length=3", status)
		if status < 200 || status == 204 { // RFC 9110, 8.6
			want = fmt.Sprintf("%d a=b", status)
		}
		if about := fmt.Sprintf("%d%s", got.Status, aboutFields(got.Fields)); status != 101 && (err != nil || about != want) {
			t.Errorf("%s, %v: want %s", about, err, want)
		}
		if isInterim(block) != (status < 200) {
			t.Errorf("%d is taken for the other kind", status)
		}
	}
	fields := fieldsFrom("Grpc-Status 0", "Content-Length 3", "Host x", "Connection y", "te trailers")
	r := &reader{conn: &Conn{buffers: &Buffers{}, limits: Limits{}.withDefaults()}}
	if got, _, err := r.fieldsOf(AppendTrailers(nil, fields)); err != nil || aboutFields(got) != " grpc-status=0" {
		t.Errorf("trailers%s, %v", aboutFields(got), err)
	}
}

// RFC 9113, 8.1.1: a malformed request is a stream error.
func TestRFC9113Section8_1_1_MalformedRequestsAreReset(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.head(1, true, get("/", "connection close")...)
	p.expect("RST_STREAM 1 PROTOCOL_ERROR")
	l.expect(t, "refused 0 a field belongs to a connection of HTTP/1.1 (RFC 9113, 8.2.2)")
	p.head(3, true, post("content-length 1")...)
	p.expect("RST_STREAM 3 PROTOCOL_ERROR")
	l.expect(t, "refused 0 Content-Length is not the length of the body (RFC 9113, 8.1.1)")
	p.alive()
}

func TestRFC9113Section8_1_1_DataIsAsLongAsContentLengthSays(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.head(1, false, post("content-length 4")...)
	p.must(p.WriteData(1, false, []byte("ab")))
	p.must(p.WriteData(1, true, []byte("cd")))
	l.expect(t, "request 1 POST http://a.example/ content-length=4", `data 1 "ab"`, `data 1 "cd" end`)
	for i, body := range []string{"abcde", "abc"} {
		id := uint32(3 + 2*i)
		p.head(id, false, post("content-length 4")...)
		p.must(p.WriteData(id, true, []byte(body)))
		p.expect(fmt.Sprintf("RST_STREAM %d PROTOCOL_ERROR", id))
		l.expect(t, fmt.Sprintf("request %d POST http://a.example/ content-length=4", id), fmt.Sprintf("gone %d code=1 malformed", id))
	}
	p.head(7, false, post("content-length 4")...)
	p.head(7, true, "a b")
	p.expect("RST_STREAM 7 PROTOCOL_ERROR")
	l.expect(t, "request 7 POST http://a.example/ content-length=4", "gone 7 code=1 malformed")
	p.alive()
}

func TestRFC9113Section8_1_Trailers(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.head(1, false, post()...)
	p.must(p.WriteData(1, false, []byte("ab")))
	p.head(1, true, "grpc-status 0", "content-length 3", "host x")
	l.expect(t, "request 1 POST http://a.example/", `data 1 "ab"`, "trailers 1 grpc-status=0")
	for id, lines := range map[uint32][]string{3: {":path /"}, 5: {"A b"}} {
		_, p := serverPeer(t, Limits{}, l)
		p.head(id, false, post()...)
		p.head(id, true, lines...)
		p.expect(fmt.Sprintf("RST_STREAM %d PROTOCOL_ERROR", id))
		l.expect(t, fmt.Sprintf("request %d POST http://a.example/", id), fmt.Sprintf("gone %d code=1 malformed", id))
	}
	p.head(7, false, post()...)
	p.head(7, false, "a b")
	p.expect("RST_STREAM 7 PROTOCOL_ERROR")
	l.expect(t, "request 7 POST http://a.example/", "gone 7 code=1 malformed")
}

func TestRFC6585Section5_FieldsThatAreTooLarge(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{HeaderList: 8 << 10}, l)
	block := append([]byte(nil), p.fields(get("/", "a "+strings.Repeat("x", 10<<10), "indexed later")...)...)
	p.must(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:1000], EndStream: true}))
	p.must(p.WriteContinuation(1, true, block[1000:]))
	p.expect("HEADERS 1 [:status 431] end")
	l.expect(t, "refused 431 the fields are too large (RFC 6585, 5)")
	p.head(3, true, get("/", "indexed later")...) // the table is as the client thinks
	l.expect(t, "request 3 GET http://a.example/ indexed=later end")
	p.head(5, true, get("/"+strings.Repeat("x", 1000))...)
	l.expect(t, "request 5 GET http://a.example/"+strings.Repeat("x", 1000)+" end")
	_, p = serverPeer(t, Limits{Target: 1000}, l)
	p.head(1, true, get("/"+strings.Repeat("x", 1000))...)
	p.expect("HEADERS 1 [:status 414] end")
}

// RFC 9113, 8.1 and 8.1.1, of responses.
func TestRFC9113Section8_1_Responses(t *testing.T) {
	head := message.Request{Method: "HEAD", Authority: "a", Path: "/"}
	get := message.Request{Method: "GET", Authority: "a", Path: "/"}
	for _, c := range []struct {
		name string
		r    *message.Request
		say  func(p *peer)
		want []string
	}{
		{"interim, then final", &get, func(p *peer) {
			p.head(1, false, ":status 103", "link x")
			p.head(1, false, ":status 200")
			p.must(p.WriteData(1, true, []byte("ab")))
		}, []string{"response 1 103 link=x", "response 1 200", `data 1 "ab" end`}},
		{"trailers only", &get, func(p *peer) { p.head(1, true, ":status 200", "grpc-status 5") }, []string{"response 1 200 grpc-status=5 end"}},
		{"HEAD with a length", &head, func(p *peer) { p.head(1, true, ":status 200", "content-length 5") }, []string{"response 1 200 content-length=5 end"}},
		{"304 with a length", &get, func(p *peer) { p.head(1, true, ":status 304", "content-length 5") }, []string{"response 1 304 content-length=5 end"}},
		{"interim that ends", &get, func(p *peer) { p.head(1, true, ":status 100") }, []string{"gone 1 code=1 malformed"}},
		{"101", &get, func(p *peer) { p.head(1, false, ":status 101") }, []string{"gone 1 code=1 malformed"}},
		{"data before the head", &get, func(p *peer) { p.must(p.WriteData(1, true, []byte("ab"))) }, []string{"gone 1 code=1 malformed"}},
		{"data after interim", &get, func(p *peer) {
			p.head(1, false, ":status 100")
			p.must(p.WriteData(1, true, []byte("ab")))
		}, []string{"response 1 100", "gone 1 code=1 malformed"}},
		{"a body of HEAD", &head, func(p *peer) {
			p.head(1, false, ":status 200")
			p.must(p.WriteData(1, true, []byte("ab")))
		}, []string{"response 1 200", "gone 1 code=1 malformed"}},
		{"a body of 204", &get, func(p *peer) {
			p.head(1, false, ":status 204")
			p.must(p.WriteData(1, true, []byte("ab")))
		}, []string{"response 1 204", "gone 1 code=1 malformed"}},
		{"too short", &get, func(p *peer) {
			p.head(1, false, ":status 200", "content-length 3")
			p.must(p.WriteData(1, true, []byte("ab")))
		}, []string{"response 1 200 content-length=3", "gone 1 code=1 malformed"}},
		{"too short at once", &get, func(p *peer) { p.head(1, true, ":status 200", "content-length 3") }, []string{"gone 1 code=1 malformed"}},
		{"too large", &get, func(p *peer) { p.head(1, true, ":status 200", "a "+strings.Repeat("x", 15<<10)) }, []string{"gone 1 code=11 malformed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLog()
			s, p := clientPeer(t, Limits{HeaderList: 8 << 10})
			l.open(t, s.Conn, true, c.r)
			if got := p.next(); !strings.HasPrefix(got, "HEADERS 1") {
				t.Fatal(got)
			}
			c.say(p)
			l.expect(t, c.want...)
			if strings.Contains(c.want[len(c.want)-1], "gone") {
				if got := p.next(); !strings.HasPrefix(got, "RST_STREAM 1") {
					t.Error(got)
				}
			}
			p.alive()
			if s.Streams() != 0 {
				t.Error("the stream is left")
			}
		})
	}
}
