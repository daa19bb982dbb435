package watch

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// lenient keeps one object that does not decode from hiding all others of its kind. The CRDs of a cluster may be of
// another version than ours, and a field of theirs may have got another type.
type lenient struct{ runtime.NegotiatedSerializer }

// DecoderToVersion is what clients decode answers and events with.
func (l lenient) DecoderToVersion(d runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	return lenientDecoder{l.NegotiatedSerializer.DecoderToVersion(d, gv)}
}

type lenientDecoder struct{ strict runtime.Decoder }

// faultyObject stands for an object that does not decode.
type faultyObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	reason string
}

// DeepCopyObject is part of runtime.Object.
func (o *faultyObject) DeepCopyObject() runtime.Object {
	return &faultyObject{TypeMeta: o.TypeMeta, ObjectMeta: *o.ObjectMeta.DeepCopy(), reason: o.reason}
}

// mixedList is a list some objects of which do not decode.
type mixedList struct {
	metav1.TypeMeta
	metav1.ListMeta

	Items []runtime.Object
}

// DeepCopyObject is part of runtime.Object.
func (l *mixedList) DeepCopyObject() runtime.Object {
	c := &mixedList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for _, o := range l.Items {
		c.Items = append(c.Items, o.DeepCopyObject())
	}
	return c
}

// Decode decodes an object or a list. Of what does not decode it gives the name and the reason.
func (d lenientDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	o, kind, err := d.strict.Decode(data, defaults, into)
	if err == nil {
		return o, kind, nil
	}
	var raw struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`

		Items []json.RawMessage `json:"items"`
	}
	if json.Unmarshal(data, &raw) != nil {
		return o, kind, err // not even JSON
	}
	gvk := raw.GroupVersionKind()
	if raw.Items == nil {
		if f := faulty(data, err); f != nil {
			return f, &gvk, nil
		}
		return o, kind, err
	}
	list := &mixedList{TypeMeta: raw.TypeMeta, ListMeta: raw.ListMeta}
	for _, item := range raw.Items {
		o, _, itemErr := d.strict.Decode(item, nil, nil)
		if itemErr != nil {
			f := faulty(item, itemErr)
			if f == nil { // without a name nothing can be told of it
				return nil, nil, err
			}
			o = f
		}
		list.Items = append(list.Items, o)
	}
	return list, &gvk, nil
}

// faulty is nil where not even the name can be told.
func faulty(data []byte, err error) *faultyObject {
	f := &faultyObject{}
	if json.Unmarshal(data, f) != nil || f.Name == "" || f.Kind == "" {
		return nil
	}
	f.ManagedFields, f.Annotations = nil, nil
	f.reason = fmt.Sprintf("does not have the form that is known of its kind: %v", err)
	return f
}
