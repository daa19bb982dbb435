package forward

import "strings"

// protocolHint is what a Service port says of its bytes before any has come.
type protocolHint int

const (
	unknownProtocol protocolHint = iota
	httpProtocol
	opaqueProtocol // no HTTP: TLS, a database, ...; the server may speak first
)

// hintOf reads appProtocol, or else the port's name, by the convention NAME or NAME-SUFFIX that users know from
// other meshes.
func hintOf(appProtocol, name string) protocolHint {
	hint := appProtocol
	if hint == "" {
		hint, _, _ = strings.Cut(name, "-")
	}
	switch strings.ToLower(hint) {
	case "http", "http2", "h2c", "grpc", "grpc-web", "kubernetes.io/h2c", "kubernetes.io/ws", "ws":
		return httpProtocol
	case "https", "tls", "tcp", "mysql", "postgres", "postgresql", "mongo", "mongodb", "redis", "smtp", "ssh", "amqp", "kafka",
		"kubernetes.io/wss", "wss":
		return opaqueProtocol
	}
	return unknownProtocol
}
