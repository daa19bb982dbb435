package model

import (
	"fmt"
	"strings"
)

func (m *Match) validate(grpc bool) error {
	target := m.validateHTTP
	if grpc {
		target = m.validateRPC
	}
	if err := target(); err != nil {
		return err
	}
	for i, h := range m.Headers {
		if !isToken(h.Name) || h.Name != strings.ToLower(h.Name) {
			return under(fmt.Sprintf("headers[%d]", i), mistake("name", "%q is no header name in lower case", h.Name))
		}
	}
	for i, q := range m.Query {
		if q.Name == "" {
			return under(fmt.Sprintf("query[%d]", i), mistake("name", "it is empty"))
		}
	}
	if err := validateValues("headers", m.Headers); err != nil {
		return err
	}
	return validateValues("query", m.Query)
}

// validateHTTP checks what asks for a path and a method.
func (m *Match) validateHTTP() error {
	switch m.Path.Type {
	case Exact, PathPrefix:
		if !strings.HasPrefix(m.Path.Value, "/") {
			return mistake("path.value", "%q does not begin with \"/\"", m.Path.Value)
		}
	case RegularExpression:
		if err := checkExpression("value", m.Path.Value); err != nil {
			return under("path", err)
		}
	default:
		return mistake("path.type", "%q is not known", m.Path.Type)
	}
	if m.Method != "" && !isToken(m.Method) {
		return mistake("method", "%q is no method", m.Method)
	}
	if m.RPC != nil {
		return mistake("rpc", "only a gRPC table asks for calls")
	}
	return nil
}

// validateRPC checks what asks for a call (M-33, M-36).
func (m *Match) validateRPC() error {
	switch {
	case m.RPC == nil:
		return mistake("rpc", "there is none: an empty one matches every call")
	case m.Path != PathMatch{}:
		return mistake("path", "a gRPC table asks for no path")
	case m.Method != "":
		return mistake("method", "a gRPC table asks for no method of HTTP")
	case len(m.Query) > 0:
		return mistake("query", "a gRPC table asks for no parameters")
	}
	return under("rpc", m.RPC.validate())
}

func (m *RPCMatch) validate() error {
	switch {
	case m.Type == "" && m.Service == "" && m.Method == "": // M-34
	case m.Type == RegularExpression:
		if err := checkExpression("service", m.Service); err != nil {
			return err
		}
		return checkExpression("method", m.Method)
	case m.Type != Exact:
		return mistake("type", "%q is not known", m.Type)
	case strings.Contains(m.Service, "/"): // it ends where the method begins
		return mistake("service", "%q has a \"/\", and no service has", m.Service)
	}
	return nil
}

// validateValues checks what conditions on headers and on parameters have in common. Values may hold any bytes: one that
// no request can have does no harm.
func validateValues(list string, values []ValueMatch) error {
	for i, v := range values {
		path := fmt.Sprintf("%s[%d]", list, i)
		switch v.Type {
		case Exact:
		case RegularExpression:
			if err := checkExpression("value", v.Value); err != nil {
				return under(path, err)
			}
		default:
			return under(path, mistake("type", "%q is not known", v.Type))
		}
		for _, before := range values[:i] {
			if before.Name == v.Name {
				return under(path, mistake("name", "%q is there twice", v.Name))
			}
		}
	}
	return nil
}

// isToken tells whether s is a token (RFC 9110, 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r < 0x80 && strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
}
