// Package traffic is what the lab's pods run, so that nothing has to be installed: an HTTP and gRPC server that says who it is
// and whom it saw, and clients that count where their requests went and what failed.
package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fields of an answer, by which the client knows what became of its request without parsing the body.
const (
	BackendField = "X-Backend" // who answered
	NonceField   = "X-Nonce"   // sent by the client, answered as it came: tells an answer to another request
	RouteField   = "X-Route"   // answered as it came; a route sets it, which shows what was routed
)

// Server is a server that answers what it received, or, to a gRPC call, its name. It speaks HTTP/1.1 and, to clients that begin
// with its preface, HTTP/2.
type Server struct {
	Name   string   `json:"name"`
	Listen []string `json:"listen"` // addresses, such as "[::]:8080"
}

// Answer is the body of an answer.
type Answer struct {
	Backend string      `json:"backend"`
	Client  string      `json:"client"` // the address that the connection came from
	Method  string      `json:"method"`
	Host    string      `json:"host"`
	Target  string      `json:"target"` // as it was sent
	Headers http.Header `json:"headers"`
	Bytes   int64       `json:"bytes"` // of the request's body
}

// Seen is one line of the server's log: a connection, or a request when Target is set.
type Seen struct {
	Time   time.Time `json:"time"`
	Client string    `json:"client"` // address and port
	Method string    `json:"method,omitempty"`
	Target string    `json:"target,omitempty"`
}

// Run serves until ctx ends and writes what it saw to log, a line of JSON each.
func (s Server) Run(ctx context.Context, log io.Writer) error {
	l := &seenLog{w: bufio.NewWriterSize(log, 64<<10)}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Protocols:         protocols,
		Handler:           s.handler(l),
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateNew {
				l.add(Seen{Time: time.Now(), Client: c.RemoteAddr().String()})
			}
		},
	}
	done := make(chan error, len(s.Listen))
	for _, addr := range s.Listen {
		lis, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("server %s: %w", s.Name, err)
		}
		go func() { done <- srv.Serve(lis) }()
	}
	flush := time.NewTicker(20 * time.Millisecond)
	defer flush.Stop()
	for {
		select {
		case <-flush.C:
			if err := l.flush(); err != nil {
				return fmt.Errorf("server %s: write log: %w", s.Name, err)
			}
		case err := <-done:
			return fmt.Errorf("server %s: %w", s.Name, err)
		case <-ctx.Done():
			return errors.Join(srv.Close(), l.flush())
		}
	}
}

func (s Server) handler(l *seenLog) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isCall(r) {
			s.answerCall(w, r, l)
			return
		}
		l.add(Seen{Time: time.Now(), Client: r.RemoteAddr, Method: r.Method, Target: r.RequestURI})
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return // the client is gone, or sent a body that ends too early: there is nobody to answer
		}
		body, err := json.Marshal(Answer{
			Backend: s.Name, Client: r.RemoteAddr, Method: r.Method, Host: r.Host, Target: r.RequestURI, Headers: r.Header, Bytes: n,
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set(BackendField, s.Name)
		for _, name := range []string{NonceField, RouteField} {
			if v := r.Header.Get(name); v != "" {
				h.Set(name, v)
			}
		}
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)+1))
		w.WriteHeader(status(r.URL.Path))
		// A client that is gone by now is no concern of the server's.
		_, _ = w.Write(append(body, '\n'))
	})
}

// status is what a path such as /status/503 asks for, and 200 otherwise.
func status(path string) int {
	if s, ok := strings.CutPrefix(path, "/status/"); ok {
		if n, err := strconv.Atoi(s); err == nil && n >= 200 && n <= 599 {
			return n
		}
	}
	return http.StatusOK
}

// seenLog gathers lines, so that a request does not cost a write.
type seenLog struct {
	mu sync.Mutex
	w  *bufio.Writer
}

func (l *seenLog) add(s Seen) {
	line, err := json.Marshal(s)
	if err != nil {
		return // times and strings always marshal
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// bufio keeps the first error, and flush reports it.
	_, _ = l.w.Write(append(line, '\n'))
}

func (l *seenLog) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Flush()
}

// ReadLog reads what a server wrote. A last line that is not complete yet is left out.
func ReadLog(r io.Reader) ([]Seen, error) {
	var seen []Seen
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return seen, nil
		}
		if err != nil {
			return nil, err
		}
		var s Seen
		if err := json.Unmarshal(line, &s); err != nil {
			return nil, fmt.Errorf("log line %d: %w", len(seen)+1, err)
		}
		seen = append(seen, s)
	}
}
