package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.26.0"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/server"
	"github.com/chartergate/chartergate/server/metering"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/server/restate"
	"github.com/chartergate/chartergate/server/shadow"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/archive"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	dataDir, grpcAddr, httpAddr string
	archiveDir                  string
	readArchives                []string
	etcd                        etcdOptions
	maxHold                     time.Duration
	withoutEtcd                 string
	logLevel, logFormat         string
	usage                       usageOptions
	bundle                      bundleOptions
	decisionLog                 string
}

type etcdOptions struct {
	endpoints                     []string
	username, caFile, cert, keyFn string
	compact                       bool
}

// etcdPasswordEnv keeps the password off the command line, which every process on the machine can read.
const etcdPasswordEnv = "CHARTERGATE_ETCD_PASSWORD"

func newServeCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gate",
		Long: `Run the gate. Alone, it keeps everything in a data directory, with etcd inside the process. With --etcd-endpoints it
keeps it in an etcd cluster, together with any number of other servers: each holds against its own part of every ceiling,
and any of them answers any call.

The server listens on loopback only: there is no authentication yet. Traces are sent when OTEL_EXPORTER_OTLP_ENDPOINT is
set. Stop it with Ctrl-C or SIGTERM: it finishes what is under way and gives idle money back.`,
		Example: `  chartergate serve
  chartergate serve --data-dir /var/lib/chartergate
  ` + etcdPasswordEnv + `=… chartergate serve --etcd-endpoints https://etcd-1:2379,https://etcd-2:2379 --etcd-cacert ca.pem --etcd-username gate`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return serve(ctx, &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dataDir, "data-dir", "chartergate-data", "directory of the embedded etcd; made when it is missing")
	f.StringVar(&o.archiveDir, "archive-dir", "", "directory of the archive, where settlements go a minute after they were made, one for each server (default <data-dir>/archive)")
	f.StringArrayVar(&o.readArchives, "read-archive-dir", nil, "archive directory of another server, to read only, for `prices restate`; once for each")
	f.StringVar(&o.grpcAddr, "grpc-addr", server.DefaultGRPCAddr, "loopback address for gRPC; port 0 takes a free one")
	f.StringVar(&o.httpAddr, "http-addr", server.DefaultHTTPAddr, "loopback address for REST, /metrics and /openapi.json")
	f.StringSliceVar(&o.etcd.endpoints, "etcd-endpoints", nil, "members of an etcd cluster, instead of the embedded etcd")
	f.StringVar(&o.etcd.username, "etcd-username", "", "etcd user; the password is in "+etcdPasswordEnv)
	f.StringVar(&o.etcd.caFile, "etcd-cacert", "", "file of the CA that signed etcd's certificates")
	f.StringVar(&o.etcd.cert, "etcd-cert", "", "file of the client certificate for etcd")
	f.StringVar(&o.etcd.keyFn, "etcd-key", "", "file of the client certificate's key")
	f.BoolVar(&o.etcd.compact, "etcd-compact", true, "compact the history of the etcd cluster that is older than 30 s; turn it off where others use the cluster and look after that. The embedded etcd is always compacted")
	o.usage.addFlags(f)
	o.bundle.addFlags(f)
	f.StringVar(&o.decisionLog, "decision-log", "", "send decisions that are kept to a file, as lines of JSON, or to an http or https URL, gzipped, in the format of OPA's decision log")
	f.DurationVar(&o.maxHold, "max-hold", ledger.DefaultMaxTTL, "longest time that a hold may last; after a crash, money in use is out of reach for about as long")
	f.StringVar(&o.withoutEtcd, "without-etcd", "refuse", "what to do when etcd has not answered for 5s: refuse, or an amount such as 5.00 that this server may still hold in all, from what it was granted; a ceiling may be exceeded by that much")
	if err := f.MarkHidden(uncountedFlag); err != nil {
		panic(err)
	}
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	return cmd
}

// gcPercent trades memory for time on the hot path: the heap may grow to five times what is live. GOGC overrides it.
const gcPercent = 400

type systemClock struct{ preflight.Waiter }

func (systemClock) Now() time.Time { return time.Now() }

