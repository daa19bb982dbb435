package http2

import (
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// maxMethod is longer than any method that is registered (BASELINE-CONTROL) or known to be in use.
const maxMethod = 64

// pseudo is the pseudo-fields of a request (RFC 9113, 8.3.1; RFC 8441, 4).
type pseudo struct {
	method, scheme, authority, path, protocol string
	has                                       uint8
}

const (
	hasMethod = 1 << iota
	hasScheme
	hasAuthority
	hasPath
	hasProtocol
)

// parseRequest makes a request of the fields of a header block, and returns what Content-Length says; -1: nothing.
func parseRequest(fields message.Fields, r *message.Request, target int) (int64, *Error) {
	var p pseudo
	n := cutPseudo(fields)
	if err := p.read(fields[:n]); err != nil {
		return 0, err
	}
	if len(p.path) > target {
		return 0, errTargetLong
	}
	var f facts
	rest, err := f.check(fields[n:])
	if err != nil {
		return 0, err
	}
	*r = message.Request{Method: p.method, Scheme: p.scheme, Protocol: p.protocol, Fields: rest}
	if r.Authority, err = p.hostOf(&f); err != nil {
		return 0, err
	}
	return f.length, p.target(r)
}

// read reads and counts the pseudo-fields.
func (p *pseudo) read(fields message.Fields) *Error {
	for i := range fields {
		var at *string
		var bit uint8
		switch fields[i].Name {
		case ":method":
			at, bit = &p.method, hasMethod
		case ":scheme":
			at, bit = &p.scheme, hasScheme
		case ":authority":
			at, bit = &p.authority, hasAuthority
		case ":path":
			at, bit = &p.path, hasPath
		case ":protocol":
			at, bit = &p.protocol, hasProtocol
		}
		if at == nil || p.has&bit != 0 {
			return errPseudo
		}
		*at = fields[i].Value
		p.has |= bit
	}
	return nil
}

// hostOf is the authority: without :authority it is Host's, and both have to be the same (RFC 9113, 8.3.1).
func (p *pseudo) hostOf(f *facts) (string, *Error) {
	switch {
	case f.hosts > 1:
		return "", errHost
	case p.has&hasAuthority == 0 && f.hosts == 0:
		return "", nil
	case p.has&hasAuthority == 0:
		p.authority = f.host
	}
	switch {
	case !syntax.ValidHost(p.authority):
		return "", errAuthority
	case f.hosts > 0 && (!syntax.ValidHost(f.host) || !sameHost(p.scheme, p.authority, f.host)):
		return "", errHost
	}
	return p.authority, nil
}

// target checks the rest of the pseudo-fields, and splits the path.
func (p *pseudo) target(r *message.Request) *Error {
	switch {
	case p.has&hasMethod == 0:
		return errPseudoMissing
	case p.method == "" || len(p.method) > maxMethod || !syntax.All(p.method, syntax.TokenByte):
		return errMethod
	case p.has&hasProtocol != 0 && (p.method != "CONNECT" || p.protocol == "" || !syntax.All(p.protocol, syntax.TokenByte)):
		return errProtocol
	case p.method == "CONNECT" && p.has&hasProtocol == 0:
		return p.tunnel()
	case p.has&(hasScheme|hasPath) != hasScheme|hasPath:
		return errPseudoMissing
	case !message.EqualName(p.scheme, "http") && !message.EqualName(p.scheme, "https"):
		return errScheme
	case p.path == "" || !syntax.All(p.path, syntax.TargetByte):
		return errPath
	case p.path == "*" && p.method == "OPTIONS":
		r.Path = "*"
		return nil
	case p.path[0] != '/':
		return errPath
	case p.has&hasProtocol != 0 && p.authority == "":
		return errPseudoMissing // RFC 8441, 4
	}
	r.Path, r.Query, r.HasQuery = strings.Cut(p.path, "?")
	return nil
}

// tunnel checks CONNECT, which has nothing but an authority with a port (RFC 9113, 8.5).
func (p *pseudo) tunnel() *Error {
	host, port := cutPort(p.authority)
	if p.has != hasMethod|hasAuthority || host == "" || port == "" {
		return errConnect
	}
	return nil
}
