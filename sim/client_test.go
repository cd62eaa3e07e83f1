package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

// token is what one token costs on the small model; ten times that on the large one.
const token = money.Nanos(1000)

var features = []string{"chat", "search", "mail", "tutor"}

// midnight is the second at which the periods of the run change.
var midnight = epoch.Add(24 * time.Hour).Unix()

// company makes the control records: a tree of budgets of three levels, one of them per user, and four features.
func (w *world) company() {
	r := w.rng
	w.begins = 24*time.Hour - w.between(-20*time.Second, 300*time.Second) // of the day
	if w.chance(4) {
		w.begins = 12 * time.Hour
	}
	past := epoch.AddDate(-1, 0, 0)
	price := func(model string, factor money.Nanos) *pricing.Price {
		return pricing.New(model, past, "USD", map[pricing.Unit]money.Nanos{pricing.Input: factor * money.Unit, pricing.Output: 0})
	}
	day, err := charter.NewPeriod(charter.Day, "", time.Time{}, time.Time{})
	if err != nil {
		panic(err)
	}
	window, err := charter.NewPeriod(charter.Window, "", past, epoch.Add(w.begins+w.between(100*time.Second, 1000*time.Second)))
	if err != nil {
		panic(err)
	}
	ada := charter.Owner{Name: "Ada"}
	budget := func(id, parent string, least, most int) *charter.Budget {
		b := &charter.Budget{
			ID: id, Parent: parent, Owner: ada, Currency: "USD", Period: day, Limit: money.Nanos(least+r.IntN(most-least)) * token,
			AlertThresholdsPermille: []int32{500, 900},
		}
		if r.IntN(3) == 0 {
			b.RolloverCap = b.Limit / money.Nanos(1+r.IntN(4))
		}
		if r.IntN(4) == 0 {
			b.OnExpiry = charter.OnExpiryCharge
		}
		return b
	}
	search := budget("search", "b", 100, 800)
	if w.chance(3) {
		search.Period, search.RolloverCap = window, 0
	}
	tutor := budget("tutor", "b", 30, 200)
	tutor.Per = charter.PerUser
	feature := func(id, budget string) *charter.Charter {
		c := &charter.Charter{ID: id, Owner: ada, Stage: charter.StageProduction, Budget: budget}
		if r.IntN(3) == 0 {
			c.Exhausted = charter.Exhausted{Mode: charter.ExhaustedDowngrade, OverflowAllowance: money.Nanos(20+r.IntN(100)) * token}
		}
		return c
	}
	w.set(
		&charter.Catalog{
			Tiers: []charter.Tier{{ID: "economy"}, {ID: "premium"}},
			Models: []charter.Model{
				{ID: "small", Provider: "lab", Tier: "economy", ContextTokens: 1_000_000, MaxOutputTokens: 1},
				{ID: "large", Provider: "lab", Tier: "premium", ContextTokens: 1_000_000, MaxOutputTokens: 1},
			},
		},
		&charter.PriceBook{ID: "lab", Currency: "USD", Prices: []*pricing.Price{price("small", 1), price("large", 10)}},
		budget("org", "", 500, 4000), budget("a", "org", 300, 2500), budget("b", "org", 300, 2500),
		budget("chat", "a", 100, 1500), search, budget("mail", "a", 100, 1000), tutor,
		feature("chat", "chat"), feature("search", "search"), feature("mail", "mail"), feature("tutor", "tutor"),
	)
}

// edit changes a ceiling or a charter.
func (w *world) edit() {
	if w.chance(5) {
		c := *w.control.snap.Charter(features[w.rng.IntN(len(features))])
		c.Exhausted = charter.Exhausted{Mode: charter.ExhaustedDowngrade, OverflowAllowance: money.Nanos(20+w.rng.IntN(200)) * token}
		w.logf("edit: %s has an overflow allowance of %d", c.ID, c.Exhausted.OverflowAllowance)
		w.count.CharterEdits++
		w.set(&c)
		return
	}
	list := w.control.snap.Budgets()
	b := *list[w.rng.IntN(len(list))]
	b.Limit = b.Limit * money.Nanos(20+w.rng.IntN(180)) / 100
	w.logf("edit: %s has a limit of %d", b.ID, b.Limit)
	w.set(&b)
}

