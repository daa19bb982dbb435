package echo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// sendHTTP1 writes requests byte by byte, so that nothing makes them nicer than they are. It keeps its connection as long
// as both sides want that.
func sendHTTP1(ctx context.Context, r *Request, nonces <-chan string, answers chan<- Answer) {
	var c net.Conn
	var in *bufio.Reader
	for nonce := range nonces {
		a := Answer{Nonce: nonce, GRPC: -1}
		began := time.Now()
		if c == nil {
			var err error
			if c, err = r.dial(ctx); err != nil {
				a.Error = err.Error()
				answers <- a
				continue
			}
			in = bufio.NewReader(c)
		}
		body, keep, err := r.over(c, in, &a)
		if err != nil {
			a.Error = err.Error()
		}
		a.finish(body, began)
		if !keep || err != nil {
			c.Close()
			c = nil
		}
		answers <- a
	}
	if c != nil {
		c.Close()
	}
}

// over makes one exchange on a connection.
func (r *Request) over(c net.Conn, in *bufio.Reader, a *Answer) (body []byte, keep bool, err error) {
	if err := c.SetDeadline(time.Now().Add(r.Patience)); err != nil {
		return nil, false, err
	}
	head, rest := r.wire(a.Nonce)
	if _, err := io.WriteString(c, head); err != nil {
		return nil, false, err
	}
	if r.Protocol == WebSocket {
		rest = "" // it comes after the answer
	} else {
		time.Sleep(r.Pause) // a client that is slow with its body
	}
	// An answer may come before the body has gone out, or instead: what the writing says matters less.
	_, writeErr := io.WriteString(c, rest)
	var resp *http.Response
	for {
		if resp, err = http.ReadResponse(in, &http.Request{Method: r.Method}); err != nil {
			if writeErr != nil {
				err = fmt.Errorf("%w, after %w", err, writeErr)
			}
			return nil, false, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
		a.Interim = append(a.Interim, resp.StatusCode)
	}
	defer resp.Body.Close()
	a.Status, a.Protocol, a.Fields = resp.StatusCode, resp.Proto, resp.Header
	if resp.StatusCode == http.StatusSwitchingProtocols {
		body = make([]byte, len(r.Body))
		time.Sleep(r.Pause)
		if _, err = io.WriteString(c, r.Body); err == nil {
			_, err = io.ReadFull(in, body)
		}
		return body, false, err
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	a.Trailers = resp.Trailer
	return body, !resp.Close && writeErr == nil, err
}

// wire is the request's head, and what follows it.
func (r *Request) wire(nonce string) (head, rest string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.Path, r.Host)
	for _, f := range r.fields(nonce) {
		fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
	}
	switch {
	case r.Protocol == WebSocket:
		b.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	case len(r.Trailers) > 0:
		b.WriteString("Transfer-Encoding: chunked\r\n")
		rest = fmt.Sprintf("%x\r\n%s\r\n0\r\n", len(r.Body), r.Body)
		for _, t := range r.Trailers {
			name, _, _ := strings.Cut(t, ":")
			fmt.Fprintf(&b, "Trailer: %s\r\n", name)
			rest += t + "\r\n"
		}
		rest += "\r\n"
	case r.Body != "":
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.Body))
		rest = r.Body
	}
	b.WriteString("\r\n")
	return b.String(), rest
}