func serve(ctx context.Context, o *serveOptions) (err error) {
	log, err := newLogger(o.logLevel, o.logFormat)
	if err != nil {
		return err
	}
	if o.maxHold < time.Second || o.maxHold > 24*time.Hour {
		return fmt.Errorf("--max-hold is %s, it must be 1s to 24h", o.maxHold)
	}
	offline := money.Nanos(0)
	if o.withoutEtcd != "" && o.withoutEtcd != "refuse" {
		if offline, err = money.Parse(o.withoutEtcd); err != nil || offline < 0 {
			return fmt.Errorf("--without-etcd %q: use refuse, or an amount such as 5.00", o.withoutEtcd)
		}
	}
	slog.SetDefault(log)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	listeners, err := server.Listen(o.grpcAddr, o.httpAddr)
	if err != nil {
		return err
	}
	served := false
	defer func() {
		if !served {
			err = errors.Join(err, listeners.Close())
		}
	}()
	tracing, stopTracing, err := startTracing(ctx)
	if err != nil {
		return err
	}
	defer stopTracing()

	client, embedded, closeEtcd, err := o.openEtcd(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeEtcd()) }()
	control, err := etcd.OpenControl(ctx, client, log, time.Now)
	if err != nil {
		return err
	}
	defer control.Close()
	decider, err := policy.NewDecider()
	if err != nil {
		return err
	}
	follow, serving := followPolicies(decider, control, log)
	vetter, err := newVetter()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	bundle, err := o.bundle.start(ctx, o.dataDir, decider, vetter, follow, registry, log)
	if err != nil {
		return err
	}
	shadows := openShadow(decider, control, log)
	go shadows.Run(ctx)

	for _, dir := range o.readArchives {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return fmt.Errorf("--read-archive-dir: %s is not a directory: name the --archive-dir of another server", dir)
		}
	}
	settlements, err := archive.Open(cmp.Or(o.archiveDir, filepath.Join(o.dataDir, "archive")), 0)
	if err != nil {
		return fmt.Errorf("--archive-dir: %w", err)
	}
	defer func() { err = errors.Join(err, settlements.Close()) }()

	meter, closeUsage, err := o.usage.open(ctx, o.dataDir, control, settlements, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeUsage()) }()
	stopLog, err := logDecisions(o.decisionLog, meter, control, decider, registry, log)
	if err != nil {
		return err
	}
	defer stopLog()

	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := server.NewMetrics(registry)
	counting, outbox := preflight.Meter(shadow.Meter{Meter: meter, Shadow: shadows}), store.Outbox(meter)
	if o.usage.uncounted {
		counting, outbox = nil, settlements
	}
	gate, err := preflight.Start(ctx, preflight.Config{
		Control: control, Ledger: etcd.NewLedger(etcd.LedgerConfig{KV: client, Lease: client, Watcher: client, Exclusive: embedded, Observe: metrics.Commit}), Decider: decider,
		Clock: systemClock{}, Metrics: metrics, Log: log, MaxTTL: o.maxHold, Addr: listeners.GRPC.Addr().String(), Offline: offline, Meter: counting, Outbox: outbox,
	})
	if err != nil {
		return err
	}
	meter.Backlog = func() int64 { _, bytes := gate.JournalLag(); return bytes }
	metrics.Metering(meter)
	metrics.Shadow(shadows)
	metrics.Budgets(func() []server.BudgetGauge { return gauges(gate) })
	metrics.JournalLag(gate.JournalLag)
	if embedded || o.etcd.compact {
		go etcd.NewCompactor(client, log).Run(ctx)
	}
	metrics.Cluster(gate.Standing)

	validator, err := server.NewValidator()
	if err != nil {
		return err
	}
	requests, peers := server.NewIdempotency(time.Now), server.NewPeers()
	defer func() { err = errors.Join(err, peers.Close()) }()
	metrics.Peers(peers)
	metrics.Policies(serving)
	s, err := server.New(server.Config{
		Listeners: listeners, Control: control, Compiler: vetter, BuiltinPolicy: decider.Builtin(), Bundle: bundle,
		Preflight: server.NewPreflightService(gate, validator, requests, peers, log), Usage: server.NewUsageService(gate, meter),
		Billing:  server.NewBillingService(o.usage.db, o.usage.db, time.Now),
		Statuses: server.NewBudgetStatusService(gate), Operations: server.NewOperationsService(gate, version(), peers, serving),
		Sums: meter.Store,
		Restater: &restate.Restater{
			Usage: meter.Store, Control: control, Archives: settlements.With(o.readArchives...), Decode: etcd.ReadBatch, Attribution: meter.Attribution,
			Journal: func(ctx context.Context, each func(store.OutboxBatch) error) error {
				return etcd.Journals(ctx, client, each)
			},
			Keep: meter.DaysFor, Now: time.Now,
		},
		PolicyLab: server.NewPolicyLab(server.PolicyLab{
			Gate: gate, Decisions: meter.Store, Shadow: shadows, Peers: peers, InUse: decider, Of: labPolicies,
		}),
		Reports: server.NewReportService(meter.Store, control, gate, time.Now),
		Leases:  server.NewLeaseService(gate, requests, peers, log), Requests: requests, Validator: validator,
		Logger: log, Registry: registry, Tracing: tracing,
	})
	if err != nil {
		return err
	}
	served = true
	return run(ctx, s, gate, meter, !o.usage.uncounted)
}

