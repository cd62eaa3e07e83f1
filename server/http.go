package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/proto/gen/openapi"
)

const (
	maxHeaderBytes    = 64 << 10
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	idleTimeout       = 2 * time.Minute
)

// newHTTP makes the HTTP side: REST under /v1, /openapi.json, /metrics, /healthz and /readyz.
func (s *Server) newHTTP(registry *prometheus.Registry) error {
	conn, err := grpc.NewClient("passthrough:///in-process",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.inside.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)), // a page of 1,000 large records
	)
	if err != nil {
		return err
	}
	s.gateway = conn
	rest, err := newGateway(conn)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", rest)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelError)}))
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openapi.JSON)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	s.http = &http.Server{
		Handler:           loopbackHost(http.NewCrossOriginProtection().Handler(http.MaxBytesHandler(mux, maxMessageBytes))),
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	return nil
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	resp, err := s.health.Check(r.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || resp.Status != healthv1.HealthCheckResponse_SERVING {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ready\n")
}

func newGateway(conn *grpc.ClientConn) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}, // a 0 is said, not left out
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
		}),
		runtime.WithErrorHandler(restError),
		runtime.SetQueryParameterParser(strictQuery{}),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		chartergatev1.RegisterPreflightServiceHandler,
		chartergatev1.RegisterUsageServiceHandler,
		chartergatev1.RegisterBillingServiceHandler,
		chartergatev1.RegisterCharterServiceHandler,
		chartergatev1.RegisterBudgetServiceHandler,
		chartergatev1.RegisterCatalogServiceHandler,
		chartergatev1.RegisterPriceServiceHandler,
		chartergatev1.RegisterPolicyServiceHandler,
		chartergatev1.RegisterManifestServiceHandler,
		chartergatev1.RegisterOperationsServiceHandler,
		chartergatev1.RegisterReportServiceHandler,
	} {
		if err := register(context.Background(), mux, conn); err != nil {
			return nil, fmt.Errorf("bind the REST API: %w", err)
		}
	}
	return mux, nil
}

// strictQuery refuses query parameters that the request does not have: a misspelled `validate_only` must not delete.
type strictQuery struct{ runtime.DefaultQueryParser }

// Parse implements runtime.QueryParameterParser.
func (q strictQuery) Parse(m proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	for name := range values {
		if !hasField(m.ProtoReflect().Descriptor(), strings.Split(name, ".")) {
			return fmt.Errorf("unknown query parameter %q", name)
		}
	}
	return q.DefaultQueryParser.Parse(m, values, filter)
}

func hasField(d protoreflect.MessageDescriptor, path []string) bool {
	f := d.Fields().ByTextName(path[0])
	if f == nil {
		f = d.Fields().ByJSONName(path[0])
	}
	switch {
	case f == nil:
		return false
	case len(path) == 1 || f.Message() == nil:
		return len(path) == 1
	}
	return hasField(f.Message(), path[1:])
}

// restError answers {"code", "message", "details"}. What the gateway itself refuses, such as JSON with an unknown field,
// gets the reason that the gRPC side would give it.
func restError(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if s := status.Convert(err); s.Code() == codes.InvalidArgument && len(s.Proto().GetDetails()) == 0 {
		text := s.Message()
		if strings.Contains(text, (&http.MaxBytesError{}).Error()) {
			text = fmt.Sprintf("larger than %d bytes", maxMessageBytes)
		}
		// protojson varies the space after its prefix.
		text = strings.TrimLeft(strings.TrimPrefix(text, "proto:"), " \u00a0")
		err = Status(invalid("request", "%s", text)).Err()
	}
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, err)
}

// loopbackHost refuses requests for another host: a web page whose name was rebound to this machine could otherwise
// call an API that has no authentication.
func loopbackHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, fmt.Sprintf("the host %q is not this machine: call 127.0.0.1 or localhost", host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
