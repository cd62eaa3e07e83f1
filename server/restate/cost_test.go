package restate_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/server/restate"
	"github.com/chartergate/chartergate/store"
)

// only counts and restates single entries of their own kind.
func (r *rig) only(e *storev1.Entry, u usage.Usage) *restate.Result {
	r.t.Helper()
	data, err := proto.Marshal(convert.UsageToProto(&u))
	r.must(err)
	e.Seq, e.Path, e.Feature, e.Model, e.Usage = r.n+1, []uint32{0}, "f", "lab/m", data
	e.CallMs, e.TimeMs, e.Cost = begins.Add(time.Hour).UnixMilli(), now.UnixMilli(), &storev1.Cost{Input: e.Amount}
	if data, err = proto.Marshal(&storev1.Batch{Accounts: []*storev1.Account{{Budget: "us"}}, Entries: []*storev1.Entry{e}}); err != nil {
		r.t.Fatal(err)
	}
	r.must(r.meter.Put(r.t.Context(), []store.OutboxBatch{{Owner: "a", N: r.n, Data: data}}))
	r.n++
	res, err := r.Restate(r.t.Context(), "lab/m@2026-11-20T06:30:00Z", true)
	r.must(err)
	return res
}

// A slice is a sum of calls that were rounded each for itself, with a fee for each.
func TestSlices(t *testing.T) {
	r := newRig(t, "")
	rates := func(effective time.Time, in, fee money.Nanos, variants ...pricing.Variant) *pricing.Price {
		p := pricing.New("lab/m", effective, "USD", map[pricing.Unit]money.Nanos{pricing.Input: in, pricing.Request: fee})
		r.must(p.SetVariants(variants))
		return p
	}
	book := func(old, fix *pricing.Price) {
		fix.Corrects, fix.Expires = &pricing.Corrected{Effective: january, Reason: "typo"}, ends
		r.commit(&charter.PriceBook{ID: "lab", Currency: "USD", Prices: []*pricing.Price{old, fix}})
	}
	const calls, tokens = 7, 100
	each := func(in, fee int64) int64 { return (tokens*in + fee + 500_000) / 1_000_000 }
	sum := usage.Usage{InputTokens: calls * tokens}
	slice := func(amount int64) *storev1.Entry {
		return &storev1.Entry{Kind: storev1.EntryKind_ENTRY_KIND_SETTLE, Calls: calls, Amount: amount}
	}
	book(rates(january, 1_000_003, 50_000_000), rates(begins, 3_000_011, 20_000_000))
	was, is := calls*each(1_000_003, 50_000_000), calls*each(3_000_011, 20_000_000)
	res := r.only(slice(was), sum)
	if d := int64(res.Sums[0].Difference); len(res.Sums) != 1 || d < is-was-calls || d > is-was+calls || adjustments(res) != 1 {
		t.Errorf("%+v, want %d within %d", res.Sums, is-was, calls)
	}
	if res := r.only(slice(is), sum); adjustments(res) != 0 || res.Sums[0].Entries != 2 || res.Sums[0].Posted != res.Sums[0].Difference {
		t.Errorf("settled at the correction: %+v", res.Sums)
	}
	if res := r.only(&storev1.Entry{Kind: storev1.EntryKind_ENTRY_KIND_EXPIRY_CHARGE, Calls: 1, Amount: 99}, usage.Usage{}); adjustments(res) != 0 || len(res.Unrestated) != 1 ||
		res.Unrestated[0].Entries != 1 || res.Unrestated[0].Settled != 99 {
		t.Errorf("an expiry charge: %+v", res)
	}
	long := pricing.Variant{OverInput: 500, Rates: map[pricing.Unit]money.Nanos{pricing.Input: 9_000_000}}
	book(rates(january, 1_000_003, 50_000_000, long), rates(begins, 3_000_011, 20_000_000, long))
	res, err := r.Restate(t.Context(), "", false)
	r.must(err)
	if n := len(res.Unrestated); n != 2 || res.Unrestated[1].Entries != 2 || !strings.Contains(res.Unrestated[1].Problem, "the size of each") {
		t.Errorf("thresholds: %+v", res)
	}
}
