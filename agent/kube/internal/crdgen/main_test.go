package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const committed = "../../crds"

// The committed definitions are those of the Gateway API module in go.mod: otherwise run go generate ./agent/kube.
func TestCommittedDefinitionsAreCurrent(t *testing.T) {
	folder := t.TempDir()
	err := run(folder, []string{"httproutes", "grpcroutes", "tcproutes", "tlsroutes", "referencegrants"})
	if err != nil && os.Geteuid() != 0 && strings.Contains(err.Error(), "module cache") {
		t.Skipf("skipped: this user has no module cache: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(committed, "*"))
	if err != nil || len(names) != 5 {
		t.Fatalf("committed: %v, %v, want 5 files", names, err)
	}
	for _, name := range names {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(folder, filepath.Base(name)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes", name)
		}
	}
}

// agent/kube validates all versions of a kind with the schema of the first: they have to be alike.
func TestServedVersionsHaveOneSchema(t *testing.T) {
	for _, plural := range []string{"httproutes", "referencegrants"} {
		data, err := os.ReadFile(filepath.Join(committed, plural+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var d definition
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
		if len(d.Spec.Versions) != 2 {
			t.Errorf("%s: %d versions are served, want v1 and v1beta1", plural, len(d.Spec.Versions))
		}
		for _, v := range d.Spec.Versions[1:] {
			if !reflect.DeepEqual(v.Schema, d.Spec.Versions[0].Schema) {
				t.Errorf("%s: version %s differs from %s", plural, v.Name, d.Spec.Versions[0].Name)
			}
		}
	}
}

func TestCompactStripsDescriptionsButNotFieldsOfThatName(t *testing.T) {
	got, err := compact([]byte(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.org, annotations: {a: b}}
spec:
  group: example.org
  names: {kind: Thing}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        description: gone
        properties:
          description: {type: string, description: gone, default: kept}
          list: {type: array, items: {type: object, description: gone, default: {description: kept}}}
        x-kubernetes-validations: [{rule: self.a <= self.b, message: kept}]
  - {name: v0, served: false, storage: false, schema: {openAPIV3Schema: {type: gone}}}
`))
	want := `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.example.org",` +
		`"annotations":{"a":"b"}},"spec":{"group":"example.org","names":{"kind":"Thing"},"scope":"Namespaced","versions":[{"name":"v1",` +
		`"served":true,"storage":true,"schema":{"openAPIV3Schema":{"properties":{"description":{"default":"kept","type":"string"},` +
		`"list":{"items":{"default":{"description":"kept"},"type":"object"},"type":"array"}},` +
		`"x-kubernetes-validations":[{"message":"kept","rule":"self.a <= self.b"}]}}}]}}` + "\n"
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}
