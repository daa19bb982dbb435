package http1

import (
	"strconv"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// AppendRequest appends the head of a request as it is sent to a server. Fields keep their order and spelling; those
// that belong to one connection are left out (RFC 9110, 7.6.1; the parser has left out what Connection names) or
// replaced by ours. h is the head that the request came
// with.
func AppendRequest(dst []byte, req *message.Request, h *Head) []byte {
	dst = append(dst, req.Method...)
	dst = append(dst, ' ')
	if req.Method == "CONNECT" {
		dst = append(dst, req.Authority...)
	} else {
		dst = append(dst, req.Path...)
		if req.HasQuery {
			dst = append(dst, '?')
			dst = append(dst, req.Query...)
		}
	}
	dst = append(dst, " HTTP/1.1\r\n"...)
	hosts := 0
	for i := range req.Fields {
		f := &req.Fields[i]
		switch kindOf(f.Name) {
		case hostField:
			if hosts++; hosts == 1 {
				dst = appendField(dst, f.Name, req.Authority)
			}
		case endToEnd, expectField, lengthField:
			dst = appendField(dst, f.Name, f.Value)
		}
	}
	if hosts == 0 { // of HTTP/1.0; RFC 9112, 3.2 wants one in any case
		dst = appendField(dst, "Host", req.Authority)
	}
	if h.Body == Chunked {
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case h.Upgrade != "":
		dst = appendField(dst, "Upgrade", h.Upgrade)
		dst = append(dst, "Connection: Upgrade\r\n"...)
	case h.Trailers:
		dst = append(dst, "TE: trailers\r\nConnection: TE\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// ResponseTo is what the writer of a response knows of the client's connection.
type ResponseTo struct {
	Minor     int // of the request: chunks are no use to HTTP/1.0
	Close     bool
	KeepAlive bool // to be said in words, to HTTP/1.0
}

// AppendResponse appends the head of a response as it is sent to a client. h is the head that the response came with;
// its Body says how the body is sent.
func AppendResponse(dst []byte, resp *message.Response, h *Head, to ResponseTo) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = appendStatus(dst, resp.Status)
	dst = append(dst, ' ')
	dst = append(dst, resp.Reason...)
	dst = append(dst, "\r\n"...)
	for i := range resp.Fields {
		f := &resp.Fields[i]
		switch kindOf(f.Name) {
		case lengthField:
			if resp.Status < 200 || resp.Status == 204 { // RFC 9110, 8.6
				continue
			}
			dst = appendField(dst, f.Name, f.Value)
		case endToEnd, expectField, hostField:
			dst = appendField(dst, f.Name, f.Value)
		}
	}
	if h.Body == Chunked && to.Minor > 0 {
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	if resp.Status == 101 || resp.Status == 426 && h.Upgrade != "" { // RFC 9110, 15.2.2 and 15.5.22
		dst = appendField(dst, "Upgrade", h.Upgrade)
		dst = append(dst, "Connection: Upgrade\r\n"...)
	}
	switch {
	case to.Close:
		dst = append(dst, "Connection: close\r\n"...)
	case to.KeepAlive:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return append(dst, "\r\n"...)
}

func appendStatus(dst []byte, status int) []byte {
	return append(dst, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
}

func appendField(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}

// AppendChunk appends the first line of a chunk of size bytes.
func AppendChunk(dst []byte, size int64) []byte {
	dst = strconv.AppendInt(dst, size, 16)
	return append(dst, "\r\n"...)
}

// AppendLastChunk appends the end of a chunked body, with its trailers.
func AppendLastChunk(dst []byte, trailers message.Fields) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range trailers {
		dst = appendField(dst, trailers[i].Name, trailers[i].Value)
	}
	return append(dst, "\r\n"...)
}
