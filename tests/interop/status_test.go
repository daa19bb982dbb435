package interop

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// answers are what the proxy answers by itself.
func answers(kind, name string) service {
	match := func(service string) string { return "{method: {service: " + service + "}}" }
	if kind == "HTTPRoute" {
		match = func(service string) string { return "{path: {type: PathPrefix, value: /" + service + "}}" }
	}
	s := service{name: name, pods: []string{"one"}, targetPort: grpcPort, kind: kind, appProtocol: "kubernetes.io/h2c"}
	s.rules = "[{matches: [" + match("known") + "], backendRefs: [{name: " + name + ", port: 80}]}" +
		", {matches: [" + match("empty") + "], backendRefs: [{name: nobody, port: 80}]}" +
		", {matches: [" + match("invalid") + "], backendRefs: [{name: missing, port: 80}]}" +
		", {matches: [" + match("omitted") + "]}]"
	return s
}

// B-20 to B-25: what the proxy answers to a gRPC request by itself is gRPC, trailers-only: one HEADERS frame with END_STREAM,
// status 200 and the code, whatever the kind of the route. The connection is as good as before.
func TestAnswersOfTheProxyAreTrailersOnly(t *testing.T) {
	proxied(t)
	nobody := service{name: "nobody", targetPort: grpcPort}
	m := start(t, answers("GRPCRoute", "grpc"), answers("HTTPRoute", "http"), nobody)
	var reached atomic.Int64 // calls that came to the backend, which knows none of them either
	m.serveGRPC("one", backend{}, grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		reached.Add(1)
		return status.Error(codes.Unimplemented, "the backend's own")
	}))
	for _, c := range []struct {
		rule, path string
		want       codes.Code
	}{
		{"A-42, B-20: no rule matches", "/unknown/Call", codes.Unimplemented},
		{"B-21: no endpoints", "/empty/Call", codes.Unavailable},
		{"B-21: no such Service", "/invalid/Call", codes.Unavailable},
		{"B-22: no backendRefs", "/omitted/Call", codes.Unavailable},
	} {
		for service, kind := range map[string]string{"grpc": "GRPCRoute", "http": "HTTPRoute"} {
			t.Run(kind+" "+c.rule, func(t *testing.T) {
				raw := m.rawClient(t, service)
				for _, stream := range []uint32{1, 3} { // a second time on the same connection
					if err := raw.call(stream, c.path); err != nil {
						t.Fatal(err)
					}
					trailersOnly(t, raw, stream, c.want)
				}
				client := m.grpcClient(service)
				err := client.Invoke(within(t, 10*time.Second), c.path, &testgrpc.Empty{}, &testgrpc.Empty{})
				if status.Code(err) != c.want {
					t.Errorf("grpc-go sees %v, want %v", err, c.want)
				}
				if n := reached.Load(); n != 0 {
					t.Errorf("%d calls came to the backend", n)
				}
			})
		}
	}
	for i, service := range []string{"grpc", "http"} { // for contrast
		err := m.grpcClient(service).Invoke(within(t, 10*time.Second), "/known/Call", &testgrpc.Empty{}, &testgrpc.Empty{})
		if n := reached.Load(); n != int64(i+1) || status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != "the backend's own" {
			t.Errorf("a call that a rule matches ends with %v, and %d have come to the backend", err, n)
		}
	}
}

// trailersOnly checks that the stream's answer is one HEADERS frame that says all.
func trailersOnly(t *testing.T, raw rawConn, stream uint32, want codes.Code) {
	t.Helper()
	f, err := raw.next(stream)
	if err != nil {
		t.Fatal(err)
	}
	h, ok := f.(*http2.MetaHeadersFrame)
	if !ok {
		t.Fatalf("the answer begins with %v", f)
	}
	v := values(h)
	if v[":status"] != "200" || v["content-type"] != "application/grpc" || v["grpc-status"] != strconv.Itoa(int(want)) || v["grpc-message"] == "" {
		t.Errorf("the answer is %v, want 200, application/grpc, grpc-status %d and a message", v, want)
	}
	if !h.StreamEnded() {
		t.Error("the answer goes on after its HEADERS")
	}
}

