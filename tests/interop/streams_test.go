package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// backend is a gRPC server of which a test says what it does.
type backend struct {
	testgrpc.UnimplementedTestServiceServer
	unary  func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error)
	duplex func(testgrpc.TestService_FullDuplexCallServer) error
}

func (b backend) UnaryCall(ctx context.Context, r *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return b.unary(ctx, r)
}

func (b backend) FullDuplexCall(s testgrpc.TestService_FullDuplexCallServer) error {
	return b.duplex(s)
}

func grpcService(pods ...string) service {
	return service{name: "grpc", pods: pods, targetPort: grpcPort, kind: "GRPCRoute"}
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, fmt.Errorf("the test took longer than %v", limit))
	t.Cleanup(cancel)
	return ctx
}

// RFC 9113 §5.1.2: 1,000 streams are open on one connection of the client, all at the same time, and each is answered.
func TestThousandStreamsOnOneConnection(t *testing.T) {
	const streams = 1000
	m := start(t, grpcService("one"))
	var arrived atomic.Int64
	all, goOn := make(chan struct{}), make(chan struct{})
	m.serveGRPC("one", backend{duplex: func(s testgrpc.TestService_FullDuplexCallServer) error {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if arrived.Add(1) == streams {
			close(all)
		}
		select {
		case <-goOn:
		case <-s.Context().Done():
			return s.Context().Err()
		}
		return s.Send(&testgrpc.StreamingOutputCallResponse{Payload: r.Payload})
	}})
	ctx, client := within(t, 40*time.Second), testgrpc.NewTestServiceClient(m.grpcClient("grpc"))
	began := m.connections()
	results := make(chan error, streams)
	for i := range streams {
		go func() { results <- echo(ctx, client, fmt.Appendf(nil, "stream %d", i)) }()
	}
	select {
	case <-all:
	case err := <-results:
		t.Fatalf("a stream ended before all had come to the backend (%d of %d): %v", arrived.Load(), streams, err)
	case <-ctx.Done():
		t.Fatalf("%d of %d streams came to the backend: %v", arrived.Load(), streams, context.Cause(ctx))
	}
	if !direct() {
		if n := m.connections() - began; n != 1 {
			t.Errorf("the proxy had %v connections of the client, want 1", n)
		}
		if n := m.metric("sluice_active_requests"); n != streams {
			t.Errorf("the proxy has %v requests at the same time, want %d", n, streams)
		}
	}
	close(goOn)
	for range streams {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
}

// echo sends one message, awaits it, and the end of the stream.
func echo(ctx context.Context, client testgrpc.TestServiceClient, body []byte) error {
	s, err := client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: body}}); err != nil {
		return err
	}
	r, err := s.Recv()
	if err != nil {
		return err
	}
	if !bytes.Equal(r.GetPayload().GetBody(), body) {
		return fmt.Errorf("sent %q, got %q", body, r.GetPayload().GetBody())
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the answer came %w, want the end", err)
	}
	return nil
}

// bulk is a number of bytes that look random, in pieces, and their checksum.
type bulk struct {
	left   int
	source *rand.ChaCha8
	sum    hash.Hash
}

const piece = 64 << 10

func newBulk(seed byte, size int) *bulk {
	return &bulk{left: size, source: rand.NewChaCha8([32]byte{seed}), sum: sha256.New()}
}

// next is the next piece, or nil after the last one. It is the caller's.
func (b *bulk) next() []byte {
	if b.left == 0 {
		return nil
	}
	p := make([]byte, min(piece, b.left))
	b.left -= len(p)
	_, _ = b.source.Read(p) // it never fails
	b.sum.Write(p)
	return p
}

// Many bytes in both directions of one stream at the same time arrive as they were sent.
func TestBothDirectionsAtOnce(t *testing.T) {
	size := heavy(1<<30, 64<<20)
	m := start(t, grpcService("one"))
	m.serveGRPC("one", backend{duplex: func(s testgrpc.TestService_FullDuplexCallServer) error {
		sum, sent := sha256.New(), make(chan error, 1)
		go func() { sent <- sendAll(newBulk(1, size), s.Send) }()
		for {
			r, err := s.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			sum.Write(r.GetPayload().GetBody())
		}
		s.SetTrailer(metadata.Pairs("received-bin", string(sum.Sum(nil))))
		return <-sent
	}})
	began := time.Now()
	s, err := testgrpc.NewTestServiceClient(m.grpcClient("grpc")).FullDuplexCall(within(t, time.Duration(heavy(240, 90))*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	out, sent := newBulk(2, size), make(chan error, 1)
	go func() {
		for p := out.next(); p != nil; p = out.next() {
			if err := s.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: p}}); err != nil {
				sent <- err
				return
			}
		}
		sent <- s.CloseSend()
	}()
	sum, n := sha256.New(), 0
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", n, size, err)
		}
		n += len(r.GetPayload().GetBody())
		sum.Write(r.GetPayload().GetBody())
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if want := checksum(newBulk(1, size)); n != size || !bytes.Equal(sum.Sum(nil), want) {
		t.Errorf("%d bytes with the checksum %x came to the client, want %d with %x", n, sum.Sum(nil), size, want)
	}
	if got := strings.Join(s.Trailer().Get("received-bin"), ""); got != string(out.sum.Sum(nil)) {
		t.Errorf("bytes with the checksum %x came to the backend, want %x", got, out.sum.Sum(nil))
	}
	t.Logf("%d MiB in each direction in %v", size>>20, time.Since(began).Round(time.Millisecond))
}

