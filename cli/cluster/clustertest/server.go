// Package clustertest is an API server for tests: it answers with the objects that it is given, and forwards ports in the protocols that
// Kubernetes speaks.
package clustertest

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// Server is the API server. What is in it is set before it is asked.
type Server struct {
	Objects map[string]any    // by path: an object, or a func(*http.Request) any
	Denied  map[string]string // what is said with 403, by path
	Ports   map[string]string // "NAMESPACE/POD:PORT" -> address that the kubelet would dial

	NoWebSocket bool // as before Kubernetes 1.31
	Hang        bool // a port-forward is never answered
	Mute        bool // it is, and nothing comes of it

	Kubeconfig string          // file that says how to reach it
	Opened     <-chan struct{} // has one for every port-forward that was begun
	Closed     <-chan struct{} // and for every one that ended

	t              *testing.T
	opened, closed chan struct{}
	end            chan struct{}

	mu       sync.Mutex
	forwards []string // protocols of the port-forwards that were made
	open     int      // port-forwards that are open now
}

// New starts one for the length of a test. Its contexts are "here" and "nowhere".
func New(t *testing.T) *Server {
	t.Helper()
	s := &Server{
		Objects: map[string]any{"/version": map[string]string{"gitVersion": "v1.37.1"}}, Denied: map[string]string{}, Ports: map[string]string{},
		t: t, opened: make(chan struct{}, 1000), closed: make(chan struct{}, 1000), end: make(chan struct{}),
	}
	s.Opened, s.Closed = s.opened, s.closed
	h := httptest.NewTLSServer(s)
	t.Cleanup(h.Close)
	t.Cleanup(func() { close(s.end) })
	s.Kubeconfig = filepath.Join(t.TempDir(), "config")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	config := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "here",
		"contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}, {"name": "nowhere", "context": {"cluster": "d", "user": "u"}}],
		"clusters": [{"name": "c", "cluster": {"server": %q, "certificate-authority-data": %q}}, {"name": "d", "cluster": {"server": "http://127.0.0.1:1"}}],
		"users": [{"name": "u", "user": {"token": "t"}}]}`, h.URL, base64.StdEncoding.EncodeToString(ca))
	if err := os.WriteFile(s.Kubeconfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// Forwards returns the protocols of the port-forwards that were made, and how many are open.
func (s *Server) Forwards() (protocols []string, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.forwards), s.open
}

// ServeHTTP answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if got := r.Header.Get("Authorization"); got != "Bearer t" {
		s.t.Errorf("%s: authorization %q", r.URL, got)
	}
	w.Header().Set("Content-Type", "application/json")
	if why, is := s.Denied[r.URL.Path]; is {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": %q}`, why)
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if parts[len(parts)-1] == "portforward" {
		s.portForward(w, r, parts[3]+"/"+parts[5])
		return
	}
	o, is := s.Objects[r.URL.Path]
	if list, paged := o.(func(*http.Request) any); paged {
		o = list(r)
	}
	if !is {
		w.WriteHeader(http.StatusNotFound)
		o = map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"}
	}
	if err := json.NewEncoder(w).Encode(o); err != nil {
		s.t.Error(err)
	}
}

// portForward speaks SPDY, bare or in a WebSocket, as the API server and the kubelet do.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request, pod string) {
	if s.Hang && websocket.IsWebSocketUpgrade(r) != s.NoWebSocket {
		s.count("hanging", 1)
		defer s.count("", -1)
		select {
		case <-s.end:
		case <-r.Context().Done():
		}
		return
	}
	pairs := map[string]httpstream.Stream{}
	streams := make(chan httpstream.Stream, 2)
	received := func(stream httpstream.Stream, _ <-chan struct{}) error { streams <- stream; return nil }
	protocol := "SPDY"
	var conn httpstream.Connection
	switch {
	case websocket.IsWebSocketUpgrade(r) && s.NoWebSocket:
		http.Error(w, "unable to upgrade: unsupported protocol", http.StatusBadRequest)
		return
	case websocket.IsWebSocketUpgrade(r):
		protocol = "WebSocket"
		u := websocket.Upgrader{Subprotocols: []string{"SPDY/3.1+portforward.k8s.io"}}
		ws, err := u.Upgrade(w, r, nil)
		if err != nil {
			s.t.Error(err)
			return
		}
		if s.Mute {
			s.count("mute", 1)
			defer s.count("", -1)
			for err == nil {
				_, _, err = ws.ReadMessage()
			}
			return
		}
		if conn, err = streamspdy.NewServerConnection(portforward.NewTunnelingConnection("server", ws), received); err != nil {
			s.t.Error(err)
			return
		}
	default:
		if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
			return
		}
		conn = streamspdy.NewResponseUpgrader().UpgradeResponse(w, r, received)
	}
	s.count(protocol, 1)
	defer s.count("", -1)
	defer func() { _ = conn.Close() }()
	for {
		select {
		case stream := <-streams:
			pairs[stream.Headers().Get(corev1.StreamType)] = stream
			if len(pairs) == 2 {
				go s.join(pod, pairs[corev1.StreamTypeError], pairs[corev1.StreamTypeData])
			}
		case <-conn.CloseChan():
			return
		case <-s.end:
			return
		}
	}
}

func (s *Server) count(protocol string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += by
	if by > 0 {
		s.forwards = append(s.forwards, protocol)
		s.opened <- struct{}{}
		return
	}
	s.closed <- struct{}{}
}

// join is the kubelet: it dials, and says on the one stream why it cannot, or copies from and to the other.
func (s *Server) join(pod string, failures, data httpstream.Stream) {
	defer failures.Close()
	defer data.Close()
	c, err := net.Dial("tcp", s.Ports[pod+":"+data.Headers().Get(corev1.PortHeader)])
	if err != nil {
		fmt.Fprintf(failures, "error forwarding port 1 to pod x, uid : failed to execute portforward in network namespace \"/run/netns/y\": "+
			"failed to connect to localhost:1 inside namespace \"z\", IPv4: %v IPv6 dial tcp6: address localhost: no suitable address found ", err)
		return
	}
	defer c.Close()
	go io.Copy(c, data) //nolint:errcheck // ends with either side
	io.Copy(data, c)    //nolint:errcheck // ends with either side
}
