package http1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

func TestRFC9112_9_3_Persistence(t *testing.T) {
	get10 := func(fields ...string) string { return "GET / HTTP/1.0\r\n" + head(fields...) }
	accepted(t, parseRequest,
		[2]string{post("Connection: close"), "POST a / close"},
		[2]string{post("Connection: Close"), "POST a / close"},
		[2]string{post("Connection: keep-alive"), "POST a / keep-alive"},
		[2]string{post("Connection: x, CLOSE ,y"), "POST a / close"},
		[2]string{post("Connection: keep-alive, close"), "POST a / close keep-alive"},
		[2]string{post("Connection: x", "Connection: close"), "POST a / close"},
		[2]string{post("Connection: close", "Connection: x"), "POST a / close"},
		[2]string{post("Connection: closed"), "POST a /"},
		[2]string{post("Connection: clos"), "POST a /"},
		[2]string{post("Connection: \"close\""), "POST a /"},
		[2]string{post("Keep-Alive: timeout=5"), "POST a /"},
		[2]string{post("Proxy-Connection: close"), "POST a /"}, // is no field of HTTP (appendix C.2.2)
		[2]string{get10("X: y"), "GET - / 1.0 close"},
		[2]string{get10("Connection: keep-alive"), "GET - / 1.0 keep-alive"},
		[2]string{get10("Connection: Keep-Alive", "Connection: x"), "GET - / 1.0 keep-alive"},
		[2]string{get10("Connection: keep-alive, close"), "GET - / 1.0 close keep-alive"},
		[2]string{get10("Keep-Alive: 300"), "GET - / 1.0 close"},
		[2]string{get10("Proxy-Connection: keep-alive"), "GET - / 1.0 close"},
	)
	accepted(t, responseTo("GET"),
		[2]string{answer("Content-Length: 0", "Connection: close"), "200 OK close"},
		[2]string{answer("Content-Length: 0", "Connection: keep-alive"), "200 OK keep-alive"},
		[2]string{head("HTTP/1.0 200 OK", "Content-Length: 0"), "200 OK 1.0 close"},
		[2]string{head("HTTP/1.0 200 OK", "Content-Length: 0", "Connection: keep-alive"), "200 OK 1.0 keep-alive"},
		[2]string{head("HTTP/1.0 204 No Content", "Connection: keep-alive"), "204 No Content 1.0 keep-alive"},
	)
}

// rest is what is left of the fields after the parser.
func rest(t *testing.T, in string) string {
	t.Helper()
	parse := parseRequest
	if strings.HasPrefix(in, "HTTP/") {
		parse = responseTo("GET")
	}
	got := parse([]byte(in))
	if got.err != nil || got.n != len(in) {
		t.Errorf("%q: %+v", in, got)
	}
	splits(t, parse, in)
	return got.fields
}

func TestRFC9110_7_6_1_FieldsNamedByConnection(t *testing.T) {
	for in, want := range map[string]string{
		post("A: 1", "X: 2", "B: 3", "Connection: x"):                         "Host: a\nA: 1\nB: 3\nConnection: x\n",
		post("Connection: x, Y", "x: 1", "A: 2", "X: 3", "y: 4"):              "Host: a\nConnection: x, Y\nA: 2\n",
		post("X: 1", "Connection: x", "Y: 2", "connection:y", "A: 3"):         "Host: a\nConnection: x\nconnection: y\nA: 3\n",
		post("Connection: close, ,x,", "X: 1", "XX: 2"):                       "Host: a\nConnection: close, ,x,\nXX: 2\n",
		post("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAA"): "Host: a\nConnection: Upgrade, HTTP2-Settings\n",
		post("Connection: expect", "Expect: 100-continue"):                    "Host: a\nConnection: expect\n",
		post("Connection: x y", "X: 1"):                                       "Host: a\nConnection: x y\nX: 1\n", // names no field
		// What says where the message ends and where it goes is never left out, or the next hop would be told something else.
		post("Connection: Content-Length, Host, Transfer-Encoding", "Content-Length: 5"): "Host: a\nConnection: Content-Length, Host, Transfer-Encoding\nContent-Length: 5\n",
		answer("Connection: X, content-length", "X: 1", "Content-Length: 5"):             "Connection: X, content-length\nContent-Length: 5\n",
	} {
		if got := rest(t, in); got != want {
			t.Errorf("of %q is left\n%q, want\n%q", in, got, want)
		}
	}
}