func sendAll(b *bulk, send func(*testgrpc.StreamingOutputCallResponse) error) error {
	for p := b.next(); p != nil; p = b.next() {
		if err := send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: p}}); err != nil {
			return err
		}
	}
	return nil
}

func checksum(b *bulk) []byte {
	for b.next() != nil {
	}
	return b.sum.Sum(nil)
}

const (
	// stalled is how many streams stand still at once, and each has stallSize bytes to send.
	stalled   = 8
	stallSize = 16 << 20

	// What may be on its way of one stream while its reader stands still: the reader's own window, which is 64 KiB here, what
	// grpc-go's sender takes from its user beforehand (64 KiB, and the message that exceeds it), and what the proxy grants.
	// The proxy gives credit only for bytes that went on, so its window is all that it ever holds; we allow it 1 MiB. What is in
	// the kernel's buffers is within the windows as well.
	ownWindow   = 64 << 10
	senderAhead = 64<<10 + piece
	proxyWindow = 1 << 20
	// Beside the windows the proxy has what its collector has not reached: as much again, and what its heap starts with.
	collected = 16 << 20
)

// RFC 9113 §5.2: a reader that stands still stops its sender, and what is on its way stays within the windows. So does the
// proxy's memory. The other streams of the same connection go on. Afterwards all arrives.
func TestStalledReader(t *testing.T) {
	for name, toClient := range map[string]bool{"the client stalls": true, "the backend stalls": false} {
		t.Run(name, func(t *testing.T) {
			stall(t, toClient)
		})
	}
}

// stallHeader tells the backend which direction the bytes of a call take.
const stallHeader = "bytes-to"

func stall(t *testing.T, toClient bool) {
	m := start(t, grpcService("one"))
	var sent atomic.Int64 // bytes that were taken from senders
	read := make(chan struct{})
	m.serveGRPC("one", backend{
		unary: func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
			return &testgrpc.SimpleResponse{}, nil
		},
		duplex: func(s testgrpc.TestService_FullDuplexCallServer) error {
			if md, _ := metadata.FromIncomingContext(s.Context()); md.Get(stallHeader)[0] == "client" {
				return push(newBulk(3, stallSize), &sent, func(p []byte) error {
					return s.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: p}})
				})
			}
			if err := s.SendHeader(nil); err != nil {
				return err
			}
			return drain(read, func() ([]byte, error) {
				r, err := s.Recv()
				return r.GetPayload().GetBody(), err
			})
		},
	}, grpc.InitialWindowSize(ownWindow), grpc.InitialConnWindowSize(4<<20))
	client := testgrpc.NewTestServiceClient(m.grpcClient("grpc", grpc.WithInitialWindowSize(ownWindow), grpc.WithInitialConnWindowSize(4<<20)))
	ctx := within(t, 100*time.Second)
	if _, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	before := m.resident()
	results := make(chan error, stalled)
	for range stalled {
		go func() { results <- stalledCall(ctx, client, toClient, &sent, read) }()
	}
	highest := m.watchStall(ctx, t, client, &sent, results)
	granted := int64(stalled * (ownWindow + senderAhead + proxyWindow))
	t.Logf("while %d readers of one connection stood still, %.1f MiB of %d were sent; the proxy's resident memory went from %.1f to %.1f MiB",
		stalled, float64(sent.Load())/(1<<20), stalled*stallSize>>20, float64(before)/(1<<20), float64(highest)/(1<<20))
	if n := sent.Load(); n > granted {
		t.Errorf("%d bytes were sent to readers that stand still, and the windows hold %d", n, granted)
	}
	if grown := highest - before; grown > 2*stalled*proxyWindow+collected {
		t.Errorf("the proxy's memory grew by %d bytes, and its windows are %d", grown, stalled*proxyWindow)
	}
	close(read)
	for range stalled {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := sent.Load(); n != stalled*stallSize {
		t.Errorf("%d bytes were sent in all, want %d", n, stalled*stallSize)
	}
}

