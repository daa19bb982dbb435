package traffic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Method is a unary method of the server's: its answer is the server's name. Every path of two elements answers so, as every
// path does over HTTP; a method such as Fail14 answers with that gRPC status instead.
const Method = "/sluice.lab.Echo/Name"

const (
	grpcType    = "application/grpc"
	statusField = "Grpc-Status"
)

// gRPC's own status codes that we send, or make of what is no gRPC answer.
const (
	codeOK               = 0
	codeUnknown          = 2
	codeDeadline         = 4
	codePermissionDenied = 7
	codeUnimplemented    = 12
	codeInternal         = 13
	codeUnavailable      = 14
	codeUnauthenticated  = 16 // the greatest
)

// maxMessage bounds a message that is read: ours are names.
const maxMessage = 64 << 10

// appendMessage frames a message as gRPC does: not compressed, its length in 4 bytes.
func appendMessage(b, message []byte) []byte {
	b = append(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(message)))
	return append(b, message...)
}

// errMessages is a body of which no trailers are waited for.
var errMessages = errors.New("no unary body")

// readMessage reads the one message that a unary body has, and its end.
func readMessage(r io.Reader) ([]byte, error) {
	var prefix [5]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, fmt.Errorf("the prefix of a message: %w", err)
	}
	n := binary.BigEndian.Uint32(prefix[1:])
	if prefix[0] != 0 || n > maxMessage {
		return nil, fmt.Errorf("%w: a message of %d bytes with flags %#x, want at most %d, not compressed", errMessages, n, prefix[0], maxMessage)
	}
	message := make([]byte, n)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, fmt.Errorf("a message of %d bytes: %w", n, err)
	}
	switch n, err := r.Read(prefix[:1]); {
	case n > 0:
		return nil, fmt.Errorf("%w: more than one message", errMessages)
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("the end of the body: %w", err)
	}
	return message, nil
}

// text is a protobuf message whose field 1 is a string, so that other clients can read it: message Text { string text = 1; }.
func text(s string) []byte {
	b := binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(s)))
	return append(b, s...)
}

func parseText(message []byte) (string, error) {
	rest, ok := bytes.CutPrefix(message, []byte{1<<3 | 2})
	n, used := binary.Uvarint(rest)
	if !ok || used <= 0 || n != uint64(len(rest)-used) {
		return "", fmt.Errorf("message %q has not just one string as its field 1", message)
	}
	return string(rest[used:]), nil
}

// isCall says whether a request is a gRPC call: gRPC is spoken over HTTP/2 only.
func isCall(r *http.Request) bool {
	kind := r.Header.Get("Content-Type")
	return r.ProtoMajor == 2 && (kind == grpcType || strings.HasPrefix(kind, grpcType+"+") || strings.HasPrefix(kind, grpcType+";"))
}

// answerCall answers a unary call.
func (s Server) answerCall(w http.ResponseWriter, r *http.Request, l *seenLog) {
	l.add(Seen{Time: time.Now(), Client: r.RemoteAddr, Method: r.Method, Target: r.RequestURI})
	h := w.Header()
	h.Set("Content-Type", grpcType)
	h.Set(BackendField, s.Name)
	for _, name := range []string{NonceField, RouteField} {
		if v := r.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	_, method, found := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	_, err := readMessage(r.Body)
	switch code, fails := codeOf(method); {
	case r.Method != http.MethodPost || !found:
		trailersOnly(h, codeUnimplemented, "want POST /service/method")
	case err != nil:
		trailersOnly(h, codeInternal, err.Error())
	case fails:
		trailersOnly(h, code, "as asked for")
	default:
		h.Set(http.TrailerPrefix+statusField, strconv.Itoa(codeOK))
		// A client that is gone by now is no concern of the server's.
		_, _ = w.Write(appendMessage(nil, text(s.Name)))
	}
}

// trailersOnly makes the fields the whole answer. Our messages need none of gRPC's percent-encoding but for '%' itself.
func trailersOnly(h http.Header, code int, message string) {
	h.Set(statusField, strconv.Itoa(code))
	h.Set("Grpc-Message", strings.ReplaceAll(message, "%", "%25"))
}

// codeOf is the status that a method such as Fail14 asks for.
func codeOf(method string) (code int, fails bool) {
	s, ok := strings.CutPrefix(method, "Fail")
	n, err := strconv.Atoi(s)
	return n, ok && err == nil && n > codeOK && n <= codeUnauthenticated
}
