package forward

import (
	"net/http"
	"strconv"

	"github.com/sluice-mesh/sluice/l7proxy/observe"
)

// answer answers the client by ourselves, and says why in plain words.
func (x *exchange) answer(status int, failure, reason string) {
	x.fail(failure)
	x.rec.Status = status
	grpc := x.req.IsGRPC()
	if grpc {
		status = x.answerGRPC(status)
	}
	x.last = x.last || x.ending()
	if !x.body.discard(&x.in) {
		x.last, x.unread = true, true
	}
	text := "sluice: " + reason + "\n"
	x.out = append(x.out[:0], "HTTP/1.1 "...)
	x.out = strconv.AppendInt(x.out, int64(status), 10)
	x.out = append(x.out, ' ')
	x.out = append(x.out, http.StatusText(status)...)
	if grpc {
		x.out = append(x.out, "\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nGrpc-Status: "...)
		x.out = strconv.AppendInt(x.out, int64(x.rec.GRPC.Code), 10)
		x.out = append(x.out, "\r\nGrpc-Message: "...)
		x.out = appendPercent(x.out, "sluice: "+reason)
	} else {
		x.out = append(x.out, "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "...)
		x.out = strconv.AppendInt(x.out, int64(len(text)), 10)
	}
	switch {
	case x.last:
		x.out = append(x.out, "\r\nConnection: close"...)
	case x.head.Minor == 0:
		x.out = append(x.out, "\r\nConnection: keep-alive"...)
	}
	x.out = append(x.out, "\r\n\r\n"...)
	if x.req.Method != "HEAD" && !grpc {
		x.out = append(x.out, text...)
	}
	x.write(nil)
}

// answerGRPC notes the status that a gRPC client gets instead (B-24, B-25), and returns HTTP's.
func (x *exchange) answerGRPC(status int) int {
	x.rec.Status, x.rec.GRPC = http.StatusOK, observe.GRPC{Known: true, Code: uint8(grpcStatus(status))}
	return http.StatusOK
}
