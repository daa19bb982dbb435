package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/cni/netconf"
)

const entryText = `{"type":"sluice-cni","socket":"/run/x.sock","whenAway":"start"}`

// calico and kindnet are as those write them, flannel as its manifest has it: the white space is each one's own.
const (
	calico = `{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "mtu": 1440,
      "ipam": {
          "type": "calico-ipam"
      },
      "policy": {
          "type": "k8s"
      }
    },
    {
      "type": "portmap",
      "snat": true,
      "capabilities": {"portMappings": true}
    }
  ]
}`
	oneLine = `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge"}]}`
	tabs    = "{\r\n\t\"plugins\" : [\r\n\t\t{\"type\":\"ptp\", \"a\":[1,{\"type\":\"sluice-cni\"}]}\r\n\t] ,\r\n\t\"cniVersion\":\"1.1.0\",\"name\":\"<&>\"\r\n}\r\n\r\n"
)

func TestEntryIsAddedAtTheEndOfTheList(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"calico":   {calico, strings.Replace(calico, "true}\n    }\n", "true}\n    },\n    "+entryText+"\n", 1)},
		"one line": {oneLine, `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge"},` + entryText + `]}`},
		"tabs":     {tabs, strings.Replace(tabs, "}]}\r\n\t]", "}]},\r\n\t\t"+entryText+"\r\n\t]", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := withEntry([]byte(c.text), []byte(entryText))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
			again, err := withEntry(got, []byte(entryText))
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("a second time: %v\n%s", err, again)
			}
			back, err := withoutEntry(got)
			if err != nil || string(back) != c.text {
				t.Errorf("taken out again: %v\n%s", err, back)
			}
		})
	}
}

func TestEntryThatIsThereAlready(t *testing.T) {
	list := func(plugins string) string { return `{"cniVersion":"1.0.0","name":"x","plugins":[` + plugins + `]}` }
	const other, third, old = `{"type":"a"}`, `{"type":"b"}`, `{"whenAway":"wait","type":"sluice-cni"}`
	for name, c := range map[string]struct{ text, want, without string }{
		"other parameters":       {list(other + "," + old), list(other + "," + entryText), list(other)},
		"spelled differently":    {list(other + `, { "socket":"/run/x.sock", "whenAway":"start", "type":"sluice-cni" }`), "", list(other)},
		"somebody stands behind": {list(other + "," + entryText + " , " + third), "", list(other + " , " + third)},
		"first":                  {list(entryText + " , " + other), list(other + "," + entryText), list(other)},
		"twice":                  {list(other + "," + entryText + "," + old + "," + third), list(other + "," + third + "," + entryText), list(other + "," + third)},
		"twice, and first":       {list(old + "," + other + "," + old), list(other + "," + entryText), list(other)},
	} {
		t.Run(name, func(t *testing.T) {
			want := c.want
			if want == "" {
				want = c.text
			}
			got, err := withEntry([]byte(c.text), []byte(entryText))
			if err != nil || string(got) != want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, want)
			}
			without, err := withoutEntry([]byte(c.text))
			if err != nil || string(without) != c.without {
				t.Errorf("without: %v\n%s\nwant\n%s", err, without, c.without)
			}
		})
	}
	if without, err := withoutEntry([]byte(list(entryText))); err != nil || string(without) != list("") {
		t.Errorf("alone: %v %s", err, without)
	}
}

