package echo

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
)

// Pod is what runs in a pod.
type Pod struct {
	Name    string `json:"name"`
	Control string `json:"control"` // path of the socket that it is driven over
	Backend bool   `json:"backend"` // it listens on the ports of a backend
}

// Run serves until ctx ends.
func (p Pod) Run(ctx context.Context) error {
	s := &Server{Name: p.Name}
	done := make(chan error, 8)
	if p.Backend {
		for port, serve := range map[int]func(net.Listener) error{
			HTTPPort:      func(l net.Listener) error { return s.Serve(ctx, l) },
			OtherHTTPPort: func(l net.Listener) error { return s.Serve(ctx, l) },
			ThirdHTTPPort: func(l net.Listener) error { return s.Serve(ctx, l) },
			FirstPort:     s.ServeFirst,
			SecondPort:    s.ServeSecond,
		} {
			l, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
			if err != nil {
				return fmt.Errorf("pod %s: %w", p.Name, err)
			}
			go func() { done <- serve(l) }()
		}
	}
	// The socket comes last: who reaches it finds the ports open.
	l, err := net.Listen("unix", p.Control)
	if err != nil {
		return fmt.Errorf("pod %s: %w", p.Name, err)
	}
	go func() { done <- http.Serve(l, p.control(s)) }() //nolint:gosec // nobody else has the socket's path
	select {
	case <-ctx.Done():
		return nil
	case err := <-done:
		return fmt.Errorf("pod %s: %w", p.Name, err)
	}
}

func (p Pod) control(s *Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /send", func(w http.ResponseWriter, r *http.Request) {
		var request Request
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		reply(w, Send(r.Context(), &request))
	})
	mux.HandleFunc("GET /seen", func(w http.ResponseWriter, r *http.Request) { reply(w, s.Seen(r.FormValue("nonce"))) })
	return mux
}

func reply(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Write(b)
}
