package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/tests/bench/config"
)

func TestRoutesByFieldPrefixAndWeight(t *testing.T) {
	seen := map[string]int{}
	var hosts []string
	for _, name := range []string{"a", "b"} {
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.Host != config.Host {
				t.Errorf("host %q, want the client's", r.Host)
			}
			seen[name]++
		}))
		t.Cleanup(s.Close)
		hosts = append(hosts, s.Listener.Addr().String())
	}
	b, err := parseBackends(hosts[0] + "=80," + hosts[1] + "=20")
	if err != nil {
		t.Fatal(err)
	}
	many := handler(b, 100)
	for _, c := range []struct {
		path, field string
		status      int
	}{
		{"/r/0000/", "yes", 200}, {"/r/0099/x", "yes", 200}, {"/r/0099", "yes", 200},
		{"/r/0099/", "no", 404}, {"/r/0100/", "yes", 404}, {"/r/00990/", "yes", 404}, {"/", "yes", 404},
	} {
		if got := ask(many, c.path, c.field); got != c.status {
			t.Errorf("%s with %s: status %d, want %d", c.path, c.field, got, c.status)
		}
	}
	clear(seen)
	one := handler(b, 1)
	for range 300 {
		if got := ask(one, "/any", "yes"); got != 200 {
			t.Fatalf("status %d", got)
		}
	}
	if seen["a"] < 200 || seen["a"] > 280 || seen["a"]+seen["b"] != 300 {
		t.Errorf("shares %v, want about 240 and 60", seen)
	}
}

func ask(h http.Handler, path, field string) int {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = config.Host
	r.Header.Set(config.MatchName, field)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func TestBackendsNameWhatIsWrong(t *testing.T) {
	for _, list := range []string{"", "x", "127.0.0.1:80", "127.0.0.1:80=x", "127.0.0.1:80=0", "127.0.0.1=1"} {
		if _, err := parseBackends(list); err == nil || !strings.Contains(err.Error(), "backend") {
			t.Errorf("%q: %v", list, err)
		}
	}
}
