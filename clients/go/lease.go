package chartergate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Lease answers for one kind of call in the process, in less than a microsecond, from slices of the budgets that the
// server has set aside. The ceilings hold as ever: a slice is money that nobody else can spend. Safe for concurrent use.
//
// Client.Reserve uses it for every call that fits; the methods here do the same without allocating. Session does not.
//
// A settlement is reported to the server within about a second and durable once its slice is settled: within 8 s, or
// when the last call of the slice has ended. A client that crashes loses what it has not reported: the server then
// charges or releases the rest of the slice, as the budgets' on_expiry says.
//
// Slices are asked for while the lease is in use, ahead of need and sized by consumption; a lease that is not used
// holds nothing. Its first calls, and those that find no slice, go to the server.
type Lease struct {
	leases   *leases
	call     *chartergatev1.Call // without estimate: what all calls have in common
	largest  routing.Estimate
	estimate *chartergatev1.Estimate
	ttl      time.Duration

	current atomic.Pointer[slice]
	wanted  atomic.Bool // a slice

	mu       sync.Mutex
	spare    *slice
	draining map[*slice]struct{} // retired, with calls in flight
	settled  []*slice            // the last ones, so that a repeated Settle finds its answer
	calls    int64               // to ask for
	asked    *wish
	refused  time.Time // ask no more before it
	closed   bool
	changed  chan struct{} // closed and replaced with every answer
}

// How slices are sized, in calls of the largest estimate: a slice that is used up sooner than sliceShort doubles the
// next, one that gets old and was not used by a quarter halves it.
const (
	firstCalls    = 16
	leastCalls    = 4
	sliceShort    = time.Second
	defaultTTL    = 2 * time.Minute // the server's
	settledSlices = 16              // per lease that are remembered
)

// LeasedHold is money set aside for one call of a lease. The zero value is none.
type LeasedHold struct {
	slice *slice
	n     int
}

// Nanos is the amount that is held.
func (h LeasedHold) Nanos() int64 {
	h.slice.mu.Lock()
	defer h.slice.mu.Unlock()
	return int64(h.slice.at(h.n).held)
}

// Decision is the slice's: which model to use, with limits for the largest call. It must not be changed.
func (h LeasedHold) Decision() *chartergatev1.Decision { return h.slice.decision }

// Errors of Lease.Settle and Lease.Release.
var (
	// ErrOver says that the hold was settled or released before.
	ErrOver = errors.New("the leased hold was settled or released before")
	// ErrExpired says that the hold has expired: settle it with Client.Settle and its Token.
	ErrExpired = errors.New("the leased hold has expired: settle it with Client.Settle")
	// ErrTooMuch says that the usage makes the slice's sum invalid, such as by a 33rd tool: settle it with Client.Settle
	// and its Token.
	ErrTooMuch = errors.New("the usage does not fit the slice's sum: settle it with Client.Settle")
)

// Lease begins to lease calls like the given one. All calls of a lease have everything in common but their estimates,
// which are at most the one given here. Its ttl, 2 minutes unless set, is the longest that a call may ask for. Close it,
// or the client, to return what it holds.
func (c *Client) Lease(like *chartergatev1.ReserveRequest) (*Lease, error) {
	e, err := convert.EstimateFromProto(like.GetCall().GetEstimate())
	if err != nil {
		return nil, failure(codes.InvalidArgument, "INVALID", "%v", err)
	}
	l := &Lease{
		leases: c.leases, largest: e, ttl: defaultTTL, calls: firstCalls, estimate: proto.CloneOf(like.GetCall().GetEstimate()),
		draining: map[*slice]struct{}{}, changed: make(chan struct{}), call: template(like.GetCall()),
	}
	l.largest.ToolCalls = maps.Clone(e.ToolCalls)
	if like.GetTtl() != nil {
		l.ttl = like.GetTtl().AsDuration()
	}
	return l, c.leases.add(l)
}