// serve answers as package server does: what another replica has to answer is forwarded once.
func serve[T any](ctx context.Context, r *replica, fallback bool, do func(ctx context.Context, s *preflight.Service) (T, error)) (T, error) {
	w := r.w
	got, err := do(ctx, r.svc)
	to, ok := errors.AsType[*preflight.ForwardError](err)
	if !ok {
		return got, err
	}
	w.count.Forwards++
	got, err = rpc(w, r.p, hostOf(to.Addr), 5*time.Second, "forwarded", func(ctx context.Context, peer *replica) (T, error) {
		got, err := do(ctx, peer.svc)
		if _, ok := errors.AsType[*preflight.ForwardError](err); ok {
			return do(preflight.Here(ctx), peer.svc)
		}
		return got, err
	})
	_, unavailable := errors.AsType[*preflight.UnavailableError](err)
	switch {
	case err == nil, ctx.Err() != nil, !unavailable && !errors.Is(err, errTimeout) && !errors.Is(err, errRefused):
		return got, err
	case fallback:
		w.count.ForwardsFailed++
		return do(preflight.Here(ctx), r.svc)
	}
	w.count.ForwardsFailed++
	return got, &preflight.UnavailableError{Why: "the server which has the hold does not answer"}
}

// ask calls a replica of the client's choice.
func ask[T any](w *world, host int, name string, fallback bool, do func(ctx context.Context, r *replica, s *preflight.Service) (T, error)) (T, error) {
	return rpc(w, w.clients, host, 8*time.Second, name, func(ctx context.Context, r *replica) (T, error) {
		return serve(ctx, r, fallback, func(ctx context.Context, s *preflight.Service) (T, error) {
			return do(ctx, w.replicaOf(s), s)
		})
	})
}

func (w *world) replicaOf(s *preflight.Service) *replica {
	for _, r := range w.hosts {
		if r != nil && r.svc == s {
			return r
		}
	}
	for _, r := range w.all {
		if r.svc == s {
			return r
		}
	}
	return nil
}

// sure says whether an error is an answer: anything else may have been done, or not.
func sure(err error) bool {
	_, unavailable := errors.AsType[*preflight.UnavailableError](err)
	return !unavailable && !errors.Is(err, errTimeout) && !errors.Is(err, errRefused) && !errors.Is(err, context.Canceled)
}

type reserved struct {
	decision *preflight.Decision
	hold     *preflight.Hold
}

// call is the life of one call of a feature.
func (w *world) call() {
	w.busy++
	defer func() { w.busy-- }()
	c := &routing.Call{Feature: features[w.rng.IntN(len(features))], Model: "small"}
	c.Estimate.InputTokens = int64(1 + w.rng.IntN(40))
	if w.chance(4) {
		c.Model = "large"
		c.Estimate.InputTokens = int64(1 + w.rng.IntN(10))
	}
	c.User = fmt.Sprintf("user-%d", w.rng.IntN(4))
	ttl := w.between(2*time.Second, w.maxTTL)
	host := w.rng.IntN(len(w.hosts))
	var hd *hold
	var tok string
	for try := 0; ; try++ {
		answer, err := ask(w, host, "reserve", true, func(ctx context.Context, r *replica, s *preflight.Service) (reserved, error) {
			d, h, err := s.Reserve(ctx, c, ttl)
			if err == nil && h != nil && !r.p.dead {
				w.oracle.answered(r.p, h.Token)
			}
			return reserved{d, h}, err
		})
		if err == nil && answer.hold != nil {
			t := readToken(answer.hold.Token)
			hd, tok = w.oracle.holds[holdKey{t.owner, t.seq}], answer.hold.Token
			w.count.Holds++
			break
		}
		switch {
		case err == nil && answer.decision.Effect == routing.Throttle:
			w.count.Throttled++
			if try > 1 || w.calm {
				return
			}
			w.clients.sleep(min(answer.decision.RetryDelay, 2*time.Second))
			continue
		case err == nil:
			w.count.Denied++
			return
		case sure(err):
			w.oracle.fail("answer", "reserve: %v", err)
			return
		}
		w.count.Unavailable++
		if try > 2 || w.calm {
			return
		}
		host = w.rng.IntN(len(w.hosts))
		w.backOff(try)
	}
	if w.now >= hd.until {
		return // too late to begin: it expires by itself
	}
	w.work(hd, tok, host)
}

