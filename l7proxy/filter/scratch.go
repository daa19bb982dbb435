package filter

import (
	"unsafe"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// Scratch is the memory of one exchange: the strings that filters make, and what they note of the request for the response. The
// zero Scratch is ready for use.
type Scratch struct {
	text   []byte
	fields message.Fields

	path      string // of the request as the rule matched it
	pathNoted bool
	origin    string // what Access-Control-Allow-Origin is to be; "": there is to be none
}

// maxScratch is how much a Scratch keeps, in bytes of text: the length of no usual path.
const maxScratch = 4 << 10

// Reset makes s ready for another exchange. The strings that were made of it are void.
func (s *Scratch) Reset() {
	text, fields := s.text[:0], s.fields
	if cap(text) > maxScratch {
		text = nil
	}
	clear(fields)
	*s = Scratch{text: text, fields: fields[:0]}
}

// original is the path that the rule matched. The rule's filters may have changed the request's since (F-42).
func (s *Scratch) original(r *message.Request) string {
	if !s.pathNoted {
		s.path, s.pathNoted = r.Path, true
	}
	return s.path
}

// since makes a string of what was appended to the text from start on.
func (s *Scratch) since(start int) string { return view(s.text[start:]) }

// view makes a string of bytes that nobody writes to before the Scratch is reset.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