// stalledCall is a call in which bytes go to the client or to the backend; who gets them reads none before it may.
func stalledCall(ctx context.Context, client testgrpc.TestServiceClient, toClient bool, sent *atomic.Int64, read <-chan struct{}) error {
	to := "backend"
	if toClient {
		to = "client"
	}
	s, err := client.FullDuplexCall(metadata.AppendToOutgoingContext(ctx, stallHeader, to))
	if err != nil {
		return err
	}
	if toClient {
		return drain(read, func() ([]byte, error) {
			r, err := s.Recv()
			return r.GetPayload().GetBody(), err
		})
	}
	err = push(newBulk(3, stallSize), sent, func(p []byte) error {
		return s.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: p}})
	})
	if err := errors.Join(err, s.CloseSend()); err != nil {
		return err
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the backend ends the call with %w", err)
	}
	return nil
}

func push(b *bulk, sent *atomic.Int64, send func([]byte) error) error {
	for p := b.next(); p != nil; p = b.next() {
		if err := send(p); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		sent.Add(int64(len(p)))
	}
	return nil
}

// drain reads to the end, from when it may on, and checks what came.
func drain(read <-chan struct{}, recv func() ([]byte, error)) error {
	<-read
	sum := sha256.New()
	for {
		p, err := recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		sum.Write(p)
	}
	if want := checksum(newBulk(3, stallSize)); !bytes.Equal(sum.Sum(nil), want) {
		return errors.New("what came after the stall is not what was sent")
	}
	return nil
}

// watchStall lets the readers stand still until nothing has been sent for 2 s, 10 s in make verify, and returns the most
// memory that the proxy had. All the while other calls on the same connection are answered.
func (m *mesh) watchStall(ctx context.Context, t *testing.T, client testgrpc.TestServiceClient, sent *atomic.Int64, results <-chan error) (highest int64) {
	t.Helper()
	still := time.Duration(heavy(10, 2)) * time.Second
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for {
		select {
		case err := <-results:
			t.Fatalf("a call ended while its reader stood still: %v", err)
		case <-ctx.Done():
			t.Fatalf("the senders do not stop: %v", context.Cause(ctx))
		case <-tick.C:
		}
		highest = max(highest, m.resident())
		if _, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{}); err != nil {
			t.Fatalf("another call beside those that stand still: %v", err)
		}
		if n := sent.Load(); n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) > still {
			return highest
		}
	}
}

// resident is the resident memory of the proxy's worker, in bytes; 0 where there is no proxy.
func (m *mesh) resident() int64 {
	m.t.Helper()
	if direct() {
		return 0
	}
	pids, err := m.lab.Workers(m.proxy)
	if err != nil || len(pids) != 1 {
		m.t.Fatalf("workers %v, want one: %v", pids, err)
	}
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pids[0]), "status"))
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				m.t.Fatal(err)
			}
			return kb << 10
		}
	}
	m.t.Fatal("the proxy's status has no VmRSS")
	return 0
}

// The calls of one connection are shared, whether the backends are endpoints of one Service or Services of equal weight.
func TestCallsOfOneConnectionAreShared(t *testing.T) {
	proxied(t)
	const calls = 3000
	services := []service{grpcService("one", "two", "three"), {
		name: "weighted", pods: []string{"one"}, targetPort: grpcPort, kind: "GRPCRoute",
		rules: "[{backendRefs: [{name: only-one, port: 80}, {name: only-two, port: 80}, {name: only-three, port: 80}]}]",
	}}
	for _, pod := range []string{"one", "two", "three"} {
		services = append(services, service{name: "only-" + pod, pods: []string{pod}, targetPort: grpcPort})
	}
	m := start(t, services...)
	for name := range m.pods {
		m.serveGRPC(name, backend{unary: func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
			return &testgrpc.SimpleResponse{ServerId: name}, nil
		}})
	}
	for parent, what := range map[string]string{"grpc": "three endpoints of one Service", "weighted": "three Services of equal weight"} {
		t.Run(what, func(t *testing.T) {
			began := m.connections()
			shares, err := m.share(within(t, 60*time.Second), parent, calls)
			if err != nil {
				t.Fatal(err)
			}
			if n := m.connections() - began; n != 1 {
				t.Errorf("the proxy had %v connections, want 1", n)
			}
			t.Logf("%v", shares)
			// 5 % of all calls are 5.8 standard deviations of an even and independent choice.
			for name := range m.pods {
				if n := shares[name]; n < calls/3-calls/20 || n > calls/3+calls/20 {
					t.Errorf("%s got %d of %d calls, want a third within 5 %%", name, n, calls)
				}
			}
		})
	}
}

// share makes calls over one connection, some at a time, and counts who answered them.
func (m *mesh) share(ctx context.Context, service string, calls int) (map[string]int, error) {
	client := testgrpc.NewTestServiceClient(m.grpcClient(service))
	var mu sync.Mutex
	shares, failures := map[string]int{}, []error{}
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			for range calls / 10 {
				r, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{})
				mu.Lock()
				if err == nil {
					shares[r.ServerId]++
				} else {
					failures = append(failures, err)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(failures) > 0 {
		return nil, fmt.Errorf("%d of %d calls failed; the first: %w", len(failures), calls, failures[0])
	}
	return shares, nil
}
