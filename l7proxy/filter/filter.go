// Package filter changes requests as the rules of a route ask for.
package filter

import (
	"errors"
	"fmt"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Chain is a compiled list of filters. The zero Chain changes nothing. It is immutable and safe for concurrent use.
type Chain struct {
	edits []edit
}

// edit is a RequestHeaderModifier.
type edit struct {
	host   string // "": stays as it is
	set    []message.Field
	add    []message.Field
	remove []string
}

// Compile compiles filters. An error names the one that cannot be run; those of a model.Service that Validate has passed
// all can. None is ever skipped (F-5).
func Compile(filters []model.Filter) (Chain, error) {
	var c Chain
	for i := range filters {
		e, err := compile(&filters[i])
		if err != nil {
			return Chain{}, fmt.Errorf("filters[%d]: %w", i, err)
		}
		c.edits = append(c.edits, e)
	}
	return c, nil
}

func compile(f *model.Filter) (edit, error) {
	if f.RequestHeaders == nil {
		return edit{}, errors.New("none of its members is known to this proxy") // a newer agent's
	}
	if err := f.RequestHeaders.Validate(); err != nil {
		return edit{}, fmt.Errorf("requestHeaders.%w", err)
	}
	e := edit{add: fields(f.RequestHeaders.Add), remove: f.RequestHeaders.Remove}
	for _, h := range fields(f.RequestHeaders.Set) {
		if message.EqualName(h.Name, "host") {
			e.host = h.Value // F-14
		} else {
			e.set = append(e.set, h)
		}
	}
	return e, nil
}

func fields(headers []model.Header) []message.Field {
	var out []message.Field
	for _, h := range headers {
		out = append(out, message.Field{Name: h.Name, Value: h.Value})
	}
	return out
}

// Request applies the filters to r, in the order of their list (F-2). It allocates only when r.Fields has no room for a
// line that is added.
func (c Chain) Request(r *message.Request) {
	for i := range c.edits {
		c.edits[i].apply(r)
	}
}

// apply sets, then adds, then removes (F-11).
func (e *edit) apply(r *message.Request) {
	if e.host != "" {
		r.Authority = e.host
	}
	for i := range e.set {
		r.Fields.Set(e.set[i].Name, e.set[i].Value)
	}
	for i := range e.add {
		// A line of its own: who joins it with those that are there must not find a space after the comma (F-13).
		r.Fields.Add(e.add[i].Name, e.add[i].Value)
	}
	for _, name := range e.remove {
		r.Fields.Del(name)
	}
}
