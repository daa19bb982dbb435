package kube

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

//go:generate go run ./internal/crdgen crds httproutes grpcroutes tcproutes tlsroutes referencegrants

//go:embed crds/*.json
var definitions embed.FS

// customResource is what an API server derives from one version of a CustomResourceDefinition.
type customResource struct {
	structure *schema.Structural
	values    validation.SchemaValidator
	rules     *cel.Validator // nil: the schema has none
}

// schemas makes custom resources when they are first asked for, because compiling their CEL rules takes tens of
// milliseconds. It is not for concurrent use.
type schemas struct {
	made map[string]*customResource
}

// of returns the resource of an embedded definition. All versions of one definition that are served today have the
// same schema, so the one that is stored stands for all.
func (s *schemas) of(plural string) (*customResource, error) {
	if r, ok := s.made[plural]; ok {
		return r, nil
	}
	r, err := newCustomResource(plural)
	if err != nil {
		return nil, fmt.Errorf("the embedded definition of %s: %w", plural, err)
	}
	s.made[plural] = r
	return r, nil
}

func newCustomResource(plural string) (*customResource, error) {
	crd, err := definition(plural)
	if err != nil {
		return nil, err
	}
	var props apiextensions.JSONSchemaProps
	from := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(from, &props, nil); err != nil {
		return nil, err
	}
	structure, err := schema.NewStructural(&props)
	if err != nil {
		return nil, err
	}
	values, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return nil, err
	}
	return &customResource{structure, values, cel.NewValidator(structure, true, celconfig.PerCallLimit)}, nil
}

func definition(plural string) (*apiextensionsv1.CustomResourceDefinition, error) {
	data, err := definitions.ReadFile("crds/" + plural + ".json")
	if err != nil {
		return nil, err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := json.Unmarshal(data, &crd); err != nil {
		return nil, err
	}
	return &crd, nil
}

// admit does to an object what an API server does when it is created: it looks for unknown fields, drops the status,
// which has an endpoint of its own, fills in the defaults, and validates values, then rules.
func (r *customResource) admit(object map[string]any) (unknown []string, errs field.ErrorList) {
	unknown = pruning.PruneWithOptions(object, r.structure, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	delete(object, "status")
	defaulting.PruneNonNullableNullsWithoutDefaults(object, r.structure)
	defaulting.Default(object, r.structure)

	errs = validation.ValidateCustomResource(nil, object, r.values)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, r.structure, object)...)
	if len(errs) == 0 && r.rules != nil { // rules assume what the schema says
		errs, _ = r.rules.Validate(context.Background(), nil, r.structure, object, nil, celconfig.RuntimeCELCostBudget)
	}
	return unknown, errs
}
