package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartergate/chartergate/chaos/oracle"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store/embedded"
)

// readRecords reads what a data directory holds and checks it against itself.
func readRecords(t *testing.T, dir string) (*oracle.Records, *oracle.Journal) {
	t.Helper()
	server, err := embedded.Start(t.Context(), dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	records, err := oracle.ReadRecords(t.Context(), server.Client(), true)
	if err != nil {
		t.Fatal(err)
	}
	journal, bad, err := oracle.ReadJournal(records, oracle.Archives{filepath.Join(dir, "archive")})
	if err != nil {
		t.Fatal(err)
	}
	bad = append(bad, oracle.CheckRecords(records)...)
	for _, a := range records.Accounts {
		bad = append(bad, oracle.CheckBudget(nil, a.Budget)...)
	}
	bad = append(bad, oracle.CheckSums(records, journal)...)
	bad = append(bad, oracle.CheckAlerts(records, journal, crashThresholds)...)
	for _, v := range bad {
		t.Error(v)
	}
	return records, journal
}

func crashThresholds(account oracle.AccountKey) []int32 {
	switch {
	case strings.Contains(account.Name, "/overflow/"):
		return nil
	case account.Name == "budgets/company":
		return []int32{500, 800}
	}
	return []int32{800}
}

// checkRecords compares the records with what clients were told, with the trace and with each other.
func checkRecords(t *testing.T, r *crashRun, dir string, statuses []*pb.BudgetStatus, alerts []*pb.BudgetAlert, log string) {
	t.Helper()
	records, journal := readRecords(t, dir)
	checkJournal(t, r, journal)
	t.Logf("%d batches, %d accounts, %d alerts, %d owners closed", journal.Batches, len(records.Accounts), len(alerts), len(records.Owners["cl"]))

	stated := map[string]*pb.BudgetStatus{}
	for _, s := range statuses {
		stated[s.GetName()] = s
	}
	for key, sum := range journal.Sums {
		a, s := records.Accounts[key], stated[key.Name]
		if a == nil || s == nil {
			t.Errorf("%s: record %v, status %v; the journal has %+v of it", key, a, s, sum)
			continue
		}
		ceil := a.Budget.GetCeil()
		for _, c := range []struct {
			what       string
			holds      bool
			left, want int64
		}{
			{"admitted within holds <= ceil", sum.Amount-sum.Forced <= ceil, sum.Amount - sum.Forced, ceil},
			{"the status says what is settled", s.GetSettledNanos() == sum.Amount, s.GetSettledNanos(), sum.Amount},
			{"the status says what is forced", s.GetForcedNanos() == sum.Forced, s.GetForcedNanos(), sum.Forced},
			{"the status says the ceiling", s.GetLimitNanos() == ceil, s.GetLimitNanos(), ceil},
		} {
			if !c.holds {
				t.Errorf("%s: %s: %d and %d", key, c.what, c.left, c.want)
			}
		}
		t.Logf("%-36s limit %10d settled %10d forced %9d alloc %10d", key, ceil, sum.Amount, sum.Forced, a.Budget.GetAlloc())
	}
	checkAlerts(t, records, alerts, log)
}

// checkJournal checks every entry against its call and what the client was told.
func checkJournal(t *testing.T, r *crashRun, journal *oracle.Journal) {
	t.Helper()
	seen := map[string]string{}
	forced, late := 0, 0
	for _, e := range journal.Entries {
		kind := storev1.EntryKind_ENTRY_KIND_SETTLE
		if strings.HasPrefix(e.GetUser(), "usage-") {
			kind = storev1.EntryKind_ENTRY_KIND_USAGE
		}
		if before := seen[e.GetUser()]; before != "" || e.GetKind() != kind || (kind == storev1.EntryKind_ENTRY_KIND_USAGE) != (e.GetSeq() == 0) {
			t.Errorf("%s has an entry of kind %s in %s, and one in %q before", e.GetUser(), e.GetKind(), e.At(), before)
		}
		seen[e.GetUser()] = e.At()
		checkEntry(t, r, e)
		if e.GetForced() > 0 {
			forced++
		}
		if e.GetLate() {
			late++
		}
	}
	for user, a := range r.answers {
		if want := seen[user]; want == "" || a.GetJournal() != want && a.GetJournal() != "" { // empty: known by its mark alone
			t.Errorf("the settlement of %s was acknowledged in %s and stands in %q", user, a.GetJournal(), want)
		}
	}
	t.Logf("%d entries, %d with forced spend, %d of them late", len(seen), forced, late)
	if forced == 0 {
		t.Error("no forced spend: the load is not one that shows something")
	}
}

// checkEntry checks one entry against what the client was told and the price of its tokens.
func checkEntry(t *testing.T, r *crashRun, e *oracle.Entry) {
	t.Helper()
	at := e.At()
	answer, row := r.answers[e.GetUser()], r.rows[e.GetUser()]
	if answer == nil {
		t.Errorf("%s: the settlement of %q was never acknowledged, though every call was repeated until it was", at, e.GetUser())
		return
	}
	if e.GetAmount() != answer.GetCostNanos() || e.GetForced() != answer.GetForcedNanos() || e.GetModel() != answer.GetModel() || e.GetLate() != answer.GetLate() {
		t.Errorf("%s: the journal has %v, the client was told %v", at, e.Entry, answer)
	}
	rates, ok := crashPrices[e.GetModel()]
	if !ok {
		t.Errorf("%s: model %q", at, e.GetModel())
	}
	tokens := oracle.Tokens{Input: row.InputTokens - row.CachedTokens, Cached: row.CachedTokens, Output: row.OutputTokens}
	if want := rates.Cost(tokens); want != e.GetAmount() {
		t.Errorf("%s: %s cost %d, its tokens cost %d", at, e.GetUser(), e.GetAmount(), want)
	}
	overHold := max(0, e.GetAmount()-e.GetHeld())
	if e.GetLate() || e.GetSeq() == 0 {
		overHold = e.GetAmount()
	}
	if e.GetForced() != overHold {
		t.Errorf("%s: %d of %d is forced with %d held, late %v; want %d", at, e.GetForced(), e.GetAmount(), e.GetHeld(), e.GetLate(), overHold)
	}
}

// checkAlerts checks that the recorded alerts are the listed ones, with one line in the log at most.
func checkAlerts(t *testing.T, records *oracle.Records, listed []*pb.BudgetAlert, log string) {
	t.Helper()
	told := map[string]int{}
	for _, a := range listed {
		told[fmt.Sprintf("%s %d", a.GetBudget(), a.GetThresholdPermille())]++
	}
	recorded := 0
	for key, account := range records.Accounts {
		for _, a := range account.Alerts {
			recorded++
			if n := told[fmt.Sprintf("%s %d", key, a.GetThresholdPermille())]; n != 1 || a.GetLimit() != account.Budget.GetCeil() || a.GetOwnerName() == "" {
				t.Errorf("%s: listed %d times, or of another ceiling: %v", key, n, a)
			}
			// A crash may come between the record and the line.
			if n := strings.Count(log, fmt.Sprintf("budget=%q threshold_permille=%d ", key, a.GetThresholdPermille())) +
				strings.Count(log, fmt.Sprintf("budget=%s threshold_permille=%d ", key, a.GetThresholdPermille())); n > 1 {
				t.Errorf("%s: %d lines in the log at %d per mille, want at most 1", key, n, a.GetThresholdPermille())
			}
		}
	}
	if recorded < 4 || recorded != len(listed) {
		t.Errorf("%d thresholds were reached and %d are listed: the load is not one that shows something", recorded, len(listed))
	}
}
