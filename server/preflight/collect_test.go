package preflight_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store/archive"
)

// archived is a world whose settlements go to an archive.
func archived(t *testing.T) *world {
	t.Helper()
	a, err := archive.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	w := &world{t: t, dir: t.TempDir(), clock: newClock(noon), metrics: &metrics{}, outbox: a}
	w.open()
	t.Cleanup(func() { w.stop() })
	w.company(money.Unit)
	return w
}

// collect lets a minute pass and waits until the own journal is empty.
func (w *world) collect() {
	w.t.Helper()
	w.clock.advance(61 * time.Second)
	w.eventually("the journal is collected", func() bool { n, _ := w.gate.JournalLag(); return n == 0 })
}

// ended are holds that were ended in every way, by what they are to be answered again.
type ended struct{ settled, forced, late, released, open string }

func (w *world) endHolds() (h ended) {
	w.t.Helper()
	for i, token := range []*string{&h.settled, &h.forced, &h.released, &h.late, &h.open} {
		_, hold, err := w.gate.Reserve(w.t.Context(), call(1000, 500), time.Duration(10-2*i)*time.Minute)
		if err != nil {
			w.t.Fatal(err)
		}
		*token = hold.Token
	}
	w.settle(h.settled, 1000, 100)
	w.settle(h.forced, 3000, 0)
	if _, err := w.gate.Release(w.t.Context(), h.released); err != nil {
		w.t.Fatal(err)
	}
	w.clock.advance(5 * time.Minute)
	w.eventually("the holds expire", func() bool { return w.status("budgets/chat").Held == 0 })
	w.settle(h.late, 1000, 0)
	return h
}

// check asks again about each: all is answered as before, as far as it is kept.
func (h *ended) check(w *world, when string) {
	w.t.Helper()
	for _, c := range []struct {
		token           string
		in, out         int64
		forced, release money.Nanos
		late            bool
	}{{h.settled, 1000, 100, 0, 800_000, false}, {h.forced, 3000, 0, 1_000_000, 0, false}, {h.late, 1000, 0, 1_000_000, 0, true}} {
		st := w.settle(c.token, c.in, c.out)
		if st.Cost != money.Nanos(1000*c.in+2000*c.out) || st.Forced != c.forced || st.Released != c.release || st.Late != c.late || st.Model != "small" || st.Feature != "chat" {
			w.t.Errorf("%s, settled again: %+v, want %+v", when, st, c)
		}
		if !st.Time.IsZero() || st.Journal != "" || len(st.Lines) == 0 {
			w.t.Errorf("%s, settled again: at %s, in %q, lines %v; neither time nor journal are kept", when, st.Time, st.Journal, st.Lines)
		}
		_, err := w.gate.Settle(w.t.Context(), c.token, &usage.Usage{InputTokens: 77}, "", 0)
		if e, ok := errors.AsType[*preflight.SettledError](err); !ok || e.First != ledger.AmountUnknown {
			w.t.Errorf("%s, settled at another cost: %v", when, err)
		}
		if _, err := w.gate.Release(w.t.Context(), c.token); !errors.Is(err, ledger.ErrSettled) {
			w.t.Errorf("%s, released: %v", when, err)
		}
	}
	if freed, err := w.gate.Release(w.t.Context(), h.released); err != nil || freed != 2_000_000 {
		w.t.Errorf("%s, released again: %s, %v", when, freed, err)
	}
	if _, err := w.gate.Settle(w.t.Context(), h.released, &usage.Usage{}, "", 0); !errors.Is(err, ledger.ErrReleased) {
		w.t.Errorf("%s, settled after the release: %v", when, err)
	}
}

// A settlement that is repeated after its entry has left etcd is answered as before, by the process that made it and by
// the next.
func TestRepeatedAfterCollection(t *testing.T) {
	w := archived(t)
	h := w.endHolds()
	w.collect()
	h.check(w, "collected")
	if _, err := w.gate.Extend(t.Context(), h.settled, time.Minute); !errors.Is(err, ledger.ErrSettled) {
		t.Errorf("extended: %v", err)
	}
	if st := w.status("budgets/chat"); st.Settled != 5_200_000 || st.Forced != 2_000_000 {
		t.Errorf("status %+v", st.State)
	}
	w.stop()
	w.open()
	h.check(w, "by the next process")
	if st := w.settle(h.open, 1000, 0); !st.Late || st.Forced != 1_000_000 || st.Time.IsZero() {
		t.Errorf("settled for the first time: %+v", st)
	}
	if st := w.settle(h.open, 1000, 0); st.Time.IsZero() {
		t.Errorf("settled again before it is collected: %+v", st)
	}
	w.clock.advance(2 * time.Minute)
	w.eventually("what the next process wrote in its journal is collected", func() bool { return w.settle(h.open, 1000, 0).Time.IsZero() })
	if st := w.status("budgets/chat"); st.Settled != 6_200_000 || st.Forced != 3_000_000 {
		t.Errorf("status %+v", st.State)
	}
	w.clock.advance(9 * 24 * time.Hour)
	w.eventually("the marks are gone", func() bool {
		_, err := w.gate.Settle(t.Context(), h.open, &usage.Usage{InputTokens: 1000}, "", 0)
		return errors.Is(err, ledger.ErrUnknownHold)
	})
}