// work uses a hold.
func (w *world) work(h *hold, tok string, host int) {
	left := h.until - w.now
	if w.chance(6) { // a longer hold
		w.clients.sleep(w.between(0, left*3/2))
		got, err := ask(w, w.near(host), "extend", false, func(ctx context.Context, r *replica, s *preflight.Service) (*preflight.Hold, error) {
			e, err := s.Extend(ctx, tok, w.maxTTL)
			if err == nil && !r.p.dead {
				w.oracle.answered(r.p, e.Token)
			}
			return e, err
		})
		switch {
		case err == nil:
			w.count.Extended++
			tok = got.Token
			left = h.until - w.now
		case sure(err) && !errors.Is(err, ledger.ErrExpired) && !(errors.Is(err, ledger.ErrSettled) && h.charge):
			w.oracle.fail("answer", "extend of %s/%d: %v", h.owner, h.seq, err)
		}
	}
	if w.chance(10) {
		return // the gateway died
	}
	switch k := w.rng.IntN(20); {
	case k < 10:
		w.clients.sleep(w.between(0, max(0, min(left/2, 5*time.Second))))
	case k < 17:
		w.clients.sleep(w.between(0, max(0, left)))
	case k < 19:
		w.clients.sleep(max(0, left) + w.between(-time.Second, 10*time.Second))
	default:
		w.clients.sleep(max(0, left) + w.between(0, 3*w.maxTTL))
	}
	if w.chance(9) {
		w.release(h, tok, host)
		return
	}
	amount := h.amount
	switch k := w.rng.IntN(10); {
	case k < 5:
		amount = money.Nanos(w.rng.Int64N(int64(amount/token)+1)) * token
	case k < 7 && w.chance(2):
		amount += money.Nanos(1+w.rng.IntN(30)) * token
	}
	odds := 8
	if w.eager && w.now > h.until { // memory may have let go of it: its mark is read, perhaps while another settlement is written
		odds = 1
	}
	if w.chance(odds) { // the same from another place, or another amount, at the same time
		other := amount
		if w.chance(2) {
			other += token
		}
		w.clients.spawn("settle too", func() {
			w.busy++
			defer func() { w.busy-- }()
			if odds == 1 {
				w.clients.sleep(w.between(0, 2*time.Second))
			}
			w.settle(h, tok, w.rng.IntN(len(w.hosts)), other)
		})
	}
	w.settle(h, tok, host, amount)
	if w.calm {
		return
	}
	switch w.rng.IntN(8) {
	case 0, 1:
		w.clients.sleep(w.between(0, 2*w.maxTTL))
		w.settle(h, tok, w.rng.IntN(len(w.hosts)), amount)
		w.count.SettledAgain++
	case 2:
		w.clients.sleep(w.between(0, 2*w.maxTTL))
		w.settle(h, tok, w.rng.IntN(len(w.hosts)), amount+token)
		w.count.OtherAmount++
	case 3:
		w.release(h, tok, w.rng.IntN(len(w.hosts)))
	}
}

// backOff waits before the next try, longer each time.
func (w *world) backOff(try int) {
	w.clients.sleep(w.between(10*time.Millisecond, time.Second<<min(try, 4)))
}

// near is the host, or now and then another.
func (w *world) near(host int) int {
	if w.chance(3) {
		return w.rng.IntN(len(w.hosts))
	}
	return host
}

