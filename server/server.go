// Package server is the API: gRPC services that convert, call and convert, the interceptor that they share, and the same
// API as REST.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"github.com/chartergate/chartergate/proto/codec"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

// Limits of the server.
const (
	maxMessageBytes      = 4 << 20 // of a request, gRPC or HTTP
	maxConcurrentStreams = 1024    // of one connection; further calls wait at the client
	unaryWorkers         = 64      // goroutines that calls use again, for their stacks have grown; further calls get new ones
	minPingInterval      = 10 * time.Second
	drainTime            = 5 * time.Second // for calls in flight when the server stops
	returnTime           = time.Second     // before that, for clients that hold slices to return them
)

// Config is what a Server is made of. Control and Compiler are required.
type Config struct {
	// Listeners are open ports, which Serve closes. Nil: New opens GRPCAddr and HTTPAddr.
	Listeners *Listeners
	// GRPCAddr and HTTPAddr are loopback addresses. Empty: DefaultGRPCAddr and DefaultHTTPAddr.
	GRPCAddr, HTTPAddr string

	Control  store.Control
	Compiler PolicyCompiler
	// BuiltinPolicy names the revision that decides before one is activated, such as `builtin/5f2a…`.
	BuiltinPolicy string

	// Preflight, Usage, Statuses, Leases and Operations are the services of the ledger. Nil: their methods answer
	// UNIMPLEMENTED.
	Preflight chartergatev1.PreflightServiceServer
	Usage     chartergatev1.UsageServiceServer
	// Sums is what ReportPriceCoverage knows of traffic. Nil: none.
	Sums UsageSums
	// Restater restates settlements by corrections of prices. Nil: RestateSettlements answers UNIMPLEMENTED.
	Restater   Restater
	Statuses   BudgetStatuses
	Leases     *LeaseService
	Operations chartergatev1.OperationsServiceServer
	// Reports answers from the usage store. Nil: its methods answer UNIMPLEMENTED.
	Reports chartergatev1.ReportServiceServer
	Billing chartergatev1.BillingServiceServer

	// Requests remembers answers by request id, shared with what serves sessions. Nil: one of its own.
	Requests *Idempotency
	// Validator is shared with what serves sessions. Nil: one of its own.
	Validator *Validator

	Logger   *slog.Logger         // nil: slog.Default
	Now      func() time.Time     // nil: time.Now
	Registry *prometheus.Registry // nil: an empty one
	Tracing  bool                 // record spans with the global OpenTelemetry provider
}

// Server serves the API.
type Server struct {
	log       *slog.Logger
	listeners *Listeners
	grpc      *grpc.Server
	http      *http.Server
	health    *health.Server
	inside    *bufconn.Listener // the REST gateway calls the gRPC server through it
	gateway   *grpc.ClientConn
	leases    *LeaseService // nil: there is none
	stop      context.CancelFunc
}

// New makes a server that is ready to Serve. Errors: those of Listen; what is missing in cfg.
func New(cfg Config) (*Server, error) {
	if cfg.Control == nil || cfg.Compiler == nil {
		return nil, errors.New("server: Config.Control and Config.Compiler are required")
	}
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if cfg.Listeners == nil {
		var err error
		if cfg.Listeners, err = Listen(cfg.GRPCAddr, cfg.HTTPAddr); err != nil {
			return nil, err
		}
	}
	stopping, stop := context.WithCancel(context.Background())
	g := &gate{validator: cfg.Validator, requests: cfg.Requests, metrics: newCallMetrics(cfg.Registry), log: cfg.Logger, stopping: stopping}
	s := &Server{
		log: cfg.Logger, listeners: cfg.Listeners, grpc: newGRPC(g, cfg.Tracing), health: health.NewServer(),
		inside: bufconn.Listen(1 << 20), leases: cfg.Leases, stop: stop,
	}
	cfg.register(s.grpc)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc) // v1 and v1alpha
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			g.metrics.add("/"+service+"/"+m.Name, m.IsClientStream || m.IsServerStream)
		}
	}
	if err := s.newHTTP(cfg.Registry); err != nil {
		return nil, errors.Join(err, cfg.Listeners.Close())
	}
	return s, nil
}