// A hold that was charged at its expiry says so, and at what, after collection too.
func TestChargeIsKnownAfterCollection(t *testing.T) {
	w := archived(t)
	org := *w.control.Snapshot().Budget("org")
	org.OnExpiry = 2
	w.apply(&org)
	_, h, err := w.gate.Reserve(t.Context(), call(1000, 500), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w.clock.advance(time.Minute + ledger.Grace + 2*time.Second)
	w.eventually("the hold is charged", func() bool { return w.status("budgets/chat").Settled == h.Amount })
	w.collect()
	for range 2 {
		_, err = w.gate.Settle(t.Context(), h.Token, &usage.Usage{InputTokens: 1000, OutputTokens: 500}, "", 0)
		if e, ok := errors.AsType[*preflight.SettledError](err); !ok || e.Kind != ledger.KindExpiryCharge || e.First != h.Amount {
			t.Errorf("settled after the charge: %v", err)
		}
		w.stop()
		w.open()
	}
}

// Usage without a hold is found by its request id for 7 days, wherever its entry is.
func TestUsageIsFoundAfterCollection(t *testing.T) {
	w := archived(t)
	use := &preflight.Use{Call: routing.Call{Feature: "chat"}, Model: "large", Usage: usage.Usage{InputTokens: 100}, RequestID: "r1", BodyHash: []byte("x")}
	first, err := w.gate.RecordUsage(t.Context(), use)
	if err != nil {
		t.Fatal(err)
	}
	w.collect()
	for range 2 {
		again, err := w.gate.RecordUsage(t.Context(), use)
		if err != nil || again.Journal != first.Journal || again.Cost != first.Cost || again.Forced != first.Forced || !again.Time.Equal(first.Time) ||
			again.Tier != "premium" || again.Model != "large" || again.Feature != "chat" || again.Currency != "USD" || len(again.Lines) != len(first.Lines) {
			t.Errorf("again: %+v, error %v; first %+v", again, err, first)
		}
		w.stop()
		w.open()
	}
	other := *use
	other.BodyHash = []byte("y")
	if _, err := w.gate.RecordUsage(t.Context(), &other); !errors.As(err, new(*preflight.RequestConflictError)) {
		t.Errorf("another body: error %v", err)
	}
}

// Holds of an owner that is gone are settled by many at once, over and over, while what they settle is collected: each
// counts once.
func TestSettleDuringCollection(t *testing.T) {
	w := archived(t)
	const n = 60
	var tokens []string
	for range n {
		_, h, err := w.gate.Reserve(t.Context(), call(100, 50), 10*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, h.Token)
	}
	w.stop()
	w.open()
	w.clock.advance(65 * time.Second) // the first round for journals of others is over soon
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				// A few new holds in each round, and all those before.
				for _, token := range tokens[:min(n, 1+k*(i+1)/20)] {
					if st, err := w.gate.Settle(t.Context(), token, &usage.Usage{InputTokens: 100}, "", 0); err != nil || st.Cost != 100_000 {
						t.Errorf("settled: %+v, %v", st, err)
						return
					}
				}
			}
		})
	}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for range 10 { // three rounds of the collection, about once a second each
		<-tick.C
		w.clock.advance(31 * time.Second)
	}
	close(stop)
	all.Wait()
	for _, token := range tokens {
		w.settle(token, 100, 0)
	}
	w.clock.advance(2 * time.Minute)
	w.eventually("all is collected", func() bool { return w.settle(tokens[n-1], 100, 0).Time.IsZero() })
	if st := w.status("budgets/chat"); st.Settled != n*100_000 {
		t.Errorf("%s is settled, want %s", st.Settled, money.Nanos(n*100_000))
	}
}
