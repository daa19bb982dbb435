package forward

// Why an exchange failed: the values of Record.Failure, which are a label of the metrics.
const (
	badRequest       = "bad_request"       // what the client sent breaks HTTP's rules
	headTimeout      = "head_timeout"      // its head did not come in time
	overloaded       = "overloaded"        // the client pod is at one of its limits
	noMatch          = "no_match"          // no rule matches
	ruleFails        = "rule_fails"        // the rule answers by itself (F-5)
	noBackend        = "no_backend"        // the rule has no backend with a weight (B-4, B-5)
	invalidBackend   = "invalid_backend"   // the backend that was chosen is none (B-2)
	noEndpoint       = "no_endpoint"       // it has no endpoint (B-7)
	connectFailed    = "connect_failed"    // no endpoint could be connected to
	upstreamClosed   = "upstream_closed"   // the endpoint ended before its answer was complete
	notProcessed     = "not_processed"     // the endpoint gave the request back, and did nothing (RFC 9113, 8.7)
	upstreamReset    = "upstream_reset"    // the endpoint reset the stream
	notHTTP2         = "not_http2"         // the endpoint does not speak HTTP/2, which it has to
	unsupported      = "unsupported"       // the endpoint does not support what the request asks for
	badResponse      = "bad_response"      // what the endpoint sent breaks HTTP's rules
	requestTimeout   = "request_timeout"   // the time of the whole request was over (B-41)
	backendTimeout   = "backend_timeout"   // that of one try was (B-42)
	clientGone       = "client_gone"       // the client ended before it had its answer
	clientPodIsGone  = "client_pod_gone"   // so there is no network to connect from
	proxyBug         = "proxy_bug"         // a panic, which the log has
	unexpectedSwitch = "unexpected_switch" // 101 that nobody asked for
)
