package forward

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// gRPC's answers of our own (B-24): one HEADERS frame with END_STREAM, HTTP 200, and the status that the case has.
func TestB24AnswersOfGRPC(t *testing.T) {
	inTable := func(rules ...model.Rule) *model.RouteTable {
		for i := range rules {
			rules[i].Route.Kind = "GRPCRoute"
			rules[i].Matches = []model.Match{{RPC: &model.RPCMatch{Type: model.Exact, Service: "shop.Cart"}}}
		}
		table := routes(rules...)
		table.GRPC = true
		return table
	}
	invalid := to(webKey)
	invalid.Invalid = "no such Service"
	nothing := inTable()
	for _, c := range []struct {
		rule    string
		table   *model.RouteTable
		path    string
		code    int
		message string
		failure string
	}{
		{"B-20, A-42", inTable(ruleFor("/", to(webKey))), "/shop.Other/Add", 12, "no rule of the routes of the Service matches the request", noMatch},
		{"A-46", nothing, "/shop.Cart/Add", 12, "no rule of the routes of the Service matches the request", noMatch},
		{"B-21 invalid", inTable(ruleFor("/", invalid)), "/shop.Cart/Add", 14, "no such Service", invalidBackend},
		{"B-21 no endpoint", inTable(ruleFor("/", to(webKey))), "/shop.Cart/Add", 14, "the backend has no endpoint that is ready", noEndpoint},
		{"B-22", inTable(ruleFor("/")), "/shop.Cart/Add", 14, "the rule has no backend", noBackend},
		{"B-25 no match", routes(ruleFor("/other", to(webKey))), "/shop.Cart/Add", 12, "no rule of the routes of the Service matches the request", noMatch},
		{"B-25 no endpoint", everything(), "/shop.Cart/Add", 14, "the backend has no endpoint that is ready", noEndpoint},
		{"B-25 fails", routes(failing(500, "100% \u00fc")), "/shop.Cart/Add", 14, "100%25 %C3%BC", ruleFails},
	} {
		t.Run(c.rule, func(t *testing.T) {
			l := newLab(t, c.table, Limits{})
			client := l.h2()
			client.ask(1, "POST", c.path, true, "content-type=application/grpc+proto", "te=trailers")
			client.want(grpcRefusal(1, c.code, c.message))
			if r := l.record(); r.Status != 200 || r.GRPC != fmt.Sprint(c.code) || r.Failure != c.failure {
				t.Errorf("recorded %+v", r)
			}
			old := l.dial() // and over HTTP/1.1
			old.send("POST " + c.path + " HTTP/1.1\r\nHost: web\r\nContent-Type: application/grpc\r\n\r\n")
			old.want(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: %d\r\nGrpc-Message: sluice: %s\r\nContent-Length: 0\r\n\r\n", c.code, c.message))
			client.ask(3, "GET", c.path, true) // who speaks no gRPC gets HTTP's
			if line, err := client.frame(); err != nil || strings.Contains(line, "grpc-status") || !strings.Contains(line, "content-type=text/plain") {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
}

// plain HTTP does not match on a GRPCRoute's table.
func TestA54PlainHTTPOnAGRPCTable(t *testing.T) {
	l := newLab(t, grpcTable(), Limits{})
	b := l.origin()
	c := l.h2()
	c.ask(1, "POST", "/shop.Cart/Add", true, "content-type=application/json")
	c.want(refusal(1, 404, "no rule of the routes of the Service matches the request"))
	old := l.dial()
	old.send("GET /shop.Cart/Add HTTP/1.1\r\nHost: web\r\n\r\n")
	old.wantRefusal(404, "no rule", false)
	b.untouched()
}

// The status of a call is recorded from trailers, and from heads that have nothing behind them.
func TestStatusOfGRPCIsRecorded(t *testing.T) {
	l := newLab(t, grpcTable(), Limits{})
	b := l.origin()
	c := l.h2()
	grpc := []string{"content-type=application/grpc"}
	c.ask(1, "POST", "/shop.Cart/Add", true, grpc...)
	up := b.h2()
	up.want(asked(1, "POST", "/shop.Cart/Add", true, grpc...))
	up.head(1, false, ok200, "content-type=application/grpc")
	up.data(1, "x", false)
	up.head(1, true, "grpc-status=7", "grpc-message=no")
	c.want(headLine(1, false, ok200, "content-type=application/grpc"), "DATA 1 x", headLine(1, true, "grpc-status=7", "grpc-message=no"))
	c.ask(3, "POST", "/shop.Cart/Add", true, grpc...)
	up.want(asked(3, "POST", "/shop.Cart/Add", true, grpc...))
	up.head(3, true, ok200, "grpc-status=0")
	c.want(headLine(3, true, ok200, "grpc-status=0"))
	c.ask(5, "POST", "/shop.Cart/Add", true, grpc...)
	up.want(asked(5, "POST", "/shop.Cart/Add", true, grpc...))
	up.head(5, true, ok200, "grpc-status=99") // none that exists
	c.want(headLine(5, true, ok200, "grpc-status=99"))
	for _, want := range []string{"7", "0", "2"} {
		if r := l.record(); r.GRPC != want || r.Failure != "" {
			t.Errorf("recorded %+v, want the status %s", r, want)
		}
		if n := l.metric("sluice_requests_total", want); n != 1 && want != "0" { // which is a rule's name, too
			t.Errorf("%v requests have the status %s in the metrics", n, want)
		}
	}
}
