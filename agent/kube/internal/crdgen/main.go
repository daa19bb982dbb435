// Command crdgen writes the CustomResourceDefinitions that agent/kube validates against, taken from the Gateway API
// module that go.mod names: the standard channel, served versions only, without descriptions, as compact JSON.
// The same module gives the same bytes.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

const module = "sigs.k8s.io/gateway-api"

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: crdgen FOLDER PLURAL...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "crdgen:", err)
		os.Exit(1)
	}
}

// run writes one file to the folder for each resource.
func run(folder string, plurals []string) error {
	from, err := moduleDir()
	if err != nil {
		return err
	}
	for _, plural := range plurals {
		source := filepath.Join(from, "config", "crd", "standard", "gateway.networking.k8s.io_"+plural+".yaml")
		data, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		small, err := compact(data)
		if err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
		if err := os.WriteFile(filepath.Join(folder, plural+".json"), small, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// moduleDir is where the go command keeps the module's source.
func moduleDir() (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list -m %s: %w: %s", module, err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// definition is what of a CustomResourceDefinition is kept. The schemas are walked, not interpreted.
type definition struct {
	APIVersion string         `json:"apiVersion" yaml:"apiVersion"`
	Kind       string         `json:"kind" yaml:"kind"`
	Metadata   metadata       `json:"metadata" yaml:"metadata"`
	Spec       definitionSpec `json:"spec" yaml:"spec"`
}

type metadata struct {
	Name        string            `json:"name" yaml:"name"`
	Annotations map[string]string `json:"annotations" yaml:"annotations"`
}

type definitionSpec struct {
	Group    string         `json:"group" yaml:"group"`
	Names    map[string]any `json:"names" yaml:"names"`
	Scope    string         `json:"scope" yaml:"scope"`
	Versions []version      `json:"versions" yaml:"versions"`
}

type version struct {
	Name    string `json:"name" yaml:"name"`
	Served  bool   `json:"served" yaml:"served"`
	Storage bool   `json:"storage" yaml:"storage"`
	Schema  struct {
		OpenAPIV3Schema map[string]any `json:"openAPIV3Schema" yaml:"openAPIV3Schema"`
	} `json:"schema" yaml:"schema"`
}

func compact(data []byte) ([]byte, error) {
	var d definition
	if err := yaml.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	served := d.Spec.Versions[:0]
	for _, v := range d.Spec.Versions {
		if v.Served {
			strip(v.Schema.OpenAPIV3Schema)
			served = append(served, v)
		}
	}
	if len(served) == 0 {
		return nil, fmt.Errorf("no version is served")
	}
	d.Spec.Versions = served

	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // rules compare; "<=" stays readable
	if err := enc.Encode(d); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// strip takes the descriptions out of a schema and all schemas below it. Below "properties" a key is the name of a
// field, which may itself be "description".
func strip(schema map[string]any) {
	delete(schema, "description")
	for key, value := range schema {
		switch key {
		case "default", "enum", "example", "x-kubernetes-validations":
			continue // values, no schemas
		case "properties":
			if fields, ok := value.(map[string]any); ok {
				for _, f := range fields {
					stripAny(f)
				}
			}
		default:
			stripAny(value)
		}
	}
}

func stripAny(value any) {
	switch v := value.(type) {
	case map[string]any:
		strip(v)
	case []any:
		for _, item := range v {
			stripAny(item)
		}
	}
}
