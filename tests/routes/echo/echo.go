// Package echo is what the pods of the routes' tests run: a server that answers with what it saw and misbehaves as it is
// told, and a client that sends requests byte by byte as they are written. Both are driven over one control socket.
package echo

import (
	"net/http"
	"time"
)

// Fields of a request that are for the server.
const (
	NonceField = "X-Nonce" // tells the request from all others: what the server saw is kept by it, and tries are counted
	DoField    = "X-Do"    // what the server is to do; parseOrders describes it
)

// The ports of a backend.
const (
	HTTPPort        = 8080 // HTTP/1.1, and HTTP/2 with prior knowledge, gRPC included
	OtherHTTPPort   = 3000 // the same
	ThirdHTTPPort   = 3001 // the same
	FirstPort       = 9090 // no HTTP: the server speaks first
	SecondPort      = 9443 // no HTTP: the client speaks first
	RefusingPort    = 9999 // nobody listens
	greeting        = "hello from "
	maxAnswer       = 1 << 20 // bytes of an answer that are read
	defaultPatience = 10 * time.Second
)

// The protocols of a Request.
const (
	HTTP1     = "http/1.1"
	HTTP2     = "http/2"
	GRPC      = "grpc"
	WebSocket = "websocket"
	TCP       = "tcp"
)

// Request is what a pod is asked to send.
type Request struct {
	Address  string        `json:"address"` // IP address and port
	Protocol string        `json:"protocol"`
	Method   string        `json:"method"`
	Path     string        `json:"path"` // with the query, as it goes on the wire
	Host     string        `json:"host"`
	Fields   []string      `json:"fields"` // "Name: value", in order
	Body     string        `json:"body"`
	Trailers []string      `json:"trailers"` // of the request, which makes its body chunked
	Count    int           `json:"count"`
	Workers  int           `json:"workers"` // each has a connection of its own, or over HTTP/2 shares one
	Pause    time.Duration `json:"pause"`   // between the head and the body
	Patience time.Duration `json:"patience"`
	Nonce    string        `json:"nonce"`
}

// Answer is what came of one request.
type Answer struct {
	Nonce    string        `json:"nonce"`
	Status   int           `json:"status"`
	Protocol string        `json:"protocol"`
	Fields   http.Header   `json:"fields"`
	Trailers http.Header   `json:"trailers"`
	GRPC     int           `json:"grpc"` // status of a call; -1: there is none
	Saw      *Saw          `json:"saw"`  // nil: the body is no backend's
	Body     string        `json:"body"`
	Error    string        `json:"error"` // the answer did not come, or not whole
	Interim  []int         `json:"interim"`
	Took     time.Duration `json:"took"`
}

// Saw is what a backend saw of a request.
type Saw struct {
	Backend  string      `json:"backend"`
	Port     int         `json:"port"`   // that it came to
	Client   string      `json:"client"` // address and port
	Protocol string      `json:"protocol"`
	Method   string      `json:"method"`
	Path     string      `json:"path"` // as it was on the wire
	Host     string      `json:"host"`
	Fields   http.Header `json:"fields"`
	Trailers http.Header `json:"trailers"`
	Bytes    int         `json:"bytes"` // of the body
}