func (cfg *Config) fill() error {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Requests == nil {
		cfg.Requests = NewIdempotency(cfg.Now)
	}
	if cfg.Preflight == nil {
		cfg.Preflight = chartergatev1.UnimplementedPreflightServiceServer{}
	}
	if cfg.Usage == nil {
		cfg.Usage = chartergatev1.UnimplementedUsageServiceServer{}
	}
	if cfg.Statuses == nil {
		cfg.Statuses = chartergatev1.UnimplementedBudgetServiceServer{}
	}
	if cfg.Billing == nil {
		cfg.Billing = chartergatev1.UnimplementedBillingServiceServer{}
	}
	if cfg.Operations == nil {
		cfg.Operations = chartergatev1.UnimplementedOperationsServiceServer{}
	}
	if cfg.Reports == nil {
		cfg.Reports = chartergatev1.UnimplementedReportServiceServer{}
	}
	if cfg.Validator == nil {
		v, err := NewValidator()
		if err != nil {
			return err
		}
		cfg.Validator = v
	}
	return nil
}

func newGRPC(g *gate, tracing bool) *grpc.Server {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec.New()),
		grpc.NumStreamWorkers(unaryWorkers),
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
		grpc.ConnectionTimeout(20 * time.Second),
	}
	if tracing {
		options = append(options, grpc.StatsHandler(otelgrpc.NewServerHandler()))
	}
	return grpc.NewServer(options...)
}

func (cfg *Config) register(s *grpc.Server) {
	policies := &policyService{control: cfg.Control, compiler: cfg.Compiler, builtin: cfg.BuiltinPolicy}
	chartergatev1.RegisterPreflightServiceServer(s, cfg.Preflight)
	chartergatev1.RegisterUsageServiceServer(s, cfg.Usage)
	if cfg.Leases != nil {
		chartergatev1.RegisterLeaseServiceServer(s, cfg.Leases)
	} else {
		chartergatev1.RegisterLeaseServiceServer(s, chartergatev1.UnimplementedLeaseServiceServer{})
	}
	chartergatev1.RegisterCharterServiceServer(s, newCharterService(cfg.Control, cfg.Validator))
	chartergatev1.RegisterBudgetServiceServer(s, newBudgetService(cfg.Control, cfg.Validator, cfg.Statuses))
	chartergatev1.RegisterCatalogServiceServer(s, newCatalogService(cfg.Control, cfg.Validator))
	chartergatev1.RegisterPriceServiceServer(s, newPriceService(cfg.Control, cfg.Validator, cfg.Now, cfg.Sums, cfg.Restater))
	chartergatev1.RegisterPolicyServiceServer(s, policies)
	chartergatev1.RegisterOperationsServiceServer(s, cfg.Operations)
	chartergatev1.RegisterReportServiceServer(s, cfg.Reports)
	chartergatev1.RegisterBillingServiceServer(s, cfg.Billing)
	chartergatev1.RegisterManifestServiceServer(s, &manifestService{control: cfg.Control, policies: policies})
}

// GRPCAddr is the address of the gRPC listener.
func (s *Server) GRPCAddr() net.Addr { return s.listeners.GRPC.Addr() }

// HTTPAddr is the address of the HTTP listener.
func (s *Server) HTTPAddr() net.Addr { return s.listeners.HTTP.Addr() }

// SetServing sets what health checks and `/readyz` say. A new server is serving; one that stops is not.
func (s *Server) SetServing(serving bool) {
	if serving {
		s.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	} else {
		s.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	}
}

// Serve answers until ctx is done, then stops: at most 1 s in which leased slices are returned, then no new calls and at
// most 5 s for those in flight. To be called once. Error:
// that of a listener which broke.
func (s *Server) Serve(ctx context.Context) error {
	failed := make(chan error, 3)
	serve := func(what string, f func() error) {
		go func() {
			if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		}()
	}
	serve("serve gRPC", func() error { return s.grpc.Serve(s.listeners.GRPC) })
	serve("serve the gateway", func() error { return s.grpc.Serve(s.inside) })
	serve("serve HTTP", func() error { return s.http.Serve(s.listeners.HTTP) })
	s.log.Info("serving", "grpc", s.GRPCAddr().String(), "http", s.HTTPAddr().String())
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	return errors.Join(err, s.shutdown())
}

func (s *Server) shutdown() error {
	s.health.Shutdown()
	if s.leases != nil {
		ctx, cancel := context.WithTimeout(context.Background(), returnTime)
		s.leases.stop(ctx)
		cancel()
	}
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	err = errors.Join(err, s.gateway.Close())
	force := context.AfterFunc(ctx, s.grpc.Stop)
	s.grpc.GracefulStop()
	force()
	s.log.Info("stopped")
	return err
}
