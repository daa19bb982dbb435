package message

import "testing"

// The gRPC protocol over HTTP/2: "Content-Type" is "application/grpc" [("+proto" / "+json" / {custom})], and all calls are POST.
func TestIsGRPC(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/grpc":               true,
		"application/grpc+proto":         true,
		"application/grpc+":              true,
		"application/grpc;charset=utf-8": true,
		"APPLICATION/gRPC+JSON":          true, // RFC 9110, 8.3.1
		"application/grpc-web":           false,
		"application/grpc-web+proto":     false,
		"application/grpcx":              false,
		"application/grpc, text/plain":   false,
		"application/grp":                false,
		"application/json":               false,
		"xapplication/grpc":              false,
		"application/\u212arpc":          false,
		"":                               false,
	} {
		for method, may := range map[string]bool{"POST": true, "GET": false, "post": false, "": false} {
			r := Request{Method: method, Fields: fields("accept: */*", "Content-Type: "+contentType)}
			if got := r.IsGRPC(); got != (want && may) {
				t.Errorf("%s %q: %v", method, contentType, got)
			}
		}
	}
	for name, r := range map[string]Request{
		"no content type":  {Method: "POST", Fields: fields("accept: application/grpc")},
		"the second line":  {Method: "POST", Fields: fields("content-type: a/b", "content-type: application/grpc")},
		"no fields at all": {Method: "POST"},
	} {
		if r.IsGRPC() {
			t.Errorf("%s is gRPC", name)
		}
	}
}

func TestIsGRPCDoesNotAllocate(t *testing.T) {
	r := Request{Method: "POST", Fields: fields("te: trailers", "content-type: Application/grpc+proto")}
	if n := testing.AllocsPerRun(100, func() { r.IsGRPC() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
