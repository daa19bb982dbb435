// Package mutations breaks the code in known ways and sees that the tests notice: a check that cannot fail is a defect.
package mutations

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// mutation replaces one text of a file by another. The tests of the package have to fail.
type mutation struct {
	file      string
	from, to  string
	pkg, only string // which tests have to notice: a package, and a pattern of their names ("": all)
}

var mutations = map[string]mutation{
	"precedence: a method counts less than headers": {
		file: "l7proxy/router/compile.go",
		from: "		-cmp.Compare(present(a.method), present(b.method)),\n		-cmp.Compare(len(a.headers), len(b.headers)),\n",
		to:   "		-cmp.Compare(len(a.headers), len(b.headers)),\n		-cmp.Compare(present(a.method), present(b.method)),\n",
		pkg:  "./l7proxy/router",
	},
	"precedence: the shortest prefix comes first": {
		file: "l7proxy/router/compile.go",
		from: "func(a, b int) int { return cmp.Compare(b, a) }",
		to:   "func(a, b int) int { return cmp.Compare(a, b) }",
		pkg:  "./l7proxy/router",
	},
	"precedence of calls: an expression goes before a name": {
		file: "l7proxy/router/rpc.go",
		from: "	if rule := m.first(m.path.in(t.exact, m.path.len())); rule >= 0 {\n		return rule\n	}\n	end := m.path.serviceEnd()\n",
		to:   "	end := m.path.serviceEnd()\n	for i := range t.calls {\n		if c := &t.calls[i]; m.holds(&c.alternative) && m.names(c, end) {\n			return c.rule\n		}\n	}\n	if rule := m.first(m.path.in(t.exact, m.path.len())); rule >= 0 {\n		return rule\n	}\n",
		pkg:  "./l7proxy/router",
	},
	"precedence of calls: a method counts more than a service": {
		file: "l7proxy/router/rpc.go",
		from: "cmp.Or(a.service.compare(&b.service), a.method.compare(&b.method), ",
		to:   "cmp.Or(a.method.compare(&b.method), a.service.compare(&b.service), ",
		pkg:  "./l7proxy/router",
	},
	"calls: any request matches in a table of GRPCRoutes": {
		file: "l7proxy/router/router.go",
		from: "if t.grpc && !r.IsGRPC() {",
		to:   "if false {",
		pkg:  "./l7proxy/router",
	},
	"weight: the share of each backend is one too large": {
		file: "l7proxy/weighted/weighted.go",
		from: "if mid := (low + high) / 2; c.ends[mid] > at {",
		to:   "if mid := (low + high) / 2; c.ends[mid] >= at {",
		pkg:  "./l7proxy/weighted",
	},
	"weight: a backend of weight 0 gets a share": {
		file: "l7proxy/weighted/weighted.go",
		from: "sum += uint64(w)",
		to:   "sum += max(uint64(w), 1)",
		pkg:  "./l7proxy/weighted",
	},
	"chunk's end: any two bytes end a chunk": {
		file: "l7proxy/http1/chunks.go",
		from: "if len(b) > 0 && b[0] != '\\r' || len(b) > 1 && b[1] != '\\n' {",
		to:   "if false {",
		pkg:  "./l7proxy/http1",
	},
	"chunk's end: a chunk is one byte short": {
		file: "l7proxy/http1/chunks.go",
		from: "c.state, c.left = inData, n\n",
		to:   "c.state, c.left = inData, max(n-1, 1)\n",
		pkg:  "./l7proxy/http1",
	},
	"smuggling: the last Content-Length wins": {
		file: "l7proxy/http1/head.go",
		from: "case f.lengths > 1:",
		to:   "case f.lengths > 1000:",
		pkg:  "./l7proxy/http1",
	},
	"make before break: a frontend enters before the proxy acked it": {
		file: "agent/node/frontends.go",
		from: "in = !slices.ContainsFunc(accepting, func(p push.Proxy) bool { return !carries(p.Services[f.unit], a, f.ID) })",
		to:   "in = true",
		pkg:  "./agent/node",
	},
	"consumer routes: they are added to the producer's instead of replacing them": {
		file: "agent/compile/unit.go",
		from: "		client := a.client()\n",
		to:   "		client := \"\"\n",
		pkg:  "./agent/compile",
	},
	"one kind on a port: an HTTPRoute keeps what a GRPCRoute takes": {
		file: "agent/compile/conflict.go",
		from: "				lost[port] = by\n",
		to:   "				_ = by\n",
		pkg:  "./agent/compile",
	},
	"one kind on a port: a consumer's GRPCRoute takes the producer's port": {
		file: "agent/compile/conflict.go",
		from: "			at := place{a.client(), port}\n",
		to:   "			at := place{\"\", port}\n",
		pkg:  "./agent/compile",
	},
	"changes: a step forgets which Services it asked for": {
		file: "agent/compile/asked.go",
		from: "	r.ask(question{about: aboutService, key: key})\n",
		to:   "",
		pkg:  "./agent/compile",
	},
	"changes: a route that loses a port keeps its status": {
		file: "agent/compile/conflict.go",
		from: "a.lost, a.route.told = lost, false",
		to:   "a.lost = lost",
		pkg:  "./agent/compile",
	},
	"grants: one for HTTPRoutes is one for GRPCRoutes": {
		file: "agent/compile/grant.go",
		from: "string(f.Kind) == r.Kind && ",
		to:   "",
		pkg:  "./agent/compile",
	},
	"filters: what cannot be applied is skipped": {
		file: "agent/compile/route.go",
		from: "\t\tr.fail(fmt.Errorf(\"%s: %w\", label, err))\n",
		to:   "\t\treturn\n",
		pkg:  "./agent/compile",
	},
	"filters: a mirror without target stays": {
		file: "agent/compile/mirror.go",
		from: "if fault != nil || f.Mirror.Share.Numerator == 0 {",
		to:   "if fault != nil && false || f.Mirror.Share.Numerator == 0 {",
		pkg:  "./agent/compile",
	},
	"filters: any match will do for replacing a prefix": {
		file: "agent/compile/filter.go",
		from: "if len(matches) == 1 && matches[0]",
		to:   "if len(matches) > 0 && matches[0]",
		pkg:  "./agent/compile",
	},
	"filters: the endpoints of mirrors do not travel": {
		file: "l7proxy/model/model.go",
		from: "if f.Mirror != nil && !yield(f.Mirror.Endpoints) {",
		to:   "if f.Mirror != nil && false {",
		pkg:  "./agent/compile",
	},
	"policies: a try may take longer than the whole request": {
		file: "agent/compile/policy.go",
		from: "if out.Request > 0 && out.BackendRequest > out.Request { // B-44",
		to:   "if false { // B-44",
		pkg:  "./agent/compile",
	},
	"policies: a route that says nothing of attempts gets two": {
		file: "agent/compile/policy.go",
		from: "out := &model.Retry{Attempts: 1}",
		to:   "out := &model.Retry{Attempts: 2}",
		pkg:  "./agent/compile",
	},
	"rewrite: a prefix may end in the middle of an element": {
		file: "l7proxy/filter/path.go",
		from: "return rest, rest == \"\" || rest[0] == '/'",
		to:   "return rest, true",
		pkg:  "./l7proxy/filter",
	},
	"rewrite: a backend's prefix is looked for in what the rule made of the path": {
		file: "l7proxy/filter/scratch.go",
		from: "if !s.pathNoted {",
		to:   "if true {",
		pkg:  "./l7proxy/filter",
	},
	"redirect: another scheme keeps the port": {
		file: "l7proxy/filter/redirect.go",
		from: "if d.port == 0 && d.scheme != \"\" { // F-25",
		to:   "if false { // F-25",
		pkg:  "./l7proxy/filter",
	},
	"redirect: an edit of Host changes where it leads": {
		file: "l7proxy/filter/redirect.go",
		from: "hostOf(authority), in.Host",
		to:   "hostOf(r.Authority), in.Host",
		pkg:  "./l7proxy/filter",
	},
	"mirror: a few more get a copy than should": {
		file: "l7proxy/filter/mirror.go",
		from: "return at < m.numerator",
		to:   "return at <= m.numerator",
		pkg:  "./l7proxy/filter",
	},
	"CORS: any origin is told so, with credentials too": {
		file: "l7proxy/filter/cors.go",
		from: "case c.any && !c.credentials:",
		to:   "case c.any:",
		pkg:  "./l7proxy/filter",
	},
	"CORS: a wildcard is anything that ends like its domain": {
		file: "l7proxy/filter/cors.go",
		from: "return scheme, host, port, isHost(host)",
		to:   "return scheme, host, port, host != \"\"",
		pkg:  "./l7proxy/filter",
	},
	"CORS: the backend's word counts too": {
		file: "l7proxy/filter/cors.go",
		from: "\tf.Del(\"Access-Control-Allow-Origin\")\n",
		to:   "",
		pkg:  "./l7proxy/filter",
	},
	"responses: the rule's edits touch what CORS says": {
		file: "l7proxy/filter/filter.go",
		from: "\tfor _, e := range c.responses {\n\t\te.fields(&r.Fields)\n\t}\n\tc.Share(&r.Fields, s)\n",
		to:   "\tc.Share(&r.Fields, s)\n\tfor _, e := range c.responses {\n\t\te.fields(&r.Fields)\n\t}\n",
		pkg:  "./l7proxy/filter",
	},
}

