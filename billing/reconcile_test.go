package billing_test

import (
	"encoding/csv"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/billing"
	"github.com/chartergate/chartergate/core/bill"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/internal/dataset"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/sql"
)

// trace gives the input and output tokens of the Azure LLM trace's requests.
func trace(t *testing.T) (calls [][2]int64) {
	t.Helper()
	f, err := os.Open(dataset.File(t, "traces/azure-llm-2023-conv.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows[1:] {
		in, err1 := strconv.ParseInt(r[1], 10, 64)
		out, err2 := strconv.ParseInt(r[2], 10, 64)
		if err1 != nil || err2 != nil {
			t.Fatal(r)
		}
		calls = append(calls, [2]int64{in, out})
	}
	return calls
}

// billed is what a provider's bill has of a day.
type billedKey struct {
	day            int
	model, feature string
	class          string
}

// The Azure trace is spread over 14 days, 3 features and 2 models, and priced. The bill says the same, but for: a rate of
// gpt-4o that is 3% higher from day 8 on, a tenth of the lines of `search` without their tag, and nothing at all on day 5.
func TestReconciliationFindsWhatWasPlanted(t *testing.T) {
	calls := trace(t)
	onBoth(t, func(t *testing.T, s *sql.Store) {
		day0 := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
		prices := map[string]*pricing.Price{
			"gpt-4o":      pricing.New("gpt-4o", day0, "USD", map[pricing.Unit]money.Nanos{pricing.Input: 2_500_000_000, pricing.Output: 10_000_000_000}),
			"gpt-4o-mini": pricing.New("gpt-4o-mini", day0, "USD", map[pricing.Unit]money.Nanos{pricing.Input: 150_000_000, pricing.Output: 600_000_000}),
		}
		features, models := []string{"chat", "search", "summaries"}, []string{"gpt-4o", "gpt-4o-mini"}
		rollups := make(map[string]*usage.Rollup)
		lines := make(map[billedKey]int64)
		var ledger, missing, untagged money.Nanos
		raised := make(map[billedKey]bool)
		for i, c := range calls {
			day, model, feature := i*14/len(calls), models[i%2], features[i%3]
			u := usage.Usage{InputTokens: c[0], OutputTokens: c[1]}
			amount, cost, err := prices[model].Split(&u)
			if err != nil {
				t.Fatal(err)
			}
			k := fmt.Sprint(day, model, feature)
			if rollups[k] == nil {
				rollups[k] = &usage.Rollup{Hour: day0.AddDate(0, 0, day).Add(7 * time.Hour), Attribution: usage.Attribution{Feature: feature, Model: model, Provider: "openai", Currency: "USD", Effect: "allow"}}
			}
			r := rollups[k]
			r.Calls++
			if !r.Usage.Add(&u) || r.Cost.Add(&cost) != nil {
				t.Fatal("overflow")
			}
			ledger += amount
			if day == 5 {
				missing += amount
				continue
			}
			tag := feature
			if feature == "search" && i%10 == 1 {
				tag = ""
				untagged += amount
			}
			lines[billedKey{day, model, tag, "input"}] += c[0]
			lines[billedKey{day, model, tag, "output"}] += c[1]
			raised[billedKey{day, model, tag, "input"}] = model == "gpt-4o" && day >= 8
			raised[billedKey{day, model, tag, "output"}] = model == "gpt-4o" && day >= 8
		}
		list := make([]usage.Rollup, 0, len(rollups))
		for _, r := range rollups {
			list = append(list, *r)
		}
		if err := s.Apply(t.Context(), []store.BatchID{{Owner: "a", N: 1}}, list); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		b.WriteString("BilledCost,BillingAccountId,BillingCurrency,ChargePeriodStart,EffectiveCost,ListCost,ProviderName,ServiceName,SkuMeter,ConsumedQuantity,ConsumedUnit,Tags\n")
		for k, tokens := range lines {
			rate := map[string]int64{"gpt-4oinput": 2500, "gpt-4ooutput": 10000, "gpt-4o-miniinput": 150, "gpt-4o-minioutput": 600}[k.model+k.class] // nanos a token
			picos := tokens * rate * 1000
			if raised[k] {
				picos = picos / 100 * 103
			}
			tags := ""
			if k.feature != "" {
				tags = `"{""feature"":""` + k.feature + `""}"`
			}
			cost := fmt.Sprintf("%d.%012d", picos/1e12, picos%1e12)
			fmt.Fprintf(&b, "%s,acc,USD,%s,%s,%s,OpenAI,OpenAI API,%s %s,%d,Tokens,%s\n", cost, day0.AddDate(0, 0, k.day).Format(time.DateOnly), cost, cost, k.model, k.class, tokens, tags)
		}
		b.WriteString("5,acc,USD,2026-09-03,5,5,AWS,Amazon Elastic Compute Cloud,BoxUsage:t3.large,1,Hours,\n") // not a model's
		imports(t, importer(s), write(t, b.String()))

		r := &billing.Reconciler{Usage: s, Bills: s}
		c := billing.Comparison{From: day0, To: day0.AddDate(0, 0, 14)}
		result, err := r.Reconcile(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		sums := map[bill.Cause]money.Nanos{}
		var l, bd money.Nanos
		for _, v := range result.Rows {
			parts := money.Nanos(0)
			for cause, n := range v.Parts {
				sums[cause] += n
				parts += n
			}
			if parts != v.Amount() {
				t.Errorf("%+v: the parts add up to %s of %s", v.Key, parts, v.Amount())
			}
			l, bd = l+v.Ledger, bd+v.Billed
		}
		if l != ledger {
			t.Errorf("the ledger has %s, the rows %s", ledger, l)
		}
		if sums[bill.MissingInBill] != -missing || sums[bill.Unallocated] != 0 || sums[bill.Volume] != 0 || sums[bill.MissingInLedger] != 0 || sums[bill.Unexplained] != 0 {
			t.Errorf("causes %v", sums)
		}
		if result.Outside["USD"].String() != "5" {
			t.Errorf("outside: %v", result.Outside)
		}
		var found []string
		for _, f := range result.Findings {
			found = append(found, f.String())
			t.Log(f.String())
			switch f.Cause {
			case bill.Rate:
				if f.Model != "gpt-4o" || f.Component != "" || f.Percent() != "+3.00%" || f.From.Day() != 9 || f.To.Day() != 14 || f.Amount != sums[bill.Rate] {
					t.Errorf("rate: %+v", f)
				}
			case bill.MissingInBill:
				if f.Model != "" || f.Provider != "openai" || f.From.Day() != 6 || f.To.Day() != 6 || f.Amount != -missing {
					t.Errorf("missing: %+v", f)
				}
			case bill.Unallocated:
				if f.Amount < untagged || f.Amount > untagged+untagged/30 {
					t.Errorf("unallocated: %+v, planted %s", f, untagged)
				}
			default:
				t.Errorf("%+v", f)
			}
		}
		if len(found) != 3 {
			t.Errorf("found %v", found)
		}
		// The feature that lacks its tag is named, by what it lacks.
		by, err := billing.Group(result.Rows, []string{"feature"})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range by {
			if n := v.Parts[bill.Unallocated]; (v.Feature == "search") != (n < 0) || (v.Feature == "") != (n > 0) {
				t.Errorf("%s: unallocated %s", v.Feature, n)
			}
		}
		// Accepted, the ledger is the bill, but for the day that the bill does not have; accepting again posts nothing.
		now := day0.AddDate(0, 1, 0)
		if len(result.Proposed) == 0 {
			t.Fatal("nothing is proposed")
		}
		for range 2 {
			if err := billing.Accept(t.Context(), s, result.Proposed, now); err != nil {
				t.Fatal(err)
			}
		}
		after, err := r.Reconcile(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		var variance money.Nanos
		for _, v := range after.Rows {
			variance += v.Amount()
		}
		if variance != -missing || len(after.Proposed) != 0 {
			t.Errorf("after: variance %s, missing %s, %d proposed", variance, -missing, len(after.Proposed))
		}
	})
}
