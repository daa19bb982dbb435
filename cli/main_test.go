package main

import (
	"strings"
	"testing"
)

// What a user gets wrong is told with what would be right.
func TestWrongUseIsTold(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"dmeo"}, "sluice help"},
		{[]string{"demo", "now"}, "--help"},
		{[]string{"demo", "--bin", t.TempDir()}, "make build"},
		{[]string{"demo", "exec", "client"}, "want a pod and a command"},
		{[]string{"demo", "exec", "client", "--"}, "want a pod and a command"},
		{[]string{"demo", "get"}, "want one URL"},
		{[]string{"demo", "get", "-H", "x-canary", "http://10.96.0.10"}, "name: value"},
		{[]string{"demo", "get", "--run", "none", "http://10.96.0.10"}, `no pod "client"`},
		{[]string{"lab-traffic", "load"}, "options"},
	} {
		err := dispatch(t.Context(), tt.args)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want it to say %q", tt.args, err, tt.want)
		}
	}
}

func TestHelpAndVersionAreNoErrors(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"--help"}, {"version"}, {"demo", "--help"}} {
		if code := run(args); code != 0 {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
	if v := version(); !strings.HasPrefix(v, "sluice ") {
		t.Errorf("version %q", v)
	}
}
