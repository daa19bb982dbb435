package explain_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/cli/explain"
	"github.com/sluice-mesh/sluice/cli/inforce"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

// all wants every route.
func all(model.RouteRef) bool { return true }

func view(t *testing.T, dir string) *inforce.View {
	t.Helper()
	v, err := inforce.Folder{Dir: dir, ReferenceGrants: true}.Read()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("it is not what %s has (-want +got):\n%s", file, diff)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

// request reads "GET /path?query" and fields as "name: value".
func request(line string, fields ...string) *message.Request {
	r := &message.Request{}
	r.Method, r.Path, _ = strings.Cut(line, " ")
	r.Path, r.Query, r.HasQuery = strings.Cut(r.Path, "?")
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		if name == "host" {
			r.Authority = value
			continue
		}
		r.Fields.Add(name, value)
	}
	return r
}

func call(path string, fields ...string) *message.Request {
	return request("POST "+path, append(fields, "content-type: application/grpc")...)
}

// ask is a question: client as NAMESPACE[/POD], Service as NAMESPACE/NAME[:PORT].
func ask(t *testing.T, v *inforce.View, client, to string, r *message.Request) *explain.Answer {
	t.Helper()
	q := explain.Question{Request: r}
	q.Namespace, q.Pod, _ = strings.Cut(client, "/")
	to, q.Port, _ = strings.Cut(to, ":")
	q.Service.Namespace, q.Service.Name, _ = strings.Cut(to, "/")
	a, err := explain.Explain(v, q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRoutesGolden(t *testing.T) {
	for name, dir := range map[string]string{"examples": "../../examples", "shop": "testdata/shop"} {
		r := explain.Routes(view(t, dir), all)
		golden(t, "routes-"+name+".txt", r.String())
		golden(t, "routes-"+name+".json", asJSON(t, r))
		if r.Good != (name == "examples") {
			t.Errorf("%s is good: %v", name, r.Good)
		}
	}
}

func TestExplainGolden(t *testing.T) {
	examples, shop := view(t, "../../examples"), view(t, "testdata/shop")
	for _, c := range []struct {
		name       string
		view       *inforce.View
		client, to string
		request    *message.Request
		applies    bool
	}{
		{"example-canary", examples, "demo/client", "demo/web", request("GET /", "x-canary: true"), true},
		{"example-split", examples, "demo", "demo/web:80", request("GET /?a=b", "x-canary: no"), true},
		{"example-call", examples, "demo", "demo/echo-grpc", call("/echo.Echo/Say"), true},
		{"cart", shop, "shop", "shop/web:80", request("GET /cart/1", "x-version: 2", "x-all: 1"), true},
		{"basket", shop, "shop", "shop/web:http", request("GET /basket?id=7"), true},
		{"preflight", shop, "shop", "shop/web:80", request("OPTIONS /basket?id=7", "origin: https://a.shop.example", "access-control-request-method: PUT"), true},
		{"item", shop, "shop", "shop/web:80", request("GET /item/1/x"), true},
		{"secret", shop, "shop", "shop/web:80", request("GET /secret/x"), true},
		{"old", shop, "shop", "shop/web:8000", request("GET /old/a?b=c"), true},
		{"moved", shop, "shop", "shop/web:80", request("GET /moved", "host: any.example"), true},
		{"no-backend", shop, "shop", "shop/web:80", request("GET /empty"), true},
		{"no-weight", shop, "shop", "shop/web:80", request("GET /none"), true},
		{"no-rule", shop, "shop", "shop/web:80", request("PUT /"), false},
		{"consumer", shop, "far", "shop/web:80", request("GET /far"), true},
		{"consumer-no-rule", shop, "far", "shop/web:80", request("GET /cart"), false}, // no fall-through
		{"consumer-other-port", shop, "far", "shop/web:8000", request("GET /item/1"), true},
		{"direct", shop, "far/aside", "shop/web:80", request("GET /far"), false},
		{"call", shop, "shop", "shop/web:90", call("/shop.Cart/Add", "x-version: 2"), true},
		{"call-invalid-backend", shop, "shop", "shop/web:grpc", call("/shop.Other/Get"), true},
		{"call-no-rule", shop, "shop", "shop/web:90", call("/x.Y/Z"), false},
		{"no-call", shop, "shop", "shop/web:90", request("GET /"), false},
		{"no-route", shop, "shop", "shop/web-v1", request("GET /"), false},
		{"other-port", shop, "shop", "shop/web:81", request("GET /"), false},
		{"headless", shop, "shop", "shop/headless:80", request("GET /"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask(t, c.view, c.client, c.to, c.request)
			golden(t, "explain-"+c.name+".txt", a.String())
			if a.Applies != c.applies {
				t.Errorf("a rule applies: %v", a.Applies)
			}
			for line := range strings.Lines(a.String()) {
				if len([]rune(strings.TrimSuffix(line, "\n"))) > 100 {
					t.Errorf("too wide: %s", line)
				}
			}
		})
	}
	golden(t, "explain-cart.json", asJSON(t, ask(t, shop, "shop", "shop/web:80", request("GET /cart/1", "x-version: 2"))))
}