func TestListThatCannotHaveOurEntry(t *testing.T) {
	for name, c := range map[string]struct {
		text, want  string
		unsupported bool
	}{
		"empty file":         {"", "unexpected end", false},
		"no JSON":            {"plugins: []", "invalid character", false},
		"cut off":            {calico[:200], "unexpected end", false},
		"something behind":   {oneLine + "x", "invalid character", false},
		"no object":          {"[]", "", false},
		"null":               {"null", "", false},
		"no plugins":         {`{"cniVersion":"1.0.0","name":"x"}`, `no "plugins"`, false},
		"plugins twice":      {`{"cniVersion":"1.0.0","plugins":[{"type":"a"}],"plugins":[{"type":"a"}]}`, "twice", false},
		"plugins no array":   {`{"cniVersion":"1.0.0","plugins":{}}`, "no array", false},
		"plugin no object":   {`{"cniVersion":"1.0.0","plugins":["a"]}`, "element 0", false},
		"plugin of no type":  {`{"cniVersion":"1.0.0","plugins":[{"type":"a"},{}]}`, "element 1", false},
		"nobody before us":   {`{"cniVersion":"1.0.0","plugins":[ ]}`, "no plugin behind which", true},
		"only us":            {`{"cniVersion":"1.0.0","plugins":[` + entryText + `]}`, "no plugin behind which", true},
		"old version":        {`{"cniVersion":"0.2.0","plugins":[{"type":"a"}]}`, `version "0.2.0"`, true},
		"no version":         {`{"plugins":[{"type":"a"}]}`, `version ""`, true},
		"new version":        {`{"cniVersion":"2.0.0","plugins":[{"type":"a"}]}`, `version "2.0.0"`, true},
		"new among versions": {`{"cniVersion":"1.0.0","cniVersions":["1.0.0","3.0.0"],"plugins":[{"type":"a"}]}`, `version "3.0.0"`, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := withEntry([]byte(c.text), []byte(entryText))
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, errUnsupported) != c.unsupported {
				t.Errorf("%v\n%s", err, got)
			}
		})
	}
	several := `{"cniVersions":["1.0.0","1.1.0"],"plugins":[{"type":"a"}]}`
	if _, err := withEntry([]byte(several), []byte(entryText)); err != nil {
		t.Errorf("versions that we speak: %v", err)
	}
}

func TestListIsDerivedOfASinglePlugin(t *testing.T) {
	base := `{"cniVersion":"0.3.1","name":"n","type":"bridge","mtu":9007199254740993}`
	text, err := derive([]byte(base), []byte(entryText), nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes(text)
	if err != nil {
		t.Fatal(err)
	}
	l, err := parseList(text)
	if err != nil {
		t.Fatal(err)
	}
	if list.Name != "n" || list.CNIVersion != "0.3.1" || len(l.plugins) != 2 || !sameJSON(text[l.plugins[0].start:l.plugins[0].end], []byte(base)) || !l.wellPlaced() {
		t.Errorf("derived:\n%s", text)
	}
	if again, err := derive([]byte(base), []byte(entryText), text); err != nil || !bytes.Equal(again, text) {
		t.Errorf("a second time: %v\n%s", err, again)
	}
	// What somebody put behind us stays, also when the file changes, even in the last digit of a number.
	more := bytes.Replace(text, []byte("\n  ]"), []byte(",\n    {\"type\":\"tuning\"}\n  ]"), 1)
	changed := strings.Replace(base, "993", "992", 1)
	got, err := derive([]byte(changed), []byte(entryText), more)
	if err != nil || !strings.Contains(string(got), "992") || strings.Contains(string(got), "993") || !strings.Contains(string(got), "tuning") {
		t.Errorf("after a change: %v\n%s", err, got)
	}
	got, err = derive([]byte(strings.Replace(base, `"n"`, `"other"`, 1)), []byte(entryText), more)
	if err != nil || strings.Contains(string(got), "tuning") || !strings.Contains(string(got), `"name": "other"`) {
		t.Errorf("another network: %v\n%s", err, got)
	}
	for text, want := range map[string]string{
		"{":                               "unexpected end",
		`{"cniVersion":"1.0.0"}`:          "no name or no type",
		`{"name":"n","type":"b"}`:         `version ""`,
		`{"cniVersion":"1.0.0","name":1}`: "cannot unmarshal",
	} {
		if got, err := derive([]byte(text), []byte(entryText), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q\n%s", text, err, want, got)
		}
	}
}

// Whatever the file: our entry goes in once and behind another, everything else stays as it was, a runtime takes what it
// took before, and taking the entry out again gives back each byte.
func FuzzEdit(f *testing.F) {
	for _, text := range []string{calico, oneLine, tabs, `{"cniVersion":"1.0.0","name":"x","plugins":[` + entryText + `,{"type":"b"},` + entryText + `]}`, "{}", ""} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		got, err := withEntry(text, []byte(entryText))
		if !bytes.Equal(text, before) {
			t.Fatal("the input was written to")
		}
		if err != nil {
			return
		}
		l, err := parseList(got)
		if err != nil {
			t.Fatalf("%v\n%s", err, got)
		}
		if !l.wellPlaced() {
			t.Errorf("not well placed:\n%s", got)
		}
		if p := l.plugins[l.ours()]; !sameJSON(got[p.start:p.end], []byte(entryText)) {
			t.Errorf("another entry: %s", got[p.start:p.end])
		}
		if again, err := withEntry(got, []byte(entryText)); err != nil || !bytes.Equal(again, got) {
			t.Errorf("a second time: %v\n%s", err, again)
		}
		if was, is := othersOf(t, text), othersOf(t, got); !cmp.Equal(was, is) {
			t.Errorf("something else changed:\n%s", cmp.Diff(was, is))
		}
		without, err := withoutEntry(got)
		if err != nil {
			t.Fatal(err)
		}
		want, err := withoutEntry(text)
		if err != nil || !bytes.Equal(without, want) {
			t.Errorf("taken out again: %v\n%q\nwant\n%q", err, without, want)
		}
		if _, err := libcni.ConfListFromBytes(text); err == nil {
			if _, err := libcni.ConfListFromBytes(got); err != nil {
				t.Errorf("a runtime does not take it: %v\n%s", err, got)
			}
		}
	})
}