// M-34, M-35: what is no gRPC matches no rule of a GRPCRoute, and is answered as HTTP.
func TestGRPCRouteAnswersHTTPAsHTTP(t *testing.T) {
	proxied(t)
	m := start(t, grpcService("one"))
	m.serveGRPC("one", interop.NewTestServer())
	raw := m.rawClient(t, "grpc")
	err := raw.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block(
		":method", "GET", ":scheme", "http", ":path", "/", ":authority", "grpc",
	)})
	if err != nil {
		t.Fatal(err)
	}
	f, err := raw.next(1)
	if err != nil {
		t.Fatal(err)
	}
	h, ok := f.(*http2.MetaHeadersFrame)
	if !ok {
		t.Fatalf("the answer begins with %v", f)
	}
	if v := values(h); v[":status"] != "404" || v["grpc-status"] != "" {
		t.Errorf("a GET is answered with %v, want 404 and no grpc-status", v)
	}
}

// What the backend answers is passed on as it is: a trailers-only answer stays one frame.
func TestTrailersOnlyOfTheBackend(t *testing.T) {
	m := start(t, grpcService("one"))
	m.serveGRPC("one", backend{unary: func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		return nil, status.Error(codes.FailedPrecondition, "not today")
	}})
	raw := m.rawClient(t, "grpc")
	if err := raw.call(1, "/grpc.testing.TestService/UnaryCall"); err != nil {
		t.Fatal(err)
	}
	trailersOnly(t, raw, 1, codes.FailedPrecondition)
}

// Metadata of all kinds goes both ways: many values of one name in their order, and every byte in binary values.
func TestMetadata(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	sent := metadata.MD{
		"x-text": {"b", "a", "c, d"}, "x-bin": {string(every), "", "\x00"}, "x-empty": {""}, "x-long": {strings.Repeat("long,", 2000)},
	}
	m := start(t, grpcService("one"))
	var seen metadata.MD
	var limit time.Duration
	m.serveGRPC("one", backend{unary: func(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		seen, _ = metadata.FromIncomingContext(ctx)
		if end, ok := ctx.Deadline(); ok {
			limit = time.Until(end)
		}
		return &testgrpc.SimpleResponse{}, errors.Join(grpc.SendHeader(ctx, sent), grpc.SetTrailer(ctx, sent))
	}})
	ctx := metadata.NewOutgoingContext(within(t, 20*time.Second), sent)
	var header, trailer metadata.MD
	client := testgrpc.NewTestServiceClient(m.grpcClient("grpc"))
	if _, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	for where, got := range map[string]metadata.MD{"at the backend": seen, "in the header": header, "in the trailer": trailer} {
		for _, name := range slices.Sorted(maps.Keys(sent)) {
			if !slices.Equal(got[name], sent[name]) {
				t.Errorf("%s %s is %.80q, want %.80q", where, name, got[name], sent[name])
			}
		}
	}
	if authority := seen.Get(":authority"); len(authority) != 1 || authority[0] != m.target("grpc") {
		t.Errorf("the backend sees the authority %q, want %q", authority, m.target("grpc"))
	}
	if limit < 10*time.Second || limit > 20*time.Second {
		t.Errorf("the backend has %v for the call, want what is left of the client's 20 s", limit)
	}
}

// A call that the client cancels is cancelled at the backend, before and after its first answer, and the connection goes on.
func TestCancelReachesTheBackend(t *testing.T) {
	m := start(t, grpcService("one"))
	entered, ended := make(chan struct{}), make(chan error)
	m.serveGRPC("one", backend{duplex: func(s testgrpc.TestService_FullDuplexCallServer) error {
		r, err := s.Recv()
		if err == nil && len(r.ResponseParameters) > 0 {
			err = s.Send(&testgrpc.StreamingOutputCallResponse{})
		}
		if err != nil {
			return err
		}
		entered <- struct{}{}
		<-s.Context().Done()
		ended <- s.Context().Err()
		return s.Context().Err()
	}})
	client := testgrpc.NewTestServiceClient(m.grpcClient("grpc"))
	began := m.connections()
	for name, parameters := range map[string][]*testgrpc.ResponseParameters{"before the answer": nil, "after the first message": {{}}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(within(t, 20*time.Second))
			defer cancel()
			s, err := client.FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: parameters}); err != nil {
				t.Fatal(err)
			}
			await(t, "the call comes to the backend", entered)
			if parameters != nil {
				if _, err := s.Recv(); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			if err := await(t, "the call is cancelled at the backend", ended); !errors.Is(err, context.Canceled) {
				t.Errorf("the backend sees %v, want the call cancelled", err)
			}
		})
	}
	if n := m.connections() - began; !direct() && n != 1 {
		t.Errorf("the proxy had %v connections, want 1", n)
	}
}

