package main

import (
	"io"
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
	many := handler(b, 100, protocols(false))
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
	one := handler(b, 1, protocols(false))
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

func TestSpeaksHTTP2OnBothSides(t *testing.T) {
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		_, _ = io.Copy(w, r.Body)
	}))
	backend.Config.Protocols = protocols(true)
	backend.Start()
	t.Cleanup(backend.Close)
	b, err := parseBackends(backend.Listener.Addr().String() + "=1")
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(handler(b, 1, protocols(true)))
	front.Config.Protocols = protocols(true)
	front.Start()
	t.Cleanup(front.Close)
	c := http.Client{Transport: &http.Transport{Protocols: protocols(true)}}
	t.Cleanup(c.CloseIdleConnections)
	r, err := http.NewRequest(http.MethodPost, front.URL+"/a/b", strings.NewReader("message"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(config.MatchName, config.MatchValue)
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != "message" || resp.Header.Get("X-Proto") != "HTTP/2.0" || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q, %v, %v, trailers %v", got, err, resp.Header, resp.Trailer)
	}
}
