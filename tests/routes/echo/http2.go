package echo

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// sendHTTP2 sends requests with prior knowledge, as many at a time as there are workers, over one connection.
func sendHTTP2(ctx context.Context, r *Request, nonces <-chan string, answers chan<- Answer) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{
		Protocols: protocols, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dial(ctx) },
	}
	defer t.CloseIdleConnections()
	var group sync.WaitGroup
	for range max(1, r.Workers) {
		group.Go(func() {
			for nonce := range nonces {
				answers <- r.stream(ctx, t, nonce)
			}
		})
	}
	group.Wait()
}

// stream is one request.
func (r *Request) stream(ctx context.Context, t *http.Transport, nonce string) Answer {
	a := Answer{Nonce: nonce, GRPC: -1}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	req, err := r.http2(ctx, nonce)
	if err != nil {
		a.Error = err.Error()
		return a
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		a.Error, a.Took = err.Error(), time.Since(began)
		return a
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		a.Error = err.Error()
	}
	a.Status, a.Protocol, a.Fields, a.Trailers = resp.StatusCode, resp.Proto, resp.Header, resp.Trailer
	a.finish(body, began)
	return a
}

func (r *Request) http2(ctx context.Context, nonce string) (*http.Request, error) {
	target, err := url.ParseRequestURI(r.Path)
	if err != nil {
		return nil, err
	}
	target.Scheme, target.Host = "http", r.Address
	body := r.Body
	if r.Protocol == GRPC {
		body = string(frame([]byte(r.Body)))
	}
	var sent io.Reader
	if body != "" {
		sent = io.MultiReader(strings.NewReader(body)) // hides its kind: net/http must not send it a second time
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target.String(), sent)
	if err != nil {
		return nil, err
	}
	req.Host = r.Host
	req.ContentLength = int64(len(body))
	for _, f := range r.fields(nonce) {
		req.Header.Add(f[0], f[1])
	}
	if r.Protocol == GRPC {
		req.Header.Set("Content-Type", grpcType)
		req.Header.Set("Te", "trailers")
	}
	return req, nil
}