// A client must not be able to take away what a filter adds.
func TestRFC9110_7_6_1_NamedFieldsGoBeforeFilters(t *testing.T) {
	var req message.Request
	in := post("Connection: x-user", "X-User: root")
	n, h, err := ParseRequest([]byte(in), &req, limits)
	if n != len(in) || err != nil {
		t.Fatal(n, err)
	}
	req.Fields.Set("X-User", "nobody")
	want := head("POST / HTTP/1.1", "Host: a", "X-User: nobody")
	if got := string(AppendRequest(nil, &req, &h)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRFC9110_7_6_1_TooManyNames(t *testing.T) {
	var names []string
	for i := range maxNamed {
		names = append(names, fmt.Sprintf("x%d", i))
	}
	most := strings.Join(names, ",")
	accepted(t, parseRequest, [2]string{post("Connection: close,te,keep-alive,Upgrade," + most), "POST a / close keep-alive"})
	for _, fields := range [][]string{
		{"Connection: " + most + ",x"},
		{"Connection: " + most, "Connection: x"},
		{"Connection: " + strings.Repeat("x,", maxNamed+1)},
	} {
		refused(t, parseRequest, errOptions, post(fields...))
		refused(t, responseTo("GET"), errOptions, answer(fields...))
	}
}

func TestRFC9110_7_8_TooManyProtocols(t *testing.T) {
	long := strings.Repeat("u", maxUpgrade)
	accepted(t, parseRequest, [2]string{post("Connection: Upgrade", "Upgrade: "+long+"u"), "POST a / upgrade=" + long + "u"}) // one line costs nothing
	accepted(t, parseRequest, [2]string{post("Connection: Upgrade", "Upgrade: u", "Upgrade: "+long[1:]), "POST a / upgrade=u, " + long[1:]})
	refused(t, parseRequest, errUpgrade, post("Upgrade: u", "Upgrade: "+long), post(strings.Repeat("Upgrade: u\r\n", maxUpgrade)+"X: y"))
	refused(t, responseTo("GET"), errUpgrade, answer("Upgrade: u", "Upgrade: "+long))
}

func TestRFC9110_10_1_4_TE(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{post("TE: trailers", "Connection: TE"), "POST a / trailers"},
		[2]string{post("te: Trailers"), "POST a / trailers"},
		[2]string{post("TE: gzip;q=0.5, trailers ;x"), "POST a / trailers"},
		[2]string{post("TE: gzip", "TE: trailers"), "POST a / trailers"},
		[2]string{post("TE: trailers", "TE: gzip"), "POST a / trailers"},
		[2]string{post("TE: trailer"), "POST a /"},
		[2]string{post("TE: gzip;trailers"), "POST a /"},
		[2]string{post("TE:"), "POST a /"},
		[2]string{post("Trailer: trailers"), "POST a /"},
	)
}

func TestRFC9110_7_8_Upgrade(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{post("Upgrade: websocket", "Connection: Upgrade"), "POST a / upgrade=websocket"},
		[2]string{post("Connection: keep-alive, upgrade", "upgrade: WebSocket"), "POST a / keep-alive upgrade=WebSocket"},
		[2]string{post("Connection: x", "Connection: Upgrade", "Upgrade: spdy/3.1"), "POST a / upgrade=spdy/3.1"},
		[2]string{post("Upgrade: a/1", "Upgrade: b", "Connection: Upgrade"), "POST a / upgrade=a/1, b"},
		[2]string{post("Upgrade: websocket"), "POST a /"}, // Connection has to name it
		[2]string{post("Upgrade: websocket", "Connection: Upgrades"), "POST a /"},
		[2]string{post("Connection: Upgrade"), "POST a /"},
		[2]string{post("Connection: Upgrade", "Upgrade:"), "POST a /"},
		[2]string{"GET / HTTP/1.0\r\n" + head("Upgrade: websocket", "Connection: Upgrade"), "GET - / 1.0 close"}, // is ignored of 1.0
	)
	accepted(t, responseTo("GET"),
		[2]string{"HTTP/1.1 101 Switching\r\n" + head("Upgrade: websocket", "Connection: Upgrade"), "101 Switching upgrade=websocket"},
		[2]string{"HTTP/1.1 426 Upgrade Required\r\n" + head("Upgrade: h2c, x", "Connection: Upgrade", "Content-Length: 0"), "426 Upgrade Required upgrade=h2c, x"},
		[2]string{"HTTP/1.0 101 Switching\r\n" + head("Upgrade: websocket", "Connection: Upgrade"), "101 Switching 1.0 close"},
	)
}

func TestUpgradeThatNobodyMeansIsLeftOut(t *testing.T) {
	for offer, want := range map[string]string{
		"h2c":                              "",
		"H2C":                              "",
		"TLS/1.2":                          "",
		"TLS/1.2, HTTP/1.1":                "",
		"tls":                              "",
		"HTTP/2.0":                         "",
		"h2c, websocket":                   "websocket",
		"websocket , h2c,\tspdy/3,TLS/1.0": "websocket, spdy/3",
		"websocket,h2c,":                   "websocket",
		"h2":                               "h2", // over TCP nobody offers it by mistake
		"h2cx":                             "h2cx",
		"tlsx/1":                           "tlsx/1",
		"xh2c":                             "xh2c",
		"spdy/3":                           "spdy/3",
		"websocket,  x":                    "websocket,  x", // without a change it stays as it is
	} {
		said := "POST a /"
		if want != "" {
			said += " upgrade=" + want
		}
		accepted(t, parseRequest, [2]string{post("Connection: Upgrade", "Upgrade: "+offer), said})
	}
	// A response says what has been agreed on.
	accepted(t, responseTo("GET"), [2]string{"HTTP/1.1 101 X\r\n" + head("Upgrade: h2c", "Connection: Upgrade"), "101 X upgrade=h2c"})
}
