package interop

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// grpcCase is one of grpc-go's interoperability tests. It ends its process when it fails.
type grpcCase func(ctx context.Context, c *grpc.ClientConn)

// grpcCases are named as gRPC's description of its interoperability tests names them.
var grpcCases = map[string]grpcCase{
	"empty_unary":                 testService(interop.DoEmptyUnaryCall),
	"large_unary":                 testService(interop.DoLargeUnaryCall),
	"client_streaming":            testService(interop.DoClientStreaming),
	"server_streaming":            testService(interop.DoServerStreaming),
	"ping_pong":                   testService(interop.DoPingPong),
	"empty_stream":                testService(interop.DoEmptyStream),
	"timeout_on_sleeping_server":  testService(interop.DoTimeoutOnSleepingServer),
	"cancel_after_begin":          testService(interop.DoCancelAfterBegin),
	"cancel_after_first_response": testService(interop.DoCancelAfterFirstResponse),
	"custom_metadata":             testService(interop.DoCustomMetadata),
	"status_code_and_message":     testService(interop.DoStatusCodeAndMessage),
	"special_status_message":      testService(interop.DoSpecialStatusMessage),
	"unimplemented_method":        interop.DoUnimplementedMethod,
	"unimplemented_service": func(ctx context.Context, c *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(c))
	},
}

func testService(do func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) grpcCase {
	return func(ctx context.Context, c *grpc.ClientConn) { do(ctx, testgrpc.NewTestServiceClient(c)) }
}

// gRPC's interoperability tests: grpc-go in one pod calls grpc-go in another (A-76: the Service names no appProtocol).
func TestGRPCInterop(t *testing.T) {
	m := start(t, service{name: "grpc", pods: []string{"one"}, targetPort: grpcPort, kind: "GRPCRoute"})
	m.serveGRPC("one", interop.NewTestServer())
	for _, name := range slices.Sorted(maps.Keys(grpcCases)) {
		t.Run(name, func(t *testing.T) {
			began := m.connections()
			var done string
			if err := m.in(time.Minute, "grpc", &done, name, m.target("grpc")); err != nil {
				t.Fatal(err)
			}
			if done != name {
				t.Errorf("the helper ran %q", done)
			}
			if n := m.connections() - began; !direct() && n != 1 {
				t.Errorf("the proxy had %v connections, want 1", n)
			}
		})
	}
}

// runGRPCCase is the helper: it runs one case against an address. A failure is on standard error, and ends the process.
func runGRPCCase(args []string) (any, error) {
	do, ok := grpcCases[args[0]]
	if !ok {
		return nil, fmt.Errorf("no case %q", args[0])
	}
	c, err := grpc.NewClient("passthrough:///"+args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	do(ctx, c)
	return args[0], nil
}

// connections counts those that have come to the proxy.
func (m *mesh) connections() float64 {
	m.t.Helper()
	if direct() {
		return 0
	}
	return m.metric("sluice_connections_total")
}

// serveGRPC serves gRPC in a pod until the end of the test.
func (m *mesh) serveGRPC(pod string, s testgrpc.TestServiceServer, options ...grpc.ServerOption) {
	m.t.Helper()
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, s)
	l := m.listen(pod, grpcPort)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	m.t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			m.t.Errorf("the gRPC server in pod %s: %v", pod, err)
		}
	})
}

// grpcClient is a client in the client's pod, of one connection.
func (m *mesh) grpcClient(service string, options ...grpc.DialOption) *grpc.ClientConn {
	m.t.Helper()
	c, err := grpc.NewClient("passthrough:///"+m.target(service), append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return m.dialer.dial(ctx, addr) }),
	}, options...)...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}
