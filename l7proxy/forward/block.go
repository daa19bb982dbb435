package forward

import (
	"fmt"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/http2/hpack"
	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// parseBlock reads a header block that http2.AppendRequest made. The strings of r are views of it.
func parseBlock(block []byte, r *message.Request) error {
	fields, err := parseFields(block)
	if err != nil {
		return err
	}
	*r = message.Request{}
	for _, f := range fields {
		switch f.Name {
		case ":method":
			r.Method = f.Value
		case ":scheme":
			r.Scheme = f.Value
		case ":authority":
			r.Authority = f.Value
		case ":path":
			r.Path, r.Query, r.HasQuery = strings.Cut(f.Value, "?")
		case ":protocol":
			r.Protocol = f.Value
		default:
			r.Fields = append(r.Fields, f)
		}
	}
	return nil
}

// parseTrailers reads what http2.AppendTrailers made. It keeps a copy.
func parseTrailers(block []byte) message.Fields {
	fields, err := parseFields(append([]byte(nil), block...))
	if err != nil {
		return nil // it is our own
	}
	return fields
}

func parseFields(block []byte) (message.Fields, error) {
	fields, _, err := hpack.NewDecoder(0).Decode(make(message.Fields, 0, usualFields), block, 1<<30)
	if err != nil {
		return nil, fmt.Errorf("read a header block of our own: %w", err)
	}
	return fields, nil
}
