package echo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

const (
	grpcType    = "application/grpc"
	statusField = "Grpc-Status"
)

// isCall says whether a request is a gRPC call: gRPC is spoken over HTTP/2 only.
func isCall(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), grpcType)
}

// frame makes a body of one message, not compressed.
func frame(message []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(b, message...)
}

// unframe takes the one message out of a body.
func unframe(body []byte) ([]byte, error) {
	if len(body) < 5 {
		return nil, errors.New("a body without a message")
	}
	if n := binary.BigEndian.Uint32(body[1:]); body[0] != 0 || int(n) != len(body)-5 {
		return nil, fmt.Errorf("a message of %d bytes with flags %#x in a body of %d", n, body[0], len(body))
	}
	return body[5:], nil
}

// callHead sets the fields of a call's answer. One that fails has no body, and its status among its fields: trailers-only.
func callHead(h http.Header, do *orders, message []byte) (body []byte) {
	h.Set("Content-Type", grpcType)
	if do.grpc != 0 {
		h.Set(statusField, strconv.Itoa(do.grpc))
		h.Set("Grpc-Message", "as asked for")
		return nil
	}
	h.Set(http.TrailerPrefix+statusField, "0")
	return frame(message)
}

// callStatus is the status of a call, -1 where there is none.
func callStatus(fields, trailers http.Header) int {
	for _, h := range []http.Header{trailers, fields} {
		if v := h.Get(statusField); v != "" {
			if n, err := strconv.Atoi(v); err == nil {
				return n
			}
		}
	}
	return -1
}
