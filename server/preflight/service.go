// Package preflight is the use case: may this feature spend this much now, and on which tier of model? It resolves a
// call's charter and budgets, asks the policy, prices the estimate, holds the money in memory, and settles it durably.
package preflight

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// Decider asks the policies that are attached to a call. Plans are shared and must not be changed. With an error the plan
// is what the policies say that gave a decision; nil if none did.
type Decider interface {
	Decide(ctx context.Context, in *routing.Input) (*routing.Plan, error)
}

// Metrics is told what happens.
type Metrics interface {
	Decision(effect routing.Effect)
	ReserveSeconds(s float64)
	SettleSeconds(s float64)
	Alert()
	// Batch was committed to the journal.
	Batch(entries int, seconds float64)
	// RefusedElsewhere says that an amount was refused that would have fitted, had what other replicas were granted and
	// are not known to have settled been here.
	RefusedElsewhere(x money.Nanos)
	// Event counts what happens between replicas.
	Event(e Event)
	// PolicyFailed counts a call for which the policy gave no decision.
	PolicyFailed(why routing.PolicyFailure)
}

// Meter is told what is to be counted and kept. Its methods never wait, and keep nothing of what they are given but the
// batch, which is not changed any more.
type Meter interface {
	// Committed says that a batch is in the journal.
	Committed(b *ledger.Batch)
	// Left says what is in the journal of an owner that is gone.
	Left(b store.OutboxBatch)
	// Decided says what Reserve or Lease answered, and what it knew.
	Decided(in *routing.Input, d *Decision)
}

// Event is something that happens between replicas.
type Event int

// Events.
const (
	// EventConflict: another replica changed a grant or budget first; the transaction wrote nothing and is made anew.
	EventConflict Event = iota
	// EventUnknown: etcd gave no answer, so that the outcome of a transaction had to be found out.
	EventUnknown
	// EventTakeover: this replica looks after the holds of one that is gone.
	EventTakeover
	// EventReclaim: all that a replica which is gone was granted and had not settled is usable again.
	EventReclaim
)

// Config is what a Service works with. All fields but MaxTTL, Meter and Outbox are required.
type Config struct {
	Control store.Control
	Ledger  store.Ledger
	Decider Decider
	Clock   Clock
	Metrics Metrics
	Log     *slog.Logger
	// MaxTTL is the longest hold. 0: ledger.DefaultMaxTTL.
	MaxTTL time.Duration
	// Addr is where other replicas reach this one, for calls that it has to answer.
	Addr string
	// Offline is how much may be held in all after the deadline while etcd does not answer, from money that was granted
	// before; counted in the currency of each call's budget. It may be spent beyond a ceiling. 0: calls are refused then.
	Offline money.Nanos
	// Meter is told what is to be counted. nil: nobody is.
	Meter Meter
	// Outbox takes settlements that leave etcd about a minute after they were made. nil: they stay in etcd, which grows.
	Outbox store.Outbox
}

// Service answers for one owner of the ledger. Make one with Start.
type Service struct {
	Config
	sealer     *sealer
	trickle    trickle
	failures   policyFailures
	signals    usage.Tracker
	spans      atomic.Pointer[sync.Map] // *charter.Budget -> *charter.Span
	expanded   atomic.Pointer[expansions]
	deadline   atomic.Int64 // by Clock.Boot: no reserve after it
	kick       chan struct{}
	unsure     *ledger.Batch          // in flight, or of unknown outcome: the writer appends it again before any other
	unresolved []ledger.AccountChange // of a transaction whose outcome the writer does not know
	hurry      bool                   // the next batch waits for no more entries

	mu     sync.Mutex
	ledger *ledger.Ledger
	// changed is closed and replaced when a grant came or an account was opened.
	changed chan struct{}
	toOpen  map[ledger.AccountID]opening
	usages  map[string]*usageUnderWay // by request id
	alerts  []ledger.Alert
	failure error // why the service has stopped
	roster  store.Roster
	seen    map[string]int           // how many rosters an owner is gone for
	taking  map[string]chan struct{} // owners that are being looked for
	behind  unseen
	offline money.Nanos // held since the deadline
	started time.Time
}

