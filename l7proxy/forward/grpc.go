package forward

import (
	"strconv"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
)

// The status codes of gRPC that we answer with ourselves.
const (
	grpcUnknown          = 2
	grpcDeadlineExceeded = 4
	grpcExhausted        = 8
	grpcUnimplemented    = 12
	grpcInternal         = 13
	grpcUnavailable      = 14
)

// grpcStatus is what a gRPC client gets where others get an HTTP status (B-20 to B-25): of a bare one it would make
// UNKNOWN.
func grpcStatus(status int) int {
	switch status {
	case 404:
		return grpcUnimplemented
	case 400, 414:
		return grpcInternal
	case 431:
		return grpcExhausted
	case 504:
		return grpcDeadlineExceeded
	case 500, 502, 503: // B-21, B-22: a backend that is not valid is one that is not available
		return grpcUnavailable
	}
	return grpcUnknown
}

// grpcAnswer is what a gRPC client gets instead of an answer of our own with that status: trailers only (B-24). The status
// of HTTP is 200 then.
func grpcAnswer(status int, reason string) (observe.GRPC, message.Fields) {
	code := grpcStatus(status)
	return observe.GRPC{Known: true, Code: uint8(code)}, message.Fields{
		{Name: "Content-Type", Value: "application/grpc"},
		{Name: "Grpc-Status", Value: strconv.Itoa(code)},
		{Name: "Grpc-Message", Value: string(appendPercent(nil, "sluice: "+reason))},
	}
}

// appendPercent appends a message in the form of grpc-message: what is no printable ASCII, and "%", is escaped.
func appendPercent(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// parseGRPCStatus reads the value of grpc-status. What is none is UNKNOWN, as for clients.
func parseGRPCStatus(value string) uint8 {
	n, err := strconv.ParseUint(value, 10, 8)
	if err != nil || n > 16 {
		return grpcUnknown
	}
	return uint8(n)
}