// othersOf decodes a list and leaves our entries out.
func othersOf(t *testing.T, text []byte) map[string]any {
	t.Helper()
	v, err := exact(text)
	if err != nil {
		t.Fatal(err)
	}
	members, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("no object: %s", text)
	}
	l, err := parseList(text)
	if err != nil {
		t.Fatal(err)
	}
	var others []any
	for _, p := range l.plugins {
		if p.kind != netconf.Type {
			o, err := exact(text[p.start:p.end])
			if err != nil {
				t.Fatal(err)
			}
			others = append(others, o)
		}
	}
	members["plugins"] = others
	return members
}

func TestEntryIsWhatThePluginReads(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"defaults":    {Config{}, `{"type":"sluice-cni","socket":"/run/sluice/cni.sock","whenAway":"start","waitSeconds":1,"exemptNamespaces":["kube-system"]}`},
		"our own":     {Config{Namespace: "mesh"}, `{"type":"sluice-cni","socket":"/run/sluice/cni.sock","whenAway":"start","waitSeconds":1,"exemptNamespaces":["kube-system","mesh"]}`},
		"kube-system": {Config{Namespace: "kube-system"}, `{"type":"sluice-cni","socket":"/run/sluice/cni.sock","whenAway":"start","waitSeconds":1,"exemptNamespaces":["kube-system"]}`},
		"all said": {
			Config{Namespace: "mesh", Entry: netconf.Entry{Socket: "/s", WhenAway: netconf.Wait, WaitSeconds: 9, ExemptNamespaces: []string{}}},
			`{"type":"sluice-cni","socket":"/s","whenAway":"wait","waitSeconds":9,"exemptNamespaces":[]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.cfg.entry("")
			if err != nil || string(got) != c.want {
				t.Fatalf("%v\n%s\nwant\n%s", err, got, c.want)
			}
			var read netconf.Entry
			if err := json.Unmarshal(got, &read); err != nil {
				t.Fatal(err)
			}
			complete, err := read.Complete()
			if err != nil || !cmp.Equal(complete, read) {
				t.Errorf("read again: %v\n%s", err, cmp.Diff(read, complete))
			}
		})
	}
}
