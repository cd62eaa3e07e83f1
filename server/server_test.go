package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func TestOnlyLoopback(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "8.8.8.8:7070"} {
		_, err := Listen(addr, "127.0.0.1:0")
		if e, ok := errors.AsType[*NotLoopbackError](err); !ok || e.Flag != "--grpc-addr" || e.Addr != addr {
			t.Errorf("gRPC on %s gives %v", addr, err)
		}
		_, err = Listen("127.0.0.1:0", addr)
		if e, ok := errors.AsType[*NotLoopbackError](err); !ok || e.Flag != "--http-addr" {
			t.Errorf("HTTP on %s gives %v", addr, err)
		}
	}
	for _, addr := range []string{"localhost:0", "127.0.0.2:0"} {
		l, err := Listen(addr, "127.0.0.1:0")
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Listen("nonsense", ""); err == nil || !strings.Contains(err.Error(), "--grpc-addr nonsense") {
		t.Errorf("an address that is none gives %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	addr := taken.Addr().String()
	_, err = Listen(addr, "127.0.0.1:0")
	if e, ok := errors.AsType[*AddrInUseError](err); !ok || e.Addr != addr {
		t.Fatalf("error is %v", err)
	}
	if text := err.Error(); !strings.Contains(text, addr) || !strings.Contains(text, "--grpc-addr") || strings.Contains(text, "\n") {
		t.Errorf("error says %q", text)
	}
	// When the second port is taken, the first is free again.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = Listen(first, addr); err == nil || !strings.Contains(err.Error(), "--http-addr") {
		t.Errorf("error is %v", err)
	}
	again, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatalf("the first port stays taken: %v", err)
	}
	_ = again.Close()
}

func TestHealth(t *testing.T) {
	r := start(t)
	check := func() healthv1.HealthCheckResponse_ServingStatus {
		resp, err := healthv1.NewHealthClient(r.conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status
	}
	if s := check(); s != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("a new server is %s", s)
	}
	r.get(t, "/readyz", 200)
	r.SetServing(false)
	if s := check(); s != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("after SetServing(false) it is %s", s)
	}
	r.get(t, "/readyz", 503)
	r.get(t, "/healthz", 200)
	r.SetServing(true)
	r.get(t, "/readyz", 200)
}

func TestReflection(t *testing.T) {
	r := start(t)
	want := []string{
		"chartergate.v1.BudgetService", "chartergate.v1.CatalogService", "chartergate.v1.CharterService",
		"chartergate.v1.ManifestService", "chartergate.v1.OperationsService", "chartergate.v1.PolicyService", "chartergate.v1.PreflightService",
		"chartergate.v1.PriceService", "chartergate.v1.UsageService", "grpc.health.v1.Health",
		"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
	}
	s, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range resp.GetListServicesResponse().GetService() {
		got = append(got, x.Name)
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("reflection does not list %s: %v", name, got)
		}
	}
}

// faulty is a service that goes wrong, to see what the server makes of it.
type faulty struct {
	chartergatev1.UnimplementedPreflightServiceServer
}

func (faulty) Check(_ context.Context, req *chartergatev1.CheckRequest) (*chartergatev1.CheckResponse, error) {
	switch req.Call.Feature {
	case "panic":
		panic("secret")
	case "error":
		return nil, errors.New("secret")
	}
	return &chartergatev1.CheckResponse{}, nil
}

func (faulty) Session(s grpc.BidiStreamingServer[chartergatev1.SessionRequest, chartergatev1.SessionResponse]) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	panic("secret")
}

// watcher never ends by itself.
type watcher struct {
	chartergatev1.UnimplementedBudgetServiceServer
	started chan struct{}
}

func (w watcher) WatchBudgetStatuses(_ *chartergatev1.WatchBudgetStatusesRequest, s grpc.ServerStreamingServer[chartergatev1.WatchBudgetStatusesResponse]) error {
	close(w.started)
	<-s.Context().Done()
	return s.Context().Err()
}

func TestInternalErrorsAreHiddenAndLogged(t *testing.T) {
	r := start(t, func(c *Config) { c.Preflight = faulty{} })
	client := chartergatev1.NewPreflightServiceClient(r.conn)
	for _, feature := range []string{"panic", "error"} {
		call := aReserve("").Call
		call.Feature = feature
		r.log.take()
		_, err := client.Check(t.Context(), &chartergatev1.CheckRequest{Call: call})
		if s := status.Convert(err); s.Code() != codes.Internal || strings.Contains(s.Message(), "secret") {
			t.Errorf("%s gives %v", feature, err)
		}
		if log := r.log.take(); !strings.Contains(log, "secret") || !strings.Contains(log, "PreflightService/Check") || !strings.Contains(log, "ERROR") {
			t.Errorf("the log says %q", log)
		}
	}
	stream, err := client.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&chartergatev1.SessionRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("a panic in a stream gives %v", err)
	}
	call := aReserve("").Call
	call.Estimate.InputTokens = -5
	_, err = client.Check(t.Context(), &chartergatev1.CheckRequest{Call: call})
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "call.estimate.input_tokens"})
	if text := r.get(t, "/metrics", 200); !strings.Contains(text, `chartergate_rpcs_total{code="Internal",method="/chartergate.v1.PreflightService/Check"} 2`) ||
		!strings.Contains(text, `chartergate_rpc_seconds_count{method="/chartergate.v1.PreflightService/Check"} 3`) {
		t.Errorf("metrics are %s", text)
	}
}

func TestStopEndsWatches(t *testing.T) {
	listeners, err := Listen("127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := watcher{started: make(chan struct{})}
	s, err := New(Config{Listeners: listeners, Control: control, Compiler: rego{}, Statuses: w, Validator: validator(t),
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	conn, err := grpc.NewClient(s.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := chartergatev1.NewBudgetServiceClient(conn).WatchBudgetStatuses(t.Context(), &chartergatev1.WatchBudgetStatusesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	<-w.started
	stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ends with %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve gives %v", err)
	}
	if _, err := net.Dial("tcp", s.GRPCAddr().String()); err == nil {
		t.Error("the port is still open")
	}
}

func TestNewNeedsAStore(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "Config.Control") {
		t.Errorf("error is %v", err)
	}
}
