package echo

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Server answers with what it saw.
type Server struct {
	Name string

	mu   sync.Mutex
	seen map[string][]Saw // by nonce
}

// Seen is what the server saw of the requests whose nonce is, or begins with, the given one and a dot.
func (s *Server) Seen(nonce string) []Saw {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []Saw{}
	for n, saws := range s.seen {
		if n == nonce || strings.HasPrefix(n, nonce+".") {
			found = append(found, saws...)
		}
	}
	return found
}

// note keeps what was seen and says how often the nonce was by now.
func (s *Server) note(nonce string, saw Saw) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string][]Saw{}
	}
	s.seen[nonce] = append(s.seen[nonce], saw)
	return len(s.seen[nonce])
}

// Serve serves HTTP until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Protocols: protocols, Handler: s, ReadHeaderTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	do, err := parseOrders(r.Header.Get(DoField))
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	if do.only != "" && do.only != s.Name {
		do = orders{status: http.StatusOK}
	}
	saw := Saw{
		Backend: s.Name, Client: r.RemoteAddr, Protocol: r.Proto, Method: r.Method, Path: r.RequestURI, Host: r.Host,
		Fields: r.Header,
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		saw.Port = a.Port
	}
	if r.Header.Get("Upgrade") == "websocket" {
		s.note(r.Header.Get(NonceField), saw)
		upgrade(w, r)
		return
	}
	if !do.early {
		body, err := io.Copy(io.Discard, r.Body)
		saw.Bytes, saw.Trailers = int(body), r.Trailer
		if err != nil {
			s.note(r.Header.Get(NonceField), saw)
			return // the client is gone: there is nobody to answer
		}
	}
	if n := s.note(r.Header.Get(NonceField), saw); do.times > 0 && n > do.times {
		do = orders{status: http.StatusOK}
	}
	answer(w, r, &do, &saw)
}

func answer(w http.ResponseWriter, r *http.Request, do *orders, saw *Saw) {
	if do.end == "reset" {
		abort(w)
	}
	if !pause(r.Context(), do.head) {
		return
	}
	h := w.Header()
	for _, f := range do.fields {
		name, value, _ := strings.Cut(f, ":")
		h.Add(name, strings.TrimSpace(value))
	}
	body, err := json.Marshal(saw)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body = append(body, strings.Repeat(" ", do.pad)...)
	for _, f := range do.trailers {
		name, value, _ := strings.Cut(f, ":")
		// Set after the body; net/http takes it for a trailer by the prefix.
		defer h.Set(http.TrailerPrefix+name, strings.TrimSpace(value))
	}
	if isCall(r) {
		body = callHead(h, do, body)
	} else {
		h.Set("Content-Type", "application/json")
		if len(do.trailers) == 0 {
			h.Set("Content-Length", strconv.Itoa(len(body)))
		}
	}
	w.WriteHeader(do.status)
	if len(do.trailers) > 0 {
		_ = http.NewResponseController(w).Flush() // so that HTTP/1.1 chunks the body, which trailers need
	}
	writeHalves(w, r, do, body)
}

// writeHalves writes the body, with what was asked for between its halves.
func writeHalves(w http.ResponseWriter, r *http.Request, do *orders, body []byte) {
	half := len(body) / 2
	if do.body > 0 || do.end == "cut" {
		w.Write(body[:half])
		_ = http.NewResponseController(w).Flush() // a client that is gone is no concern of the server's
		body = body[half:]
		if !pause(r.Context(), do.body) {
			return
		}
	}
	if do.end == "cut" {
		abort(w)
	}
	w.Write(body)
}

// abort resets the connection, or over HTTP/2 the stream.
func abort(w http.ResponseWriter) {
	if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // closing then resets
		}
		c.Close()
	}
	panic(http.ErrAbortHandler)
}

// pause waits; false: the client is gone.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// ServeFirst greets each connection and then echoes, as a server does whose protocol lets it speak first.
func (s *Server) ServeFirst(l net.Listener) error { return s.serveBytes(l, true) }

// ServeSecond waits for the client, greets, and echoes.
func (s *Server) ServeSecond(l net.Listener) error { return s.serveBytes(l, false) }

func (s *Server) serveBytes(l net.Listener, first bool) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			var some [1024]byte
			n := 0
			if !first {
				if n, err = c.Read(some[:]); err != nil {
					return
				}
			}
			if _, err := c.Write(append([]byte(greeting+s.Name+"\n"), some[:n]...)); err == nil {
				_, _ = io.Copy(c, c) // it ends when the client has gone
			}
		}()
	}
}
