package echo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Send sends the request as often as it says and returns all answers.
func Send(ctx context.Context, r *Request) []Answer {
	send := map[string]func(context.Context, *Request, <-chan string, chan<- Answer){
		HTTP1: sendHTTP1, HTTP2: sendHTTP2, GRPC: sendHTTP2, WebSocket: sendHTTP1, TCP: sendBytes,
	}[r.Protocol]
	if send == nil {
		return []Answer{{Error: fmt.Sprintf("there is no protocol %q", r.Protocol)}}
	}
	if r.Patience == 0 {
		r.Patience = defaultPatience
	}
	nonces, answers := make(chan string, r.Count), make(chan Answer, r.Count)
	for i := range r.Count {
		nonces <- fmt.Sprintf("%s.%d", r.Nonce, i)
	}
	close(nonces)
	var group sync.WaitGroup
	workers := max(1, r.Workers)
	if r.Protocol == HTTP2 || r.Protocol == GRPC {
		workers = 1 // it has its own
	}
	for range workers {
		group.Go(func() { send(ctx, r, nonces, answers) })
	}
	group.Wait()
	close(answers)
	all := make([]Answer, 0, r.Count)
	for a := range answers {
		all = append(all, a)
	}
	return all
}

// finish fills in what is read off a whole body.
func (a *Answer) finish(body []byte, began time.Time) {
	a.Took = time.Since(began)
	a.GRPC = callStatus(a.Fields, a.Trailers)
	message := body
	if strings.HasPrefix(a.Fields.Get("Content-Type"), grpcType) && len(body) > 0 {
		var err error
		if message, err = unframe(body); err != nil && a.Error == "" {
			a.Error = err.Error()
		}
	}
	var saw Saw
	if json.Unmarshal(message, &saw) == nil && saw.Backend != "" {
		a.Saw = &saw
		return
	}
	a.Body = string(body[:min(len(body), 512)])
}

// fields are those of the request, with the nonce.
func (r *Request) fields(nonce string) [][2]string {
	all := [][2]string{{NonceField, nonce}}
	for _, f := range r.Fields {
		name, value, _ := strings.Cut(f, ":")
		all = append(all, [2]string{name, strings.TrimSpace(value)})
	}
	return all
}

func (r *Request) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: r.Patience}
	return d.DialContext(ctx, "tcp", r.Address)
}

// sendBytes sends the body as it is and reads until nothing more comes: what a client of another protocol does.
func sendBytes(ctx context.Context, r *Request, nonces <-chan string, answers chan<- Answer) {
	for nonce := range nonces {
		began := time.Now()
		a := Answer{Nonce: nonce, GRPC: -1}
		body, err := exchange(ctx, r)
		if err != nil {
			a.Error = err.Error()
		}
		a.Body, a.Took = string(body), time.Since(began)
		answers <- a
	}
}

// exchange waits for a greeting where the body is to be sent after one, and returns all that was read. The greeting's end
// and the echoed body's say when that is all.
func exchange(ctx context.Context, r *Request) ([]byte, error) {
	c, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(r.Patience)); err != nil {
		return nil, err
	}
	sent := r.Pause == 0
	if sent {
		if _, err := c.Write([]byte(r.Body)); err != nil {
			return nil, err
		}
	}
	var got []byte
	for some := make([]byte, 4096); ; {
		n, err := c.Read(some)
		got = append(got, some[:n]...)
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		if !sent && strings.Contains(string(got), "\n") {
			sent = true
			if _, err := c.Write([]byte(r.Body)); err != nil {
				return got, err
			}
		}
		if sent && strings.HasPrefix(string(got), greeting) && strings.HasSuffix(string(got), r.Body) {
			return got, nil
		}
	}
}