// template is a call without its estimate.
func template(c *chartergatev1.Call) *chartergatev1.Call {
	return &chartergatev1.Call{
		Feature: c.GetFeature(), TaskClass: c.GetTaskClass(), Complexity: convert.Complexity(c),
		RequiredCapabilities: slices.Clone(c.GetRequiredCapabilities()), User: c.GetUser(), Cohort: c.GetCohort(), Agent: c.GetAgent(),
		Run: c.GetRun(), PromptPattern: c.GetPromptPattern(), Task: c.GetTask(), Model: c.GetModel(), Tier: c.GetTier(), Labels: maps.Clone(c.GetLabels()),
		ServiceTier: c.GetServiceTier(), Region: c.GetRegion(),
		LatencyTargetMilliseconds: c.GetLatencyTargetMilliseconds(), Residency: c.GetResidency(),
	}
}

// like says whether a call is one of the lease, but for its estimate.
func (l *Lease) like(c *chartergatev1.Call) bool {
	return c.GetTaskClass() == l.call.TaskClass && convert.Complexity(c) == l.call.Complexity && c.GetUser() == l.call.User &&
		c.GetCohort() == l.call.Cohort && c.GetAgent() == l.call.Agent && c.GetRun() == l.call.Run &&
		c.GetPromptPattern() == l.call.PromptPattern && c.GetTask() == l.call.Task && c.GetModel() == l.call.Model && c.GetTier() == l.call.Tier &&
		c.GetServiceTier() == l.call.ServiceTier && c.GetRegion() == l.call.Region &&
		c.GetLatencyTargetMilliseconds() == l.call.LatencyTargetMilliseconds && c.GetResidency() == l.call.Residency &&
		c.GetFeature() == l.call.Feature && slices.Equal(c.GetRequiredCapabilities(), l.call.RequiredCapabilities) &&
		maps.Equal(c.GetLabels(), l.call.Labels)
}

// fits says whether an estimate is at most the lease's.
func (l *Lease) fits(e *routing.Estimate) bool {
	most := &l.largest
	if e.InputTokens > most.InputTokens || e.RetrievalHops > most.RetrievalHops || e.EmbeddingTokens > most.EmbeddingTokens ||
		e.VectorQueries > most.VectorQueries || e.GPUMilliseconds > most.GPUMilliseconds || e.StorageBytes > most.StorageBytes ||
		e.EgressBytes > most.EgressBytes || e.CacheWrite5mTokens > most.CacheWrite5mTokens || e.CacheWrite1hTokens > most.CacheWrite1hTokens || e.Accelerator != most.Accelerator || most.MaxOutputTokens != 0 && (e.MaxOutputTokens == 0 || e.MaxOutputTokens > most.MaxOutputTokens) {
		return false
	}
	for tool, n := range e.ToolCalls {
		if n > most.ToolCalls[tool] {
			return false
		}
	}
	return true
}

// cost is what the server would hold for the estimate on the slice's model, with the output that the call may ask for.
func (s *slice) cost(e *routing.Estimate) (cost money.Nanos, output int64, err error) {
	output = s.decision.GetMaxOutputTokens()
	if e.MaxOutputTokens > 0 {
		output = min(output, e.MaxOutputTokens)
	}
	cost, err = e.Cost(s.price, output, routing.PromptCache(s.decision.GetPromptCache()))
	return cost, output, err
}

// Check says whether Reserve would hold money now. It does not allocate.
func (l *Lease) Check(e *chartergatev1.Estimate) bool {
	est, err := convert.EstimateFromProto(e)
	s := l.current.Load()
	if err != nil || !l.fits(&est) || s == nil {
		return false
	}
	cost, _, err := s.cost(&est)
	return err == nil && s.check(time.Now(), cost)
}

