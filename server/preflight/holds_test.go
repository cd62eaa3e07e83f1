package preflight_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
)

func TestReserveHoldsOnEveryBudgetAndSettleFreesTheRest(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	d, h := w.reserve(call(1000, 500))
	if d.Effect != routing.Allow || d.Model != "small" || d.Cost != 2_000_000 || h == nil || h.Amount != 2_000_000 {
		t.Fatalf("decision %+v, hold %+v; want small allowed at 2,000,000 nanos", d, h)
	}
	for _, name := range []string{"budgets/chat", "budgets/org"} {
		if s := w.status(name); s.Held != 2_000_000 || s.Settled != 0 {
			t.Errorf("%s after reserve: %+v", name, s.State)
		}
	}
	s := w.settle(h.Token, 1000, 100)
	if s.Cost != 1_200_000 || s.Released != 800_000 || s.Forced != 0 || s.Late || s.Model != "small" {
		t.Errorf("settlement %+v", s)
	}
	var lines money.Nanos
	for _, l := range s.Lines {
		lines += l.Cost
	}
	if lines != s.Cost {
		t.Errorf("the lines add up to %d, the cost is %d", lines, s.Cost)
	}
	for _, name := range []string{"budgets/chat", "budgets/org"} {
		if s := w.status(name); s.Held != 0 || s.Settled != 1_200_000 {
			t.Errorf("%s after settle: %+v", name, s.State)
		}
	}
}

func TestSettleIsIdempotentAndAnotherAmountIsAnError(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h := w.reserve(call(1000, 500))
	first := w.settle(h.Token, 1000, 100)
	if again := w.settle(h.Token, 1000, 100); again.Cost != first.Cost || again.Journal != first.Journal {
		t.Errorf("again %+v, first %+v", again, first)
	}
	_, err := w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: 1}, "", 0)
	if e, ok := errors.AsType[*preflight.SettledError](err); !ok || e.First != first.Cost {
		t.Errorf("another amount: %v; want a SettledError with the first", err)
	}
	if _, err := w.gate.Release(context.Background(), h.Token); !errors.Is(err, ledger.ErrSettled) {
		t.Errorf("release after settle: %v", err)
	}
	if s := w.status("budgets/chat"); s.Settled != first.Cost {
		t.Errorf("settled %d, want %d once", s.Settled, first.Cost)
	}
}

func TestReleaseFreesAndEndsTheHold(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h := w.reserve(call(1000, 500))
	for range 2 { // again gives the first answer
		if freed, err := w.gate.Release(context.Background(), h.Token); err != nil || freed != h.Amount {
			t.Errorf("release: %d, %v", freed, err)
		}
	}
	if _, err := w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: 1}, "", 0); !errors.Is(err, ledger.ErrReleased) {
		t.Errorf("settle after release: %v", err)
	}
	if s := w.status("budgets/chat"); s.Held != 0 || s.Settled != 0 {
		t.Errorf("after release: %+v", s.State)
	}
}

func TestForcedSpendIsRecordedAndBlocksLaterReserves(t *testing.T) {
	w := newWorld(t)
	w.company(10_000_000)
	_, h := w.reserve(call(1000, 500))
	s := w.settle(h.Token, 9_500, 0) // 9.5M on a hold of 2M
	if s.Cost != 9_500_000 || s.Forced != 7_500_000 {
		t.Fatalf("settlement %+v", s)
	}
	if st := w.status("budgets/chat"); st.Settled != 9_500_000 || st.Forced != 7_500_000 || st.Remaining() != 500_000 {
		t.Errorf("status %+v", st.State)
	}
	d, h := w.reserve(call(1000, 500))
	if h != nil || d.Effect != routing.Deny || d.RetryDelay <= 0 {
		t.Errorf("a call of 2M with 0.5M left: %+v", d)
	}
	if d, h := w.reserve(call(400, 50)); h == nil {
		t.Errorf("a call of 0.5M with 0.5M left: %+v", d)
	}
}

func TestExpiredHoldIsReleasedAndALateSettlementIsForced(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	d, h, err := w.gate.Reserve(context.Background(), call(1000, 500), time.Minute)
	if err != nil || h == nil {
		t.Fatal(d, err)
	}
	w.clock.advance(time.Minute + ledger.Grace + 2*time.Second)
	w.eventually("the hold is freed", func() bool { return w.status("budgets/chat").Held == 0 })
	if _, err := w.gate.Extend(context.Background(), h.Token, time.Minute); !errors.Is(err, ledger.ErrExpired) {
		t.Errorf("extend: %v", err)
	}
	if _, err := w.gate.Release(context.Background(), h.Token); !errors.Is(err, ledger.ErrExpired) {
		t.Errorf("release: %v", err)
	}
	s := w.settle(h.Token, 1000, 0)
	if !s.Late || s.Forced != 1_000_000 {
		t.Errorf("late settlement %+v", s)
	}
	if again := w.settle(h.Token, 1000, 0); again.Journal != s.Journal {
		t.Errorf("again %+v", again)
	}
	if st := w.status("budgets/chat"); st.Settled != 1_000_000 || st.Forced != 1_000_000 {
		t.Errorf("status %+v", st.State)
	}
}

