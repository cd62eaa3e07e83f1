package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

// One real etcd, and the store in it, for the whole test binary; start empties the store.
var (
	etcdServer *embedded.Server
	control    *etcd.Control
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "chartergate-server-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, quiet := context.Background(), slog.New(slog.DiscardHandler)
	if etcdServer, err = embedded.Start(ctx, dir, quiet); err != nil {
		panic(err)
	}
	defer func() { _ = etcdServer.Close() }()
	if control, err = etcd.OpenControl(ctx, etcdServer.Client(), quiet, time.Now); err != nil {
		panic(err)
	}
	defer control.Close()
	return m.Run()
}

// rego is the real compiler, as the command wires it.
type rego struct{}

func (rego) Hash(modules map[string]string) string { return policy.Hash(modules) }

// Vet vets in this process: the command does it in a child.
func (rego) Vet(ctx context.Context, modules map[string]string) (int, error) {
	v := policy.Vet(ctx, modules)
	switch {
	case len(v.Problems) > 0:
		return 0, problems(v.Problems)
	case len(v.Failed) > 0:
		e := &PolicyTestsError{}
		for _, t := range v.Failed {
			e.Failed = append(e.Failed, PolicyTest{t.Name, t.File, t.Line, t.Problem})
		}
		return 0, e
	case v.Costly != "":
		return 0, &PolicyCostError{policy.EvaluationLimit.String(), v.Costly}
	}
	return v.Tests, nil
}

// Test is as Vet, without lines and durations.
func (rego) Test(ctx context.Context, modules map[string]string) (*chartergatev1.TestPolicyResponse, error) {
	report, err := policy.Test(ctx, modules, policy.TestOptions{Coverage: true})
	if bad, ok := errors.AsType[*policy.InvalidError](err); ok {
		return nil, problems(bad.Problems)
	} else if err != nil {
		return nil, err
	}
	resp := &chartergatev1.TestPolicyResponse{CoveragePermille: int32(report.Coverage.Permille())}
	for _, t := range report.Tests {
		resp.Tests = append(resp.Tests, &chartergatev1.PolicyTest{Name: t.Name, Passed: t.Passed, Problem: t.Problem})
	}
	return resp, nil
}

func problems(list []policy.Problem) *PolicyError {
	e := &PolicyError{}
	for _, p := range list {
		e.Problems = append(e.Problems, PolicyProblem{p.File, p.Line, p.Column, p.Message})
	}
	return e
}

// rig is a running server and its clients.
type rig struct {
	*Server
	conn      *grpc.ClientConn
	charters  chartergatev1.CharterServiceClient
	budgets   chartergatev1.BudgetServiceClient
	catalog   chartergatev1.CatalogServiceClient
	prices    chartergatev1.PriceServiceClient
	policies  chartergatev1.PolicyServiceClient
	manifests chartergatev1.ManifestServiceClient
	url       string
	log       *logText
}

const builtin = "builtin/0123456789abcdef"

// start runs a server on free ports over an empty store, until the test ends.
func start(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	empty(t)
	listeners, err := Listen("127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{log: &logText{}}
	cfg := Config{
		Listeners: listeners, Control: control, Compiler: rego{}, BuiltinPolicy: builtin,
		Logger: slog.New(slog.NewTextHandler(r.log, nil)), Registry: prometheus.NewRegistry(), Validator: validator(t),
	}
	for _, f := range change {
		f(&cfg)
	}
	if r.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx) }()
	r.conn, err = grpc.NewClient(r.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.conn.Close(); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	r.charters, r.budgets = chartergatev1.NewCharterServiceClient(r.conn), chartergatev1.NewBudgetServiceClient(r.conn)
	r.catalog, r.prices = chartergatev1.NewCatalogServiceClient(r.conn), chartergatev1.NewPriceServiceClient(r.conn)
	r.policies, r.manifests = chartergatev1.NewPolicyServiceClient(r.conn), chartergatev1.NewManifestServiceClient(r.conn)
	r.url = "http://" + r.HTTPAddr().String()
	return r
}

var compiled *Validator

func validator(t testing.TB) *Validator {
	t.Helper()
	if compiled == nil {
		var err error
		if compiled, err = NewValidator(); err != nil {
			t.Fatal(err)
		}
	}
	return compiled
}

func empty(t *testing.T) {
	t.Helper()
	_, err := control.Commit(t.Context(), func(s *charter.Snapshot) (changes []charter.Change, _ error) {
		remove := func(name string) { changes = append(changes, charter.Change{Name: name}) }
		for _, r := range s.Charters() {
			remove(r.Name())
		}
		for _, r := range s.Budgets() {
			remove(r.Name())
		}
		for _, r := range s.PriceBooks() {
			remove(r.Name())
		}
		for _, r := range s.Policies() {
			remove(r.Name())
		}
		for _, r := range s.PolicyRevisions("") {
			remove(r.Name())
		}
		if s.Catalog() != nil {
			remove("catalog")
		}
		return changes, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks an error: its code, its ErrorInfo with the metadata given as pairs, and that its message says all of
// the rest.
func refused(t *testing.T, err error, code codes.Code, reason chartergatev1.ErrorReason, metadata map[string]string, says ...string) {
	t.Helper()
	s, ok := status.FromError(err)
	if err == nil || !ok {
		t.Fatalf("error is %v, want %s", err, reason)
	}
	if s.Code() != code {
		t.Errorf("code is %s (%s), want %s", s.Code(), s.Message(), code)
	}
	info := detail[*errdetails.ErrorInfo](s)
	if info == nil {
		t.Fatalf("no ErrorInfo in %v", s)
	}
	if info.Domain != "chartergate.dev" || "ERROR_REASON_"+info.Reason != reason.String() {
		t.Errorf("ErrorInfo is %s of %s, want %s", info.Reason, info.Domain, reason)
	}
	for k, v := range metadata {
		if info.Metadata[k] != v {
			t.Errorf("metadata %s is %q, want %q", k, info.Metadata[k], v)
		}
	}
	for _, text := range says {
		if !strings.Contains(s.Message(), text) {
			t.Errorf("message %q does not say %q", s.Message(), text)
		}
	}
}

func detail[D any](s *status.Status) (d D) {
	for _, x := range s.Details() {
		if v, ok := x.(D); ok {
			return v
		}
	}
	return d
}

// rest calls the REST API and decodes the answer.
func (r *rig) rest(t *testing.T, method, path, body string, want int) map[string]any {
	t.Helper()
	text := r.send(t, method, path, body, want, nil)
	var answer map[string]any
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%s %s gives no JSON: %v: %s", method, path, err, text)
	}
	return answer
}

// logText is a log that a test reads while the server writes it.
type logText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// take gives what was written since the last time.
func (l *logText) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buf.Reset()
	return l.buf.String()
}

func ptr[V any](v V) *V { return &v }