func await[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: not within 10 s", what)
	}
	return v
}

// RFC 9113 §8.1: a backend may answer before it has read the request. The client gets the answer, and not an error.
func TestEarlyAnswer(t *testing.T) {
	m := start(t, grpcService("one"))
	m.serveGRPC("one", backend{duplex: func(s testgrpc.TestService_FullDuplexCallServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		return status.Error(codes.ResourceExhausted, "enough")
	}})
	s, err := testgrpc.NewTestServiceClient(m.grpcClient("grpc")).FullDuplexCall(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	// More than all windows hold, so that the client is in the middle of it.
	for p := newBulk(4, 16<<20); err == nil; {
		b := p.next()
		if b == nil {
			t.Fatal("the backend took the whole request, which it does not read")
		}
		err = s.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: b}})
	}
	if !errors.Is(err, io.EOF) {
		t.Fatalf("sending ends with %v", err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "enough" {
		t.Errorf("the call ends with %v, want what the backend said", err)
	}
}

// RFC 9113 §8.1.1 and §5.4.2: what the backend breaks off in the middle is broken off for the client, not ended; before the
// answer's head the client is told as gRPC tells it. The client's connection and its other streams are not concerned.
func TestResetOfTheBackend(t *testing.T) {
	m := start(t, grpcService("one"))
	m.serveRaw("one")
	raw := m.rawClient(t, "grpc")
	if err := raw.open(1, "/raw/after-head"); err != nil {
		t.Fatal(err)
	}
	var frames []string
	for reset := false; !reset; {
		f, err := raw.next(1)
		if err != nil {
			t.Fatalf("after %v: %v", frames, err)
		}
		frames = append(frames, f.Header().String())
		switch f := f.(type) {
		case *http2.DataFrame: // the backend has begun its answer, and resets when the request ends
			if err := raw.WriteData(1, true, []byte("\x00\x00\x00\x00\x00")); err != nil {
				t.Fatal(err)
			}
		case *http2.RSTStreamFrame:
			reset = true
			if f.ErrCode == http2.ErrCodeNo {
				t.Error("the client is told that there is no error")
			}
		}
		if !reset && f.Header().Flags.Has(http2.FlagDataEndStream) {
			t.Fatalf("the answer, which the backend broke off, has an end: %v", frames)
		}
	}
	t.Logf("%v", frames)
	client := m.grpcClient("grpc")
	began := m.connections()
	for _, path := range []string{"/raw/before-head", "/raw/after-head", "/raw/before-head"} {
		err := client.Invoke(within(t, 10*time.Second), path, &testgrpc.Empty{}, &testgrpc.Empty{})
		if code := status.Code(err); code != codes.Internal && code != codes.Unavailable {
			t.Errorf("%s ends with %v, want INTERNAL or UNAVAILABLE", path, err)
		}
	}
	if n := m.connections() - began; !direct() && n != 1 {
		t.Errorf("the proxy had %v connections, want 1", n)
	}
}

// serveRaw serves HTTP/2 in a pod: every request is reset, before its answer or in the middle of it, as its path says.
func (m *mesh) serveRaw(pod string) {
	m.t.Helper()
	l := m.listen(pod, grpcPort)
	m.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				if err := resetAll(c); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && m.t.Context().Err() == nil {
					m.t.Logf("the raw server: %v", err)
				}
			}()
		}
	}()
}

func resetAll(c net.Conn) error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return err
	}
	raw := newRaw(c)
	if err := raw.WriteSettings(); err != nil {
		return err
	}
	for {
		f, err := raw.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = raw.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = raw.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			if values(f)[":path"] == "/raw/after-head" {
				err = half(raw, f.StreamID)
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				err = raw.WriteRSTStream(f.StreamID, http2.ErrCodeInternal)
			}
		}
		if err != nil {
			return err
		}
	}
}

// half is a half of an answer.
func half(raw rawConn, stream uint32) error {
	return errors.Join(raw.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, EndHeaders: true, BlockFragment: block(":status", "200", "content-type", "application/grpc"),
	}), raw.WriteData(stream, false, []byte("\x00\x00\x00\x00\x08half")))
}
