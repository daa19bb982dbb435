package filter

import (
	"math/bits"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Mirror is a RequestMirror: one of the endpoints gets a copy of a share of the requests.
type Mirror struct {
	Endpoints              model.EndpointsKey
	numerator, denominator uint64
}

func compileMirror(m *model.Mirror) Mirror {
	return Mirror{m.Endpoints, uint64(m.Share.Numerator), uint64(m.Share.Denominator)}
}

// Wants tells whether a request gets a copy. random is drawn evenly from all uint64, for each mirror anew (F-51, F-52).
func (m *Mirror) Wants(random uint64) bool {
	at, _ := bits.Mul64(random, m.denominator) // floor(random * denominator / 2^64)
	return at < m.numerator
}