// unseen is a state of the control records that this replica does not know yet.
type unseen struct {
	epoch int64
	sent  time.Duration // when the heartbeat was sent that told of it
}

// opening is an account that somebody waits for.
type opening struct {
	terms  ledger.Terms
	budget *charter.Budget // nil where it is deleted, or for an overflow allowance
	span   charter.Span
}

// Start begins a session on the ledger. Call Run then.
func Start(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = ledger.DefaultMaxTTL
	}
	owner, err := cfg.Ledger.Claim(ctx, cfg.Addr)
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
		seen: map[string]int{}, taking: map[string]chan struct{}{}, started: cfg.Clock.Now(),
	}
	s.spans.Store(new(sync.Map))
	if err := s.heartbeat(ctx); err != nil {
		return nil, err
	}
	cfg.Control.OnChange(s.controlChanged)
	s.takeOverGone(ctx) // their quarantine should begin now
	return s, nil
}

// Owner is the name of this replica's session.
func (s *Service) Owner() string { return s.ledger.Owner }

// controlChanged takes new terms to the open accounts: a lower ceiling binds at once.
func (s *Service) controlChanged(snap *charter.Snapshot) {
	s.spans.Store(new(sync.Map))
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now()
	if s.behind.epoch != 0 && snap.Epoch >= s.behind.epoch {
		s.extendDeadline(s.behind.sent)
		s.behind = unseen{}
	}
	for _, a := range s.ledger.Accounts() {
		if t := terms(snap, a.ID, a.Terms().Feature); !sameTerms(t, a.Terms()) {
			a.SetTerms(t)
			s.alerts = append(s.alerts, a.Due(now)...) // spend may be over a lowered ceiling's threshold
		}
	}
	s.ledger.Sweep(now)
	s.wake()
}

func sameTerms(a, b ledger.Terms) bool {
	return a.Limit == b.Limit && a.Rev == b.Rev && a.Root == b.Root && a.Charge == b.Charge && slices.Equal(a.Thresholds, b.Thresholds)
}

var defaultThresholds = []int32{charter.DefaultAlertPermille}

// terms says what the control records say of an account. feature is whose alert thresholds a leaf budget takes that has
// none of its own; may be empty. A deleted budget has a ceiling of 0.
func terms(snap *charter.Snapshot, id ledger.AccountID, feature string) ledger.Terms {
	t := ledger.Terms{Root: root(snap, id.Budget), Feature: feature, Rev: snap.Epoch}
	if id.Overflow != "" {
		t.Feature = id.Overflow
		if c := snap.Charter(id.Overflow); c != nil {
			t.Limit, t.Rev = c.Exhausted.OverflowAllowance, c.Revision
		}
		return t
	}
	b := snap.Budget(id.Budget)
	if b == nil {
		return t
	}
	t.Limit, t.Rev, t.Charge = b.Limit, b.Revision, b.OnExpiry == charter.OnExpiryCharge
	if t.Thresholds = b.AlertThresholdsPermille; len(t.Thresholds) == 0 {
		t.Thresholds = defaultThresholds
		if c := snap.Charter(feature); c != nil && c.Budget == id.Budget && len(c.AlertThresholdsPermille) > 0 {
			t.Thresholds = c.AlertThresholdsPermille
		}
	}
	return t
}

// root is the budget at the top of a budget's tree; the budget itself where it is deleted.
func root(snap *charter.Snapshot, id string) string {
	var buf [charter.MaxDepth]*charter.Budget
	if path, ok := snap.Path(buf[:0], id); ok {
		return path[len(path)-1].ID
	}
	return id
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
	if int64(at) < s.deadline.Load() || !guard.DeadlineCheck {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return &UnavailableError{s.failure.Error()}
	}
	if s.Offline > s.offline {
		return nil
	}
	return &UnavailableError{"etcd has not confirmed this server's ownership in time"}
}

