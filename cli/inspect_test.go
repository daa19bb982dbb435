package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const examples = "../examples"

// inspect runs routes or explain, and returns what it prints and the exit status that follows.
func inspect(t *testing.T, args ...string) (out string, status int, err error) {
	t.Helper()
	var b bytes.Buffer
	if args[0] == "routes" {
		err = runRoutes(t.Context(), args[1:], &b)
	} else {
		err = runExplain(t.Context(), args[1:], &b)
	}
	_, troubled := errors.AsType[trouble](err)
	switch {
	case errors.Is(err, errNo):
		status = 1
	case troubled:
		status = 2
	case err != nil:
		t.Errorf("%v: the error %v has no exit status", args, err)
	}
	return b.String(), status, err
}

func TestInspectAnswers(t *testing.T) {
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "bad.yaml"), []byte("apiVersion: v1\nkind: Service\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string // is printed
	}{
		{[]string{"routes", "--manifests", examples}, 0, "GRPCRoute demo/echo-grpc"},
		{[]string{"routes", "--manifests", examples, "demo/web"}, 0, "HTTPRoute demo/web\n"},
		{[]string{"routes", "--manifests", examples, "demo"}, 0, "HTTPRoute demo/web-canary\n"},
		{[]string{"routes", "--manifests", "explain/testdata/shop"}, 1, "Accepted=False"},
		{[]string{"routes", "--manifests", broken}, 1, "Problems:"},
		{[]string{"explain", "--manifests", examples, "--from", "demo/client", "--to", "demo/web", "/a?b"}, 0, "HTTPRoute demo/web, rules[0] wins"},
		{[]string{"explain", "--manifests", examples, "--from", "demo", "--to", "demo/web:http", "-H", "X-Canary: true"}, 0, "HTTPRoute demo/web-canary, rules[0] wins"},
		{[]string{"explain", "--manifests", examples, "--from", "demo", "--to", "demo/web", "-X", "PUT", "-H", "host: h:1"}, 0, "PUT / to host h:1"},
		{[]string{"explain", "--manifests", examples, "--from", "demo", "--to", "demo/echo-grpc", "--grpc", "a.B/C"}, 0, "gRPC call /a.B/C to host echo-grpc.demo:9000"},
		{[]string{"explain", "--manifests", examples, "--from", "demo", "--to", "demo/echo-grpc"}, 1, "this is no call of gRPC"},
		{[]string{"explain", "--manifests", examples, "--from", "demo", "--to", "demo/web:81"}, 1, "no route applies"},
		{[]string{"explain", "--manifests", "explain/testdata/shop", "--from", "far", "--to", "shop/web:80"}, 1, "answered 404"},
	} {
		out, status, err := inspect(t, c.args...)
		if status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("%v: status %d (%v), want %d and %q:\n%s", c.args, status, err, c.status, c.want, out)
		}
		withJSON := append([]string{c.args[0], "--json"}, c.args[1:]...)
		out, status, err = inspect(t, withJSON...)
		var parsed struct {
			Source        string
			Good, Applies bool
		}
		if jsonErr := json.Unmarshal([]byte(out), &parsed); jsonErr != nil || status != c.status || parsed.Source == "" ||
			(parsed.Good || parsed.Applies) != (status == 0) {
			t.Errorf("%v: status %d (%v), %v:\n%s", withJSON, status, err, jsonErr, out)
		}
	}
}

func TestInspectOnlyShowsWhatWasAskedFor(t *testing.T) {
	out, _, err := inspect(t, "routes", "--manifests", examples, "demo/web")
	if err != nil || strings.Contains(out, "canary") || strings.Contains(out, "GRPCRoute") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// What is wrong is told with what would be right, and with where it was looked.
func TestInspectTellsWhatIsWrong(t *testing.T) {
	none := "unix:" + filepath.Join(t.TempDir(), "none")
	explain := []string{"explain", "--manifests", examples, "--from", "demo", "--to", "demo/web"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"routes", "--agent", none}, "no agent answers at " + none},
		{[]string{"explain", "--agent", none, "--from", "a", "--to", "b/c"}, "--agent names another"},
		{[]string{"routes", "--agent", "localhost"}, "neither IP:PORT nor unix:PATH"},
		{[]string{"routes", "--manifests", "none"}, "none"},
		{[]string{"routes", "--manifests", examples, "demo/nobody"}, "lists all"},
		{[]string{"routes", "--manifests", examples, "a", "b"}, "one argument too many"},
		{[]string{"routes", "--odd"}, "sluice routes --help"},
		{[]string{"explain", "--manifests", examples}, "--from names the client"},
		{[]string{"explain", "--manifests", examples, "--from", "demo", "--to", "web"}, "--to names the Service"},
		{[]string{"explain", "--manifests", examples, "--from", "demo", "--to", "demo/web:odd"}, "80 http"},
		{append(explain, "cart"), `begins with "/"`},
		{append(explain, "-H", "x"), "want 'name: value'"},
		{append(explain, "--grpc", "a"), "want SERVICE/METHOD"},
		{append(explain, "--grpc", "a/b", "/x"), "takes the place of the path"},
	} {
		out, status, err := inspect(t, c.args...)
		if status != 2 || err == nil || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%v: status %d, %v, want it to say %q; printed %q", c.args, status, err, c.want, out)
		}
	}
}

func TestInspectHelp(t *testing.T) {
	for _, command := range []string{"routes", "explain"} {
		if code := run([]string{command, "--help"}); code != 0 {
			t.Errorf("%s --help: exit code %d", command, code)
		}
	}
	for code, args := range map[int][]string{
		0: {"routes", "--manifests", examples}, 1: {"explain", "--manifests", examples, "--from", "demo", "--to", "demo/web:81"}, 2: {"routes", "--odd"},
	} {
		if got := run(args); got != code {
			t.Errorf("%v: exit code %d, want %d", args, got, code)
		}
	}
}