// settle settles until there is an answer, and checks that.
func (w *world) settle(h *hold, tok string, host int, amount money.Nanos) {
	h.sent = append(h.sent, amount)
	for try := 0; ; try++ {
		got, err := ask(w, w.near(host), "settle", false, func(ctx context.Context, _ *replica, s *preflight.Service) (*preflight.Settlement, error) {
			return s.Settle(ctx, tok, &usage.Usage{InputTokens: int64(amount / token)}, "small", usage.OutcomeUnknown)
		})
		e := h.entry
		settled, differs := errors.AsType[*preflight.SettledError](err)
		switch {
		case err == nil && (e == nil || e.GetKind() != storev1.EntryKind_ENTRY_KIND_SETTLE):
			w.oracle.fail("I6", "hold %s/%d: a settlement of %d is acknowledged, the journal has %v", h.owner, h.seq, amount, e)
		case err == nil && e.clash(amount):
		case err == nil && (e.GetAmount() != int64(got.Cost) || got.Cost != amount || e.GetForced() != int64(got.Forced) || e.GetLate() != got.Late):
			w.oracle.fail("answer", "hold %s/%d: settled at %d: the answer is %+v, the journal has %v", h.owner, h.seq, amount, got, e)
		case differs && (e == nil || !e.known(settled.First)):
			w.oracle.fail("answer", "hold %s/%d: settled at %d: the answer is that it was at %d, the journal has %v", h.owner, h.seq, amount, settled.First, e)
		case differs && e.GetAmount() == int64(amount) && e.GetKind() == storev1.EntryKind_ENTRY_KIND_SETTLE:
			w.oracle.fail("answer", "hold %s/%d: a repeated settlement of %d is refused", h.owner, h.seq, amount)
		case err == nil && e.collected, differs && settled.First == ledger.AmountUnknown:
			w.count.AnsweredByMark++
		case err == nil, differs:
		case errors.Is(err, ledger.ErrReleased) && h.release: // perhaps only about to be
		case sure(err):
			w.oracle.fail("answer", "hold %s/%d: settled at %d: %v", h.owner, h.seq, amount, err)
		default:
			w.count.Unavailable++
			host = w.rng.IntN(len(w.hosts))
			w.backOff(try)
			continue
		}
		return
	}
}

// release gives a hold back, and checks the answer.
func (w *world) release(h *hold, tok string, host int) {
	h.release = true
	for try := 0; ; try++ {
		freed, err := ask(w, w.near(host), "release", false, func(ctx context.Context, _ *replica, s *preflight.Service) (money.Nanos, error) {
			return s.Release(ctx, tok)
		})
		e := h.entry
		settled, differs := errors.AsType[*preflight.SettledError](err)
		switch {
		case err == nil && (e == nil || e.GetKind() != storev1.EntryKind_ENTRY_KIND_RELEASE || freed != h.amount):
			w.oracle.fail("answer", "hold %s/%d: released %d, the journal has %v", h.owner, h.seq, freed, e)
		case differs && (e == nil || !e.known(settled.First)):
			w.oracle.fail("answer", "hold %s/%d: released: the answer is that it was settled at %d, the journal has %v", h.owner, h.seq, settled.First, e)
		case err == nil, differs:
		case errors.Is(err, ledger.ErrExpired):
		case sure(err):
			w.oracle.fail("answer", "hold %s/%d: released: %v", h.owner, h.seq, err)
		default:
			w.count.Unavailable++
			w.backOff(try)
			continue
		}
		return
	}
}

// use records usage that had no hold, once or several times under one request id.
func (w *world) use() {
	w.busy++
	defer func() { w.busy-- }()
	w.names++
	u := &preflight.Use{
		Call:  routing.Call{Feature: features[w.rng.IntN(len(features))], User: fmt.Sprintf("user-%d", w.rng.IntN(4))},
		Model: "small", Usage: usage.Usage{InputTokens: int64(1 + w.rng.IntN(20))}, RequestID: fmt.Sprintf("usage-%d", w.names), BodyHash: []byte{1},
	}
	send := func() {
		for try := 0; ; try++ {
			got, err := ask(w, w.rng.IntN(len(w.hosts)), "usage", false, func(ctx context.Context, _ *replica, s *preflight.Service) (*preflight.Settlement, error) {
				return s.RecordUsage(ctx, u)
			})
			e := w.oracle.usages[u.RequestID]
			switch {
			case err == nil && (e == nil || e.GetAmount() != int64(got.Cost)):
				w.oracle.fail("I6", "usage %s is acknowledged at %d, the journal has %v", u.RequestID, got.Cost, e)
			case err == nil:
			case sure(err):
				w.oracle.fail("answer", "usage %s: %v", u.RequestID, err)
			default:
				w.count.Unavailable++
				w.backOff(try)
				continue
			}
			return
		}
	}
	for range w.rng.IntN(3) {
		w.count.UsagesAgain++
		w.clients.spawn("usage", func() {
			w.busy++
			defer func() { w.busy-- }()
			send()
		})
	}
	send()
}