// Deadline is how long this replica may still reserve without an answer from etcd.
func (s *Service) Deadline() time.Duration {
	return max(0, time.Duration(s.deadline.Load())-s.Clock.Boot())
}

// RevalidateEvery is how often the ceilings and the policy must be known to be the newest: without that a replica stops.
const RevalidateEvery = 5 * time.Second

// heartbeat proves the ownership; the deadline counts from before it was sent.
func (s *Service) heartbeat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ledger.HeartbeatValid)
	defer cancel()
	sent := s.Clock.Boot()
	// gofail: var beforeHeartbeat struct{}
	roster, err := s.Ledger.Heartbeat(ctx)
	// gofail: var afterHeartbeat struct{}
	if err != nil {
		return err
	}
	if !guard.DeadlineFromSend {
		sent = s.Clock.Boot()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return s.failure
	}
	s.takeRoster(roster)
	if s.Control.Snapshot().Epoch >= roster.Epoch {
		s.extendDeadline(sent)
		s.behind = unseen{}
	} else if s.behind.epoch == 0 { // the oldest state that is not known
		s.behind = unseen{roster.Epoch, sent}
	}
	return nil
}

// extendDeadline takes that the ownership and the control records were right at a time of Clock.Boot.
func (s *Service) extendDeadline(sent time.Duration) {
	if d := int64(sent + min(ledger.HeartbeatValid, RevalidateEvery)); d > s.deadline.Load() && s.failure == nil {
		s.deadline.Store(d)
		s.offline = 0
	}
}

// takeRoster learns who lives. Called with the lock.
func (s *Service) takeRoster(r store.Roster) {
	live := make([]string, len(r.Owners))
	for i := range r.Owners {
		live[i] = r.Owners[i].ID
	}
	for owner, by := range r.Successors { // a takeover of this replica that it does not know to have landed
		if by == s.ledger.Owner && s.ledger.Predecessor(owner) == nil {
			r.Gone = append(r.Gone, owner)
		}
	}
	slices.Sort(r.Gone)
	seen := make(map[string]int, len(r.Gone))
	for _, owner := range r.Gone {
		seen[owner] = s.seen[owner] + 1
	}
	s.seen, s.roster = seen, r
	if s.ledger.SetRoster(live) {
		s.announce()
	}
	if len(r.Gone) > 0 || s.ledger.WantsAdjustment() {
		s.wake()
	}
}

// addr is where an owner lives; empty if it does not as far as this replica knows. Called with the lock.
func (s *Service) addr(owner string) string {
	for i := range s.roster.Owners {
		if s.roster.Owners[i].ID == owner {
			return s.roster.Owners[i].Addr
		}
	}
	return ""
}

// patience is how long a call waits for etcd where its context has no deadline.
const patience = 10 * time.Second

// await waits for ch, ctx or patience. The error says that there is no answer.
func (s *Service) await(ctx context.Context, ch <-chan struct{}, why string) error {
	select { // mostly it is done already or soon
	case <-ch:
		return nil
	default:
	}
	most := patience
	if end, ok := ctx.Deadline(); ok {
		most = max(patience, time.Until(end)+time.Second)
	}
	err := s.Clock.Wait(ctx, ch, most)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	}
	return &UnavailableError{why}
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
				id := path[i].id
				id.Key = strings.Clone(id.Key) // an account outlives the request that the key is a part of
				s.toOpen[id] = opening{terms(snap, path[i].id, feature), path[i].budget, *path[i].span}
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
		if err := s.await(ctx, changed, "etcd does not answer, so the budgets' state is not known"); err != nil {
			return nil, nil, err
		}
	}
}
