package forward

import (
	"net/http"
	"strconv"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// answer answers the client by ourselves, and says why in plain words. A gRPC client gets a status of gRPC's (B-24, B-25).
func (x *exchange) answer(status int, failure, reason string) {
	x.fail(failure)
	var fields message.Fields
	x.verdict.share(&fields, &x.filtered)
	x.rec.Status = status
	if !x.req.IsGRPC() {
		x.respond(status, append(fields, message.Field{Name: "Content-Type", Value: "text/plain; charset=utf-8"}), "sluice: "+reason+"\n")
		return
	}
	grpc, own := grpcAnswer(status, reason)
	x.rec.Status, x.rec.GRPC = http.StatusOK, grpc
	x.respond(http.StatusOK, append(fields, own...), "")
}

// reply gives the client a filter's answer.
func (x *exchange) reply(a answer) {
	x.rec.Status = a.status
	x.respond(a.status, a.fields, "")
}

// respond writes an answer of our own.
func (x *exchange) respond(status int, fields message.Fields, text string) {
	if !x.requestBy.IsZero() { // also when its time is over the client hears of it (B-41)
		_ = x.conn.SetWriteDeadline(time.Time{}) // fails when it is closed, as the write does
	}
	x.last = x.last || x.ending()
	if !x.body.discard(&x.in) {
		x.last, x.unread = true, true
	}
	x.out = append(x.out[:0], "HTTP/1.1 "...)
	x.out = strconv.AppendInt(x.out, int64(status), 10)
	x.out = append(x.out, ' ')
	x.out = append(x.out, http.StatusText(status)...)
	for _, f := range fields {
		x.out = append(append(append(append(x.out, "\r\n"...), f.Name...), ": "...), f.Value...)
	}
	x.out = append(x.out, "\r\nContent-Length: "...)
	x.out = strconv.AppendInt(x.out, int64(len(text)), 10)
	switch {
	case x.last:
		x.out = append(x.out, "\r\nConnection: close"...)
	case x.head.Minor == 0:
		x.out = append(x.out, "\r\nConnection: keep-alive"...)
	}
	x.out = append(x.out, "\r\n\r\n"...)
	if x.req.Method != "HEAD" {
		x.out = append(x.out, text...)
	}
	x.write(nil)
}
