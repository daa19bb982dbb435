package filter

import (
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// edit is a RequestHeaderModifier or a ResponseHeaderModifier.
type edit struct {
	host   string // of a request; "": stays as it is
	set    []message.Field
	add    []message.Field
	remove []string
}

func compileEdit(m *model.HeaderEdit) *edit {
	return &edit{set: fields(m.Set), add: fields(m.Add), remove: m.Remove}
}

func compileRequestEdit(m *model.HeaderEdit) *edit {
	e := compileEdit(m)
	set := e.set[:0]
	for _, h := range e.set {
		if message.EqualName(h.Name, "host") {
			e.host = h.Value // F-14
		} else {
			set = append(set, h)
		}
	}
	e.set = set
	return e
}

func fields(headers []model.Header) []message.Field {
	var out []message.Field
	for _, h := range headers {
		out = append(out, message.Field{Name: h.Name, Value: h.Value})
	}
	return out
}

func (e *edit) request(r *message.Request) {
	if e.host != "" {
		r.Authority = e.host
	}
	e.fields(&r.Fields)
}

// fields sets, then adds, then removes (F-11).
func (e *edit) fields(f *message.Fields) {
	for i := range e.set {
		f.Set(e.set[i].Name, e.set[i].Value)
	}
	for i := range e.add {
		// A line of its own: who joins it with those that are there must not find a space after the comma (F-13).
		f.Add(e.add[i].Name, e.add[i].Value)
	}
	for _, name := range e.remove {
		f.Del(name)
	}
}