func TestMutationsAreNoticed(t *testing.T) {
	if os.Getenv("SLUICE_MUTATIONS") != "1" {
		t.Skip("skipped: it takes minutes; `make mutations` runs it")
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range mutations {
		t.Run(name, func(t *testing.T) {
			passes, out := m.test(t, root, m.from)
			if !passes {
				t.Fatalf("the tests fail without the mutation:\n%s", out)
			}
			passes, out = m.test(t, root, m.to)
			switch {
			case passes:
				t.Errorf("no test of %s noticed", m.pkg)
			case !bytes.Contains(out, []byte("--- FAIL")): // it does not build, or ran into its time limit
				t.Errorf("no test failed, but something else:\n%s", out)
			}
		})
	}
}

// test runs the tests with the text in place of m.from.
func (m *mutation) test(t *testing.T, root, with string) (passes bool, out []byte) {
	t.Helper()
	path := filepath.Join(root, m.file)
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(source, []byte(m.from)); n != 1 {
		t.Fatalf("%s has the text to be replaced %d times, want once", m.file, n)
	}
	dir := t.TempDir()
	mutated, overlay := filepath.Join(dir, "mutated.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{mutated: bytes.Replace(source, []byte(m.from), []byte(with), 1), overlay: replace} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"test", "-overlay", overlay, "-timeout", "5m"}
	if m.only != "" {
		args = append(args, "-run", m.only)
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, m.pkg)...)
	cmd.Dir = root
	out, err = cmd.CombinedOutput()
	return err == nil, out
}
