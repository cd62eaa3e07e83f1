// Package preflight is the use case: may this feature spend this much now, and on which tier of model? It resolves a
// call's charter and budgets, asks the policy, prices the estimate, holds the money in memory, and settles it durably.
package preflight

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/store"
)

// Decider asks the routing policy. Plans are shared and must not be changed.
type Decider interface {
	Decide(ctx context.Context, in *routing.Input) (*routing.Plan, error)
}

// Metrics is told what happens.
type Metrics interface {
	Decision(effect routing.Effect)
	ReserveSeconds(s float64)
	SettleSeconds(s float64)
	Alert()
}

// Config is what a Service works with. All fields but MaxTTL and Outbox are required.
type Config struct {
	Control store.Control
	Ledger  store.Ledger
	Decider Decider
	Clock   Clock
	Metrics Metrics
	Log     *slog.Logger
	// MaxTTL is the longest hold. 0: ledger.DefaultMaxTTL.
	MaxTTL time.Duration
	// Outbox takes settlements that leave etcd about a minute after they were made. nil: they stay in etcd, which grows.
	Outbox store.Outbox
}

// Service answers for one owner of the ledger. Make one with Start.
type Service struct {
	Config
	sealer   *sealer
	trickle  trickle
	spans    atomic.Pointer[sync.Map] // *charter.Budget -> *charter.Span
	expanded atomic.Pointer[expansions]
	deadline atomic.Int64 // by Clock.Boot: no reserve after it
	kick     chan struct{}
	unsure   *ledger.Batch // in flight, or of unknown outcome: the writer appends it again before any other
	loading  sync.Mutex    // held while the journal of an owner that is gone is read or collected

	mu     sync.Mutex
	ledger *ledger.Ledger
	// changed is closed and replaced when a grant came or an account was opened.
	changed chan struct{}
	toOpen  map[ledger.AccountID]opening
	usages  map[string]*usageUnderWay // by request id
	alerts  []ledger.Alert
	failure error // why the service has stopped
}

// opening is an account that somebody waits for.
type opening struct {
	terms  ledger.Terms
	budget *charter.Budget // nil where it is deleted, or for an overflow allowance
	span   charter.Span
}

// Start claims the ledger and takes over what owners that are gone have left. Call Run then.
func Start(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = ledger.DefaultMaxTTL
	}
	owner, err := cfg.Ledger.Claim(ctx)
	if err != nil {
		return nil, err
	}
	secret, err := cfg.Ledger.Secret(ctx)
	if err != nil {
		return nil, err
	}
	s := &Service{
		Config: cfg, sealer: newSealer(secret), kick: make(chan struct{}, 1), ledger: ledger.New(owner),
		changed: make(chan struct{}), toOpen: map[ledger.AccountID]opening{}, usages: map[string]*usageUnderWay{},
	}
	s.spans.Store(new(sync.Map))
	if err := s.heartbeat(ctx); err != nil {
		return nil, err
	}
	quarantine := ledger.Quarantine(cfg.MaxTTL)
	gone, err := cfg.Ledger.Predecessors(ctx, quarantine)
	if err != nil {
		return nil, err
	}
	for _, p := range gone {
		accounts := make(map[ledger.AccountID]bool, len(p.Accounts))
		for _, id := range p.Accounts {
			accounts[id] = true
		}
		s.ledger.TakeOver(ledger.Predecessor{Owner: p.Owner, Ready: p.Ready, Accounts: accounts})
		cfg.Log.Info("took over the holds of an owner that is gone", "owner", p.Owner, "budgets", len(p.Accounts), "quarantined_until", p.Ready)
	}
	cfg.Control.OnChange(s.controlChanged)
	return s, nil
}

// controlChanged takes new terms to the open accounts: a lower ceiling binds at once.
func (s *Service) controlChanged(snap *charter.Snapshot) {
	s.spans.Store(new(sync.Map))
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now()
	for id, a := range s.ledger.Accounts() {
		if t := terms(snap, id, a.Terms().Feature); !sameTerms(t, a.Terms()) {
			a.SetTerms(t)
			s.alerts = append(s.alerts, a.Due(now)...) // spend may be over a lowered ceiling's threshold
		}
	}
	s.ledger.Sweep(now)
	s.wake()
}

func sameTerms(a, b ledger.Terms) bool {
	return a.Limit == b.Limit && a.Charge == b.Charge && slices.Equal(a.Thresholds, b.Thresholds)
}

var defaultThresholds = []int32{charter.DefaultAlertPermille}

// terms says what the control records say of an account. feature is whose alert thresholds a leaf budget takes that has
// none of its own; may be empty. A deleted budget has a ceiling of 0.
func terms(snap *charter.Snapshot, id ledger.AccountID, feature string) ledger.Terms {
	if id.Overflow != "" {
		t := ledger.Terms{Feature: id.Overflow}
		if c := snap.Charter(id.Overflow); c != nil {
			t.Limit = c.Exhausted.OverflowAllowance
		}
		return t
	}
	b := snap.Budget(id.Budget)
	if b == nil {
		return ledger.Terms{Feature: feature}
	}
	t := ledger.Terms{Limit: b.Limit, Thresholds: b.AlertThresholdsPermille, Charge: b.OnExpiry == charter.OnExpiryCharge, Feature: feature}
	if len(t.Thresholds) == 0 {
		t.Thresholds = defaultThresholds
		if c := snap.Charter(feature); c != nil && c.Budget == id.Budget && len(c.AlertThresholdsPermille) > 0 {
			t.Thresholds = c.AlertThresholdsPermille
		}
	}
	return t
}

