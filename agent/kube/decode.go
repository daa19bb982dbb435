package kube

import (
	gojson "encoding/json"
	"errors"
	"fmt"
	"slices"

	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/json"
)

// object is any object that is read.
type object interface {
	runtime.Object
	metav1.Object
}

// typed is a pointer to a Go type of an object.
type typed[T any] interface {
	*T
	object
}

// readCustom reads an object of a CustomResourceDefinition. The schema speaks of its values; the Go types are only
// asked about the metadata, which schemas leave out.
func readCustom[T any, P typed[T]](plural string) readFunc {
	return func(s *schemas, d *document) (object, []fault) {
		var head struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
			Spec              gojson.RawMessage `json:"spec"`
			Status            gojson.RawMessage `json:"status"`
		}
		faults := d.strict(&head)
		resource, err := s.of(plural)
		if err != nil {
			return nil, append(faults, fault{d.node.Line, err.Error()})
		}
		var content map[string]any
		if err := json.UnmarshalCaseSensitivePreserveInts(d.json, &content); err != nil {
			return nil, append(faults, d.decodeFault(err))
		}
		unknown, errs := resource.admit(content)
		for _, path := range unknown {
			faults = appendNew(faults, d.unknown(path))
		}
		namespace(&head.ObjectMeta)
		errs = append(errs, apimachinery.ValidateObjectMeta(&head.ObjectMeta, true, apimachinery.NameIsDNSSubdomain, field.NewPath("metadata"))...)
		if faults = append(faults, d.fieldFaults(errs)...); len(faults) > 0 {
			return nil, faults
		}
		read := P(new(T))
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, read); err != nil {
			return nil, []fault{{d.node.Line, err.Error()}}
		}
		namespace(read)
		clearType(read)
		return read, nil
	}
}

// core says what an API server does with an object of a kind that is built in.
type core[P any] struct {
	clusterScoped bool
	name          apimachinery.ValidateNameFunc
	defaults      func(P)
	validate      func(P) field.ErrorList
}

// readCore reads an object of a kind that is built in.
func readCore[T any, P typed[T]](c core[P]) readFunc {
	return func(_ *schemas, d *document) (object, []fault) {
		read := P(new(T))
		faults := d.strict(read)
		if len(faults) > 0 {
			return nil, faults
		}
		if !c.clusterScoped {
			namespace(read)
		}
		c.defaults(read)
		meta := field.NewPath("metadata")
		errs := apimachinery.ValidateObjectMetaAccessor(read, !c.clusterScoped, c.name, meta)
		if faults := d.fieldFaults(append(errs, c.validate(read)...)); len(faults) > 0 {
			return nil, faults
		}
		clearType(read)
		return read, nil
	}
}

// namespace fills in what kubectl does.
func namespace(o metav1.Object) {
	if o.GetNamespace() == "" {
		o.SetNamespace(metav1.NamespaceDefault)
	}
}

// clearType makes an object like those of a client: their Go type says what they are.
func clearType(o runtime.Object) { o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) }

// strict decodes into a Go type; unknown fields are faults.
func (d *document) strict(into any) []fault {
	unknown, err := json.UnmarshalStrict(d.json, into, json.DisallowUnknownFields)
	if err != nil {
		return []fault{d.decodeFault(err)}
	}
	var faults []fault
	for _, e := range unknown {
		if at, ok := errors.AsType[json.FieldError](e); ok {
			faults = append(faults, d.unknown(at.FieldPath()))
		}
	}
	return faults
}

func (d *document) unknown(path string) fault {
	return fault{d.lineOf(path), fmt.Sprintf("%s: unknown field: correct its name or its place, or remove it", path)}
}

func (d *document) decodeFault(err error) fault {
	if wrong, ok := errors.AsType[*gojson.UnmarshalTypeError](err); ok {
		return fault{d.lineAt(wrong.Offset), fmt.Sprintf("%s: must be %s, is %s", wrong.Field, wrong.Type, wrong.Value)}
	}
	return fault{d.node.Line, err.Error()}
}

func (d *document) fieldFaults(errs field.ErrorList) []fault {
	var faults []fault
	for _, e := range errs {
		faults = appendNew(faults, fault{d.lineOf(e.Field), e.Error()})
	}
	return faults
}

func appendNew(faults []fault, f fault) []fault {
	if slices.Contains(faults, f) {
		return faults
	}
	return append(faults, f)
}