// Reserve holds money for one call, for as long as the lease's ttl. False says that the lease cannot: ask the server
// with Client.Reserve. It allocates only to remember holds, amortized.
func (l *Lease) Reserve(e *chartergatev1.Estimate) (LeasedHold, bool) {
	est, err := convert.EstimateFromProto(e)
	if err != nil || !l.fits(&est) {
		return LeasedHold{}, false
	}
	h, _, _ := l.reserve(time.Now(), &est)
	return h, h.slice != nil
}

func (l *Lease) reserve(now time.Time, e *routing.Estimate) (h LeasedHold, cost money.Nanos, output int64) {
	for s := l.current.Load(); s != nil; s = l.next(s) {
		var err error
		if cost, output, err = s.cost(e); err != nil {
			return LeasedHold{}, 0, 0 // the server says why
		}
		n, low, ok := s.reserve(now, cost)
		if low {
			l.want()
		}
		if ok {
			return LeasedHold{s, n}, cost, output
		}
	}
	l.want()
	return LeasedHold{}, 0, 0
}

// next takes the spare slice in place of one that cannot serve a call; nil if there is none. The old one goes on
// without it: money may come back.
func (l *Lease) next(old *slice) *slice {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.current.Load(); now != old {
		return now
	}
	if l.spare == nil {
		return nil
	}
	l.retire(old)
	return l.current.Load()
}

// retire replaces the current slice by the spare one. Called with the lock.
func (l *Lease) retire(old *slice) {
	share, began := old.busy()
	switch lasted := time.Since(began); {
	case began.IsZero() || share < 250 && past(time.Now(), old.until):
		l.calls = max(l.calls/2, leastCalls)
	case lasted < sliceShort/8:
		l.calls = min(l.calls*4, maxHolds)
	case lasted < sliceShort:
		l.calls = min(l.calls*2, maxHolds)
	}
	old.retire()
	l.draining[old] = struct{}{}
	l.current.Store(l.spare)
	l.spare = nil
	l.leases.poke()
}

// want asks for a slice, if none is asked for.
func (l *Lease) want() {
	if !l.wanted.Load() && l.wanted.CompareAndSwap(false, true) {
		l.leases.poke()
	}
}

// Settle takes what a call used and how it ended, and gives its cost in nanos. Errors: ErrOver, ErrExpired, ErrTooMuch;
// NO_PRICE and INVALID as Client.Settle.
func (l *Lease) Settle(h LeasedHold, used *chartergatev1.Usage, outcome chartergatev1.Outcome) (nanos int64, err error) {
	u, err := convert.UsageFromProto(used)
	if err != nil || outcome < 0 || outcome > chartergatev1.Outcome_OUTCOME_FAILURE {
		return 0, invalidUsage(err)
	}
	cost, err := h.slice.price.Cost(&u)
	if err != nil {
		return 0, costError(err)
	}
	was, drained, ok := h.slice.settle(h.n, &u, cost, usage.Outcome(outcome))
	if drained {
		l.leases.poke()
	}
	if !ok {
		return 0, endError(was.state)
	}
	return int64(cost), nil
}

// Release gives the hold of a call that did not run back. Errors: ErrOver, ErrExpired.
func (l *Lease) Release(h LeasedHold) error {
	was, drained, ok := h.slice.end(h.n, holdLive, holdReleased)
	if drained {
		l.leases.poke()
	}
	if !ok {
		return endError(was.state)
	}
	return nil
}

func endError(s holdState) error {
	switch s {
	case holdLive:
		return ErrTooMuch
	case holdExpired:
		return ErrExpired
	}
	return ErrOver
}

// Token is the hold's as Client.Settle, Release and Extend take it. It means something to this client only.
func (h LeasedHold) Token() string { return h.slice.lease.leases.token(h) }

// Ready waits until the lease has a slice, or ctx ends. A refusal of the server is waited out.
func (l *Lease) Ready(ctx context.Context) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if s := l.current.Load(); s != nil && s.check(time.Now(), 0) {
			return nil
		}
		l.want()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close leases no more calls. What is not used is returned as soon as no call is in flight.
func (l *Lease) Close() { l.leases.remove(l) }
