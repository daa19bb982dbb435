package model

import (
	"fmt"
	"strconv"
	"strings"
)

// Filter is one change to a request or a response, or an answer to a request. Exactly one member is set.
//
// A request is seen by CORS first, then by the other filters in the order of their list, then by those of the backend that was
// chosen; a response by the backend's, then by the rule's (F-2). What a filter answers goes no further, and no copy of it is sent.
type Filter struct {
	RequestHeaders  *HeaderEdit `json:"requestHeaders,omitempty"`
	ResponseHeaders *HeaderEdit `json:"responseHeaders,omitempty"` // not of answers that the proxy makes by itself (F-15)
	Rewrite         *Rewrite    `json:"rewrite,omitempty"`

	// These are a rule's only, never a backend's (F-6).
	Redirect *Redirect `json:"redirect,omitempty"`
	Mirror   *Mirror   `json:"mirror,omitempty"`
	CORS     *CORS     `json:"cors,omitempty"`
}

// HeaderEdit is a RequestHeaderModifier or a ResponseHeaderModifier: set, then add, then remove (F-10, F-11). Names keep the
// route's spelling, which is what a backend, or a client, sees of a new field.
type HeaderEdit struct {
	Set    []Header `json:"set,omitempty"`
	Add    []Header `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// Header is one header field.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Rewrite changes what the backend sees of the request's target.
type Rewrite struct {
	Host string    `json:"host,omitempty"` // the whole authority (F-40); "": as it was sent (F-43)
	Path *PathEdit `json:"path,omitempty"` // nil: as it was sent
}

// PathEdit replaces a request's path, or the part of it that the rule matched. A query stays as it is.
type PathEdit struct {
	// Prefix is the path prefix that the rule matched, which Value replaces; "": Value replaces the whole path.
	Prefix string `json:"prefix,omitempty"`
	// Value has the escapes that a URL has. "" is for a prefix only, and takes it away.
	Value string `json:"value,omitempty"`
}

// Redirect answers requests by sending the client elsewhere. What it does not name stays as in the request.
type Redirect struct {
	Status int       `json:"status"`           // 301, 302, 303, 307 or 308 (F-20)
	Scheme string    `json:"scheme,omitempty"` // "http", "https", or "": the request's (F-21)
	Host   string    `json:"host,omitempty"`   // "": the request's, without its port (F-22)
	Port   uint16    `json:"port,omitempty"`   // 0: that of Scheme when there is one, otherwise the Service's (F-25, F-26)
	Path   *PathEdit `json:"path,omitempty"`   // nil: the request's (F-23)
}

// Mirror sends a share of the requests to one endpoint of a set as well, and ignores what comes back (F-50).
type Mirror struct {
	Endpoints EndpointsKey `json:"endpoints"`
	Share     Fraction     `json:"share"` // (F-51)
}

// Fraction is Numerator/Denominator, more than 0 and at most 1.
type Fraction struct {
	Numerator   uint32 `json:"numerator"`
	Denominator uint32 `json:"denominator"`
}

// CORS tells browsers which pages of other origins may ask, and what they may read (F-60). It answers preflights (F-61).
type CORS struct {
	Origins     []string `json:"origins,omitempty"` // what ParseOrigin reads, or "*" alone: any
	Methods     []string `json:"methods,omitempty"` // or "*" alone: any
	Headers     []string `json:"headers,omitempty"` // of the request; or "*" alone: any
	Expose      []string `json:"expose,omitempty"`  // headers of the response; "*" is any
	Credentials bool     `json:"credentials,omitempty"`
	MaxAge      int32    `json:"maxAge"` // for how many seconds a browser may keep what a preflight said; 1 or more
}

// Origin is a set of origins: a scheme, a host or all hosts under a domain, and a port.
type Origin struct {
	Scheme string // "http" or "https"
	// Host is in lower case. With Wildcard it is what a host has to end with: ".shop" of "*.shop", "" of "*".
	Host     string
	Wildcard bool
	Port     uint16 // the scheme's own where the text has none (F-62)
}

// ParseOrigin reads "scheme://host" or "scheme://host:port". The host may be "*", or begin with "*." for everything to the left
// of what follows (F-62).
func ParseOrigin(s string) (Origin, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	o := Origin{Scheme: strings.ToLower(scheme)}
	switch {
	case ok && o.Scheme == "http":
		o.Port = 80
	case ok && o.Scheme == "https":
		o.Port = 443
	default:
		return Origin{}, fmt.Errorf("%q begins with neither \"http://\" nor \"https://\"", s)
	}
	host, port, ok := strings.Cut(rest, ":")
	if ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Origin{}, fmt.Errorf("%q has the port %q, which is none", s, port)
		}
		o.Port = uint16(n)
	}
	o.Host = strings.ToLower(host)
	if o.Host == "*" {
		o.Host, o.Wildcard = "", true
		return o, nil
	}
	name := o.Host
	if o.Host, o.Wildcard = strings.CutPrefix(o.Host, "*"); o.Wildcard {
		if name, ok = strings.CutPrefix(o.Host, "."); !ok {
			name = ""
		}
	}
	ascii := !strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) // the Kelvin sign's lower case is a k
	if !ascii || !isHostName(name) {
		return Origin{}, fmt.Errorf("%q has the host %q, which is neither a name nor \"*\" or \"*.\" and a name", s, host)
	}
	return o, nil
}

// isHostName tells whether s is made of labels, as a name in DNS is.
func isHostName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return len(s) <= 253
}