// run serves until ctx ends or the ledger is lost. The ledger is drained after the last call was answered.
func run(ctx context.Context, s *server.Server, gate *preflight.Service, meter *metering.Meter, counted bool) error {
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	writing, stopWriting := context.WithCancel(context.Background())
	lost := make(chan error, 1)
	go func() {
		lost <- gate.Run(writing)
		stopServing()
	}()
	metered := make(chan struct{})
	metering, stopMetering := context.WithCancel(context.Background())
	go func() {
		defer close(metered)
		if counted {
			meter.Run(metering)
		}
	}()
	err := s.Serve(serving)
	stopWriting()
	err = errors.Join(err, <-lost)
	stopMetering() // after the last batch
	<-metered
	return err
}

// openEtcd starts the embedded etcd, or connects to a cluster.
func (o *serveOptions) openEtcd(ctx context.Context, log *slog.Logger) (client *clientv3.Client, own bool, stop func() error, err error) {
	if len(o.etcd.endpoints) == 0 {
		e, err := embedded.Start(ctx, o.dataDir, log)
		if err != nil {
			return nil, false, nil, err
		}
		return e.Client(), true, e.Close, nil
	}
	secure, err := o.etcd.tls()
	if err != nil {
		return nil, false, nil, err
	}
	client, err = etcd.Dial(ctx, etcd.Config{
		Endpoints: o.etcd.endpoints, TLS: secure, Username: o.etcd.username, Password: os.Getenv(etcdPasswordEnv),
	})
	if err != nil {
		return nil, false, nil, err
	}
	return client, false, client.Close, nil
}

func (o *etcdOptions) tls() (*tls.Config, error) {
	if o.caFile == "" && o.cert == "" && o.keyFn == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.caFile != "" {
		pem, err := os.ReadFile(o.caFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-cacert: %s holds no PEM certificate", o.caFile)
		}
	}
	if o.cert != "" || o.keyFn != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.keyFn)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cert and --etcd-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func newLogger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q: use text or json", format)
}

// startTracing sends traces by OTLP when the standard OTEL_EXPORTER_OTLP_ENDPOINT, or its traces variant, is set.
func startTracing(ctx context.Context) (on bool, stop func(), err error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return false, func() {}, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return false, nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewWithAttributes(semconv.SchemaURL, semconv.ServiceName("chartergate"))))
	otel.SetTracerProvider(provider)
	return true, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			slog.Warn("the last traces could not be sent", "error", err)
		}
	}, nil
}

// followPolicies lets the policies decide that are active, now and whenever others are, or when follow is called. serving
// says which decide.
func followPolicies(d *policy.Decider, control *etcd.Control, log *slog.Logger) (follow func(), serving func() server.PolicyServing) {
	var following sync.Mutex
	follow = func() {
		following.Lock()
		defer following.Unlock()
		d.Follow(control.Snapshot(), log)
	}
	control.OnChange(func(*charter.Snapshot) { follow() })
	follow()
	return follow, func() server.PolicyServing { return server.PolicyServing(*d.Serving()) }
}

// shownBudgets bounds the budgets in /metrics.
const shownBudgets = 1000

func gauges(gate *preflight.Service) []server.BudgetGauge {
	states := gate.Open(shownBudgets)
	list := make([]server.BudgetGauge, len(states))
	for i, st := range states {
		name := st.ID.Budget
		if st.ID.Overflow != "" {
			name += "/overflow/" + st.ID.Overflow
		}
		list[i] = server.BudgetGauge{Budget: name, Held: st.Held, Settled: st.Settled, Limit: st.Ceil}
	}
	return list
}