func TestExpiredHoldIsChargedWhereTheBudgetSaysSo(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	org := *w.control.Snapshot().Budget("org")
	org.OnExpiry = charter.OnExpiryCharge
	w.apply(&org)
	_, h, err := w.gate.Reserve(context.Background(), call(1000, 500), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w.clock.advance(time.Minute + ledger.Grace + 2*time.Second)
	w.eventually("the hold is charged", func() bool { return w.status("budgets/chat").Settled == h.Amount })
	_, err = w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: 1}, "", 0)
	if e, ok := errors.AsType[*preflight.SettledError](err); !ok || e.Kind != ledger.KindExpiryCharge {
		t.Errorf("settle after the charge: %v", err)
	}
}

func TestExtendKeepsAHold(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h, err := w.gate.Reserve(context.Background(), call(1000, 500), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	longer, err := w.gate.Extend(context.Background(), h.Token, 5*time.Minute)
	if err != nil || !longer.Expires.After(h.Expires) {
		t.Fatal(longer, err)
	}
	w.clock.advance(2 * time.Minute)
	if s := w.settle(longer.Token, 1000, 0); s.Late || s.Forced != 0 {
		t.Errorf("settlement %+v", s)
	}
	if _, err := w.gate.Extend(context.Background(), h.Token, time.Hour); err == nil {
		t.Error("extended beyond the longest hold")
	}
}

func TestRestartSettlesWhatWasHeldBefore(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, before := w.reserve(call(1000, 500))
	_, settled := w.reserve(call(1000, 500))
	w.settle(settled.Token, 1000, 100)
	w.stop()
	w.open()
	st := w.status("budgets/chat")
	if st.Settled != 1_200_000 || st.Held != 2_000_000 || st.Quarantined != 2_000_000 {
		t.Errorf("after the restart: %+v; want the open hold quarantined", st.State)
	}
	if again := w.settle(settled.Token, 1000, 100); again.Cost != 1_200_000 {
		t.Errorf("again: %+v", again)
	}
	if s := w.settle(before.Token, 1000, 500); s.Late || s.Forced != 0 {
		t.Errorf("the hold of before: %+v", s)
	}
	if st := w.status("budgets/chat"); st.Settled != 3_200_000 || st.Held != 0 {
		t.Errorf("at the end: %+v", st.State)
	}
}

func TestUsageWithoutAHoldIsForcedSpendOnce(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	use := &preflight.Use{Call: routing.Call{Feature: "chat"}, Model: "large", Usage: usage.Usage{InputTokens: 100}, RequestID: "r1", BodyHash: []byte("x")}
	first, err := w.gate.RecordUsage(context.Background(), use)
	if err != nil || first.Cost != 1_000_000 || first.Forced != 1_000_000 || first.Tier != "premium" {
		t.Fatal(first, err)
	}
	w.stop()
	w.open()
	again, err := w.gate.RecordUsage(context.Background(), use)
	if err != nil || again.Journal != first.Journal {
		t.Errorf("again: %+v, %v; first %+v", again, err, first)
	}
	other := *use
	other.BodyHash = []byte("y")
	if _, err := w.gate.RecordUsage(context.Background(), &other); err == nil {
		t.Error("another body under the same id was taken")
	}
	if st := w.status("budgets/chat"); st.Settled != 1_000_000 || st.Forced != 1_000_000 {
		t.Errorf("status %+v", st.State)
	}
}

func TestForgedTokensAreUnknown(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h := w.reserve(call(1000, 500))
	forged := []byte(h.Token)
	forged[30] ^= 1
	for _, token := range []string{"", "x", "AAAA", string(forged), h.Token + "A", h.Token[:len(h.Token)-4]} {
		if _, err := w.gate.Settle(context.Background(), token, &usage.Usage{}, "", 0); !errors.Is(err, ledger.ErrUnknownHold) {
			t.Errorf("token %.20q: %v", token, err)
		}
	}
}

func TestRestartsDoNotProlongAQuarantine(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	w.reserve(call(1000, 500))
	for range 3 { // 9 minutes in all; the longest hold is 10
		w.stop()
		w.open()
		w.clock.advance(3 * time.Minute)
	}
	if st := w.status("budgets/chat"); st.Quarantined != 2_000_000 {
		t.Fatalf("before it is over: %+v", st.State)
	}
	w.stop()
	w.open()
	w.clock.advance(2 * time.Minute)
	w.eventually("the grant is reclaimed", func() bool { return w.status("budgets/chat").Held == 0 })
}
