package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store/archive"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

// ledgerRecords are the ledger's records as they stand in a data directory.
type ledgerRecords struct {
	batches map[string]*storev1.Batch // by `{owner}/{n}`
	hashes  map[string][]byte
	budgets map[string]*storev1.BudgetAccount // by name of the account
	grants  map[string][]*storev1.Grant
	alerts  map[string][]*storev1.Alert
	closed  int
}

// accountName is the name that the API gives an account.
func accountName(a *storev1.Account) string {
	switch {
	case a.GetKey() != "":
		return "budgets/" + a.GetBudget() + "/keys/" + a.GetKey()
	case a.GetOverflow() != "":
		return "budgets/" + a.GetBudget() + "/overflow/" + a.GetOverflow()
	}
	return "budgets/" + a.GetBudget()
}

func readRecords(t *testing.T, dir string) *ledgerRecords {
	t.Helper()
	server, err := embedded.Start(t.Context(), dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	r := &ledgerRecords{
		batches: map[string]*storev1.Batch{}, hashes: map[string][]byte{}, budgets: map[string]*storev1.BudgetAccount{},
		grants: map[string][]*storev1.Grant{}, alerts: map[string][]*storev1.Alert{},
	}
	read := func(prefix string, record func(key string, value []byte) error) {
		resp, err := server.Client().Get(t.Context(), etcd.Prefix+prefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			if err := record(strings.TrimPrefix(string(kv.Key), etcd.Prefix+prefix), kv.Value); err != nil {
				t.Fatalf("%s: %v", kv.Key, err)
			}
		}
	}
	batch := func(owner string, n uint64, value []byte) error {
		at := fmt.Sprintf("%s/%d", owner, n)
		hash := sha256.Sum256(value)
		r.batches[at], r.hashes[at] = new(storev1.Batch), hash[:]
		return proto.Unmarshal(value, r.batches[at])
	}
	read("jr/", func(key string, value []byte) error {
		var n uint64
		owner, number, _ := strings.Cut(key, "/")
		if _, err := fmt.Sscanf(number, "%016x", &n); err != nil {
			return err
		}
		return batch(owner, n, value)
	})
	if a, err := archive.NewReader(filepath.Join(dir, "archive")); err == nil { // what was collected
		for b, err := range a.Batches() {
			if err == nil {
				err = batch(b.Owner, b.N, b.Data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	read("bud/", func(_ string, value []byte) error {
		b := new(storev1.BudgetAccount)
		err := proto.Unmarshal(value, b)
		name := accountName(b.GetAccount())
		if r.budgets[name] != nil {
			t.Errorf("%s has two records in one period", name)
		}
		r.budgets[name] = b
		return err
	})
	read("gr/", func(_ string, value []byte) error {
		g := new(storev1.Grant)
		err := proto.Unmarshal(value, g)
		r.grants[accountName(g.GetAccount())] = append(r.grants[accountName(g.GetAccount())], g)
		return err
	})
	read("al/", func(_ string, value []byte) error {
		a := new(storev1.Alert)
		err := proto.Unmarshal(value, a)
		r.alerts[accountName(a.GetAccount())] = append(r.alerts[accountName(a.GetAccount())], a)
		return err
	})
	read("cl/", func(string, []byte) error { r.closed++; return nil })
	return r
}

// spent is what the journal says of an account.
type spent struct{ amount, forced, withinHold int64 }

// checkRecords compares the records with what clients were told, with the trace and with each other.
func checkRecords(t *testing.T, r *crashRun, dir string, statuses []*pb.BudgetStatus, alerts []*pb.BudgetAlert, log string) {
	t.Helper()
	records := readRecords(t, dir)
	accounts := checkJournal(t, r, records)
	t.Logf("%d batches, %d accounts, %d alerts, %d owners closed", len(records.batches), len(records.budgets), len(alerts), records.closed)

	stated := map[string]*pb.BudgetStatus{}
	for _, s := range statuses {
		stated[s.GetName()] = s
	}
	for name, sum := range accounts {
		b, s := records.budgets[name], stated[name]
		if b == nil || s == nil {
			t.Errorf("%s: record %v, status %v; the journal has %+v of it", name, b, s, sum)
			continue
		}
		alloc, settled := b.GetBase(), b.GetBase()
		for _, g := range records.grants[name] {
			alloc += g.GetAlloc()
			settled += g.GetSpent()
			if g.GetSpent() > g.GetAlloc() || g.GetSpent() < 0 {
				t.Errorf("%s: a grant of %d has %d spent", name, g.GetAlloc(), g.GetSpent())
			}
		}
		for _, c := range []struct {
			what       string
			holds      bool
			left, want int64
		}{
			{"base + sum of spent = sum of journalled amounts", settled == sum.amount, settled, sum.amount},
			{"alloc = base + sum of the grants' alloc", b.GetAlloc() == alloc, b.GetAlloc(), alloc},
			{"forced = sum of journalled forced amounts", b.GetForced() == sum.forced, b.GetForced(), sum.forced},
			{"alloc <= ceil + forced", b.GetAlloc() <= b.GetCeil()+b.GetForced(), b.GetAlloc(), b.GetCeil() + b.GetForced()},
			{"admitted within holds <= ceil", sum.withinHold <= b.GetCeil(), sum.withinHold, b.GetCeil()},
			{"the status says what is settled", s.GetSettledNanos() == sum.amount, s.GetSettledNanos(), sum.amount},
			{"the status says what is forced", s.GetForcedNanos() == sum.forced, s.GetForcedNanos(), sum.forced},
			{"the status says the ceiling", s.GetLimitNanos() == b.GetCeil(), s.GetLimitNanos(), b.GetCeil()},
		} {
			if !c.holds {
				t.Errorf("%s: %s: %d and %d", name, c.what, c.left, c.want)
			}
		}
		t.Logf("%-36s limit %10d settled %10d forced %9d alloc %10d", name, b.GetCeil(), settled, b.GetForced(), b.GetAlloc())
	}
	checkAlerts(t, records, accounts, alerts, log)
}

// checkJournal checks every entry against its call and what the client was told, and sums them by account.
func checkJournal(t *testing.T, r *crashRun, records *ledgerRecords) map[string]spent {
	t.Helper()
	accounts := map[string]spent{}
	seen, holds := map[string]string{}, map[string]bool{}
	forced, late := 0, 0
	for at, b := range records.batches {
		owner, number, _ := strings.Cut(at, "/")
		var n int
		if _, err := fmt.Sscan(number, &n); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.GetPreviousHash(), records.hashes[fmt.Sprintf("%s/%d", owner, n-1)]) {
			t.Errorf("batch %s does not follow the one before it", at)
		}
		for _, e := range b.GetEntries() {
			hold := fmt.Sprintf("%s/%d", owner, e.GetSeq())
			if e.GetSeq() != 0 && holds[hold] {
				t.Errorf("hold %s is settled twice", hold)
			}
			holds[hold] = true
			kind := storev1.EntryKind_ENTRY_KIND_SETTLE
			if strings.HasPrefix(e.GetUser(), "usage-") {
				kind = storev1.EntryKind_ENTRY_KIND_USAGE
			}
			if before := seen[e.GetUser()]; before != "" || e.GetKind() != kind || (kind == storev1.EntryKind_ENTRY_KIND_USAGE) != (e.GetSeq() == 0) {
				t.Errorf("%s has an entry of kind %s in %s, and one in %q before", e.GetUser(), e.GetKind(), at, before)
			}
			seen[e.GetUser()] = at
			checkEntry(t, r, at, e)
			for _, i := range e.GetPath() {
				name := accountName(b.GetAccounts()[i])
				sum := accounts[name]
				sum.amount += e.GetAmount()
				sum.forced += e.GetForced()
				sum.withinHold += e.GetAmount() - e.GetForced()
				accounts[name] = sum
			}
			if e.GetForced() > 0 {
				forced++
			}
			if e.GetLate() {
				late++
			}
		}
	}
	for user, a := range r.answers {
		if want := "jr/" + seen[user]; seen[user] == "" || a.GetJournal() != want && a.GetJournal() != "" { // empty: known by its mark alone
			t.Errorf("the settlement of %s was acknowledged in %s and stands in %q", user, a.GetJournal(), want)
		}
	}
	t.Logf("%d entries, %d with forced spend, %d of them late", len(seen), forced, late)
	if forced == 0 {
		t.Error("no forced spend: the load is not one that shows something")
	}
	return accounts
}

// checkEntry checks one entry against what the client was told and the price of its tokens.
func checkEntry(t *testing.T, r *crashRun, at string, e *storev1.Entry) {
	t.Helper()
	answer, row := r.answers[e.GetUser()], r.rows[e.GetUser()]
	if answer == nil {
		t.Errorf("%s: the settlement of %q was never acknowledged, though every call was repeated until it was", at, e.GetUser())
		return
	}
	if e.GetAmount() != answer.GetCostNanos() || e.GetForced() != answer.GetForcedNanos() || e.GetModel() != answer.GetModel() || e.GetLate() != answer.GetLate() {
		t.Errorf("%s: the journal has %v, the client was told %v", at, e, answer)
	}
	prices, ok := crashPrices[e.GetModel()]
	if !ok {
		t.Errorf("%s: model %q", at, e.GetModel())
	}
	cost := new(big.Rat)
	for i, tokens := range []int64{row.InputTokens - row.CachedTokens, row.CachedTokens, row.OutputTokens} {
		cost.Add(cost, new(big.Rat).Mul(big.NewRat(tokens, 1_000_000), big.NewRat(prices[i], 1)))
	}
	cost.Add(cost, big.NewRat(1, 2)) // round half up
	if want := new(big.Int).Div(cost.Num(), cost.Denom()); want.Cmp(big.NewInt(e.GetAmount())) != 0 {
		t.Errorf("%s: %s cost %d, its tokens cost %s", at, e.GetUser(), e.GetAmount(), want)
	}
	overHold := max(0, e.GetAmount()-e.GetHeld())
	if e.GetLate() || e.GetSeq() == 0 {
		overHold = e.GetAmount()
	}
	if e.GetForced() != overHold {
		t.Errorf("%s: %d of %d is forced with %d held, late %v; want %d", at, e.GetForced(), e.GetAmount(), e.GetHeld(), e.GetLate(), overHold)
	}
}

// checkAlerts checks that every threshold that settled spend has reached has one alert, and no other.
func checkAlerts(t *testing.T, records *ledgerRecords, accounts map[string]spent, listed []*pb.BudgetAlert, log string) {
	t.Helper()
	told := map[string]int{}
	for _, a := range listed {
		told[fmt.Sprintf("%s %d", a.GetBudget(), a.GetThresholdPermille())]++
	}
	crossed := 0
	for name, sum := range accounts {
		if strings.Contains(name, "/overflow/") {
			continue
		}
		thresholds := []int64{800}
		if name == "budgets/company" {
			thresholds = []int64{500, 800}
		}
		recorded := map[int64]int{}
		for _, a := range records.alerts[name] {
			recorded[int64(a.GetThresholdPermille())]++
			if a.GetSettled()*1000 < a.GetLimit()*int64(a.GetThresholdPermille()) || a.GetLimit() != records.budgets[name].GetCeil() || a.GetOwnerName() == "" {
				t.Errorf("%s: an alert too early, or of another ceiling: %v", name, a)
			}
		}
		for _, threshold := range thresholds {
			want := 0
			if sum.amount*1000 >= records.budgets[name].GetCeil()*threshold {
				want = 1
				crossed++
			}
			if n := told[fmt.Sprintf("%s %d", name, threshold)]; n != want || recorded[threshold] != want {
				t.Errorf("%s: %d alerts listed and %d recorded at %d per mille of %d, with %d settled; want %d",
					name, n, recorded[threshold], threshold, records.budgets[name].GetCeil(), sum.amount, want)
			}
			// A crash may come between the record and the line.
			if n := strings.Count(log, fmt.Sprintf("budget=%q threshold_permille=%d ", name, threshold)) +
				strings.Count(log, fmt.Sprintf("budget=%s threshold_permille=%d ", name, threshold)); n > want {
				t.Errorf("%s: %d lines in the log at %d per mille, want at most %d", name, n, threshold, want)
			}
		}
	}
	if crossed < 4 {
		t.Errorf("%d thresholds were reached: the load is not one that shows something", crossed)
	}
}