// wake starts the writer. It never waits.
func (s *Service) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// announce wakes those who wait for a grant or an account. Called with the lock.
func (s *Service) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// alive says whether this owner may reserve at a time of Clock.Boot.
func (s *Service) alive(at time.Duration) error {
	if int64(at) < s.deadline.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return &UnavailableError{s.failure.Error()}
	}
	return &UnavailableError{"etcd has not confirmed this server's ownership in time"}
}

// heartbeat proves the ownership; the deadline counts from before it was sent.
func (s *Service) heartbeat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ledger.HeartbeatValid)
	defer cancel()
	sent := s.Clock.Boot()
	if err := s.Ledger.Heartbeat(ctx); err != nil {
		return err
	}
	s.deadline.Store(int64(sent + ledger.HeartbeatValid))
	return nil
}

// patience is how long a call waits for etcd where its context has no deadline.
const patience = 10 * time.Second

// await waits for ch, ctx or patience. The error says that there is no answer.
func await(ctx context.Context, ch <-chan struct{}, why string) error {
	select { // mostly it is done already or soon
	case <-ch:
		return nil
	default:
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return &UnavailableError{why}
	}
}

// step is one budget of a call's path.
type step struct {
	budget *charter.Budget // nil for an overflow allowance
	span   *charter.Span
	id     ledger.AccountID
}

// path gives the accounts of a call, from the leaf to the root. closed is a budget of it whose window is not now.
func (s *Service) path(dst []step, snap *charter.Snapshot, c *charter.Charter, call *routing.Call, now time.Time) (path []step, closed *step, err error) {
	var buf [charter.MaxDepth]*charter.Budget
	budgets, ok := snap.Path(buf[:0], c.Budget)
	if !ok {
		return nil, nil, &BudgetUnknownError{"budgets/" + c.Budget}
	}
	for _, b := range budgets {
		span, open := s.span(b, now)
		id := ledger.AccountID{Budget: b.ID, Start: span.Start.Unix(), End: span.End.Unix()}
		if b.Per != charter.PerNone {
			if id.Key = callKey(b.Per, call); id.Key == "" {
				return nil, nil, &KeyRequiredError{b.ID, b.Per, "call." + b.Per.String()}
			}
		}
		dst = append(dst, step{b, span, id})
		if !open && closed == nil {
			closed = &step{b, span, id}
		}
	}
	return dst, closed, nil
}

func callKey(per charter.Per, call *routing.Call) string {
	switch per {
	case charter.PerUser:
		return call.User
	case charter.PerCohort:
		return call.Cohort
	case charter.PerAgent:
		return call.Agent
	}
	return call.Run
}

// span is b.Period.At(now), remembered while it lasts.
func (s *Service) span(b *charter.Budget, now time.Time) (*charter.Span, bool) {
	known := s.spans.Load()
	if v, ok := known.Load(b); ok {
		if span := v.(*charter.Span); span.Contains(now) {
			return span, true
		}
	}
	span, ok := b.Period.At(now)
	if ok {
		known.Store(b, &span)
	}
	return &span, ok
}

// accounts appends the open accounts of a path, opening those that are not, and how each stands.
func (s *Service) accounts(ctx context.Context, accounts []*ledger.Account, states []routing.BudgetState, snap *charter.Snapshot,
	feature string, path []step, now time.Time) ([]*ledger.Account, []routing.BudgetState, error) {
	for {
		accounts, states = accounts[:0], states[:0]
		s.mu.Lock()
		if s.failure != nil {
			defer s.mu.Unlock()
			return nil, nil, &UnavailableError{s.failure.Error()}
		}
		missing := false
		for i := range path {
			a := s.ledger.Account(path[i].id)
			if a == nil {
				missing = true
				s.toOpen[path[i].id] = opening{terms(snap, path[i].id, feature), path[i].budget, *path[i].span}
				continue
			}
			if i == 0 && a.Terms().Feature == "" && path[0].id.Overflow == "" {
				a.SetTerms(terms(snap, path[0].id, feature))
			}
			a.Touch(now)
			accounts = append(accounts, a)
			states = append(states, routing.BudgetState{ID: path[i].id.Budget, UtilizationPermille: a.Utilization(), AlertPermille: a.LowestThreshold()})
		}
		changed := s.changed
		s.mu.Unlock()
		if !missing {
			return accounts, states, nil
		}
		s.wake()
		if err := await(ctx, changed, "etcd does not answer, so the budgets' state is not known"); err != nil {
			return nil, nil, err
		}
	}
}
