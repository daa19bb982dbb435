// Package filter does to requests and responses what the rules of a route ask for: it edits them, answers requests by a redirect
// or as CORS wants, and says which requests are copied to whom.
//
// For one exchange, whoever runs it lends one Scratch and calls Request of the rule's chain, then that of the chosen backend's;
// copies are of what the request is between the two (F-54). Of the response that comes back, the backend's chain has the first
// word and the rule's the last (F-2). An answer that the proxy makes by itself gets no edits (F-15), only Share.
package filter

import (
	"fmt"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Chain is a compiled list of filters, a rule's or a backend's. The zero Chain changes nothing. It is immutable and safe for
// concurrent use.
type Chain struct {
	cors      *cors
	steps     []step // in the order of the list
	responses []*edit
	mirrors   []Mirror
}

// step is what a filter does to a request. Exactly one member is set.
type step struct {
	edit     *edit
	rewrite  *rewrite
	redirect *redirect
}

// Input is what a request does not say of itself.
type Input struct {
	Scheme string // that of a request without one; "": http
	Host   string // what a request that names no host is addressed to, as in a URL, without a port
	Port   uint16 // of the Service that the client connected to (F-26)
}

// Answer is what a client gets instead of a backend's response. It has no body.
type Answer struct {
	Status int
	Fields message.Fields // valid as long as the request is, and until the Scratch is reset
}

// Compile compiles filters. An error names the one that cannot be run; those of a model.Service that Validate has passed
// all can. None is ever skipped (F-5).
func Compile(filters []model.Filter) (Chain, error) {
	var c Chain
	for i := range filters {
		if err := c.add(&filters[i]); err != nil {
			return Chain{}, fmt.Errorf("filters[%d]: %w", i, err)
		}
	}
	return c, nil
}

func (c *Chain) add(f *model.Filter) (err error) {
	if err := f.Validate(); err != nil {
		return err
	}
	switch {
	case f.RequestHeaders != nil:
		c.steps = append(c.steps, step{edit: compileRequestEdit(f.RequestHeaders)})
	case f.ResponseHeaders != nil:
		c.responses = append(c.responses, compileEdit(f.ResponseHeaders))
	case f.Rewrite != nil:
		c.steps = append(c.steps, step{rewrite: &rewrite{host: f.Rewrite.Host, path: compilePath(f.Rewrite.Path)}})
	case f.Redirect != nil:
		c.steps = append(c.steps, step{redirect: compileRedirect(f.Redirect)})
	case f.Mirror != nil:
		c.mirrors = append(c.mirrors, compileMirror(f.Mirror))
	default:
		c.cors, err = compileCORS(f.CORS)
	}
	return err
}

// Request does to r what the filters ask for, CORS first and the others in the order of their list (F-2). With true it is
// answered, and goes no further. Strings that r gets are valid until s is reset. It allocates only where s, or r.Fields, has too
// little room.
func (c *Chain) Request(r *message.Request, in Input, s *Scratch) (Answer, bool) {
	authority := r.Authority // the client's, whatever an edit makes of it (F-22)
	if c.cors != nil && c.cors.request(r, s) {
		return Answer{Status: preflightStatus, Fields: s.fields}, true
	}
	for i := range c.steps {
		switch f := &c.steps[i]; {
		case f.edit != nil:
			f.edit.request(r)
		case f.rewrite != nil:
			f.rewrite.request(r, s)
		default:
			s.fields = append(s.fields[:0], message.Field{Name: "Location", Value: f.redirect.location(r, authority, in, s)})
			c.Share(&s.fields, s) // or no script could follow it
			return Answer{Status: f.redirect.status, Fields: s.fields}, true
		}
	}
	return Answer{}, false
}

// Response does to a backend's response what the filters ask for, those of CORS last. s is that of the request.
func (c *Chain) Response(r *message.Response, s *Scratch) {
	for _, e := range c.responses {
		e.fields(&r.Fields)
	}
	c.Share(&r.Fields, s)
}

// Share does what CORS wants of any response to the request that s is of: whether a script may read it (F-66). An answer that the
// proxy makes by itself needs it too, so that a page can tell a 503 from a refusal of its browser.
func (c *Chain) Share(f *message.Fields, s *Scratch) {
	if c.cors != nil {
		c.cors.share(f, s)
	}
}

// Mirrors are whom copies of requests may go to, in the order of the list. Nobody edits them.
func (c *Chain) Mirrors() []Mirror { return c.mirrors }
