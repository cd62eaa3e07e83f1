package main

import (
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// What a server settles, its reports say: by every dimension, in every form, equal to its ledger to the nano.
func TestReportsOfAServer(t *testing.T) {
	addr, client := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	c.contains(c.ok("report", "allocation", "--period", "2020-02"), "No settlements between 2020-02-01 00:00Z and 2020-03-01 00:00Z; the ledger has counted none yet.")
	c.contains(c.ok("report", "budgets-at-risk"), "No budget is at risk of ")

	var settled int64
	for i := range 12 {
		feature, cohort := "support-copilot", []string{"", "free", "pro"}[i%3]
		if i%4 == 3 {
			feature = "code-assistant"
		}
		call := &pb.Call{Feature: feature, TaskClass: "chat", Cohort: cohort, User: "u1", PromptPattern: "greeting", Estimate: &pb.Estimate{InputTokens: 2000, MaxOutputTokens: 500}}
		r, err := client.Reserve(t.Context(), &pb.ReserveRequest{Call: call})
		if err != nil || r.GetHold() == nil {
			t.Fatalf("%v, %v", r, err)
		}
		s, err := client.Settle(t.Context(), &pb.SettleRequest{Hold: r.GetHold().GetToken(), Outcome: pb.Outcome(1 + i%2), Usage: &pb.Usage{
			InputTokens: int64(1000 + i), CacheReadTokens: 500, OutputTokens: 300, ContextOverheadTokens: 400,
		}})
		if err != nil {
			t.Fatal(err)
		}
		settled += s.GetSettlement().GetCostNanos()
	}
	awaitReports(t, c, settled)

	for _, by := range []string{"feature", "owner", "team", "budget", "budget_path", "cohort", "tier", "model", "provider", "prompt_pattern", "effect", "label:none", "feature,cohort,tier"} {
		rows, err := csv.NewReader(strings.NewReader(c.ok("report", "allocation", "--by", by, "-o", "csv", "--rows", "2"))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var sum, share int64
		for _, row := range rows[1:] {
			cost, _ := strconv.ParseInt(row[column(rows, "cost_nanos")], 10, 64)
			part, _ := strconv.ParseInt(row[column(rows, "share_permille")], 10, 64)
			sum += cost
			share += part
		}
		if sum != settled || share != 1000 {
			t.Errorf("by %s: %d with %d per mille, want %d", by, sum, share, settled)
		}
	}
	c.contains(c.ok("report", "allocation", "--by", "cohort", "--verify"), "Allocation by cohort, ", "\n(unallocated) ", "\ntotal ", "names no cohort.", "equal to the nano", "The ledger is counted up to the settlement of ")
	c.contains(c.ok("report", "allocation", "--where", "cohort=pro", "--where", "cohort=free", "--components", "-o", "yaml"), "context_overhead_nanos:", "where:\n    - cohort=pro")
	c.contains(c.ok("report", "trend", "--by", "feature", "--step", "hour", "--last", "3h"), "Trend of each hour by feature, ", "rate of today", "FORECAST "+time.Now().UTC().Format("2006-01"))
	c.contains(c.ok("report", "unit-economics", "--by", "feature", "--last", "1d"), "PER 1,000 SUCCESSES", "\nsupport-copilot ")
	c.contains(c.ok("report", "executive", "-o", "markdown"), "# AI spend, ", "| support-copilot |", "## Features by stage")
	c.fails(exitFailed, []string{"by: unknown dimension \"colour\"", "label:KEY"}, "report", "allocation", "--by", "colour")
	c.fails(exitFailed, []string{"window.period", "2026-13"}, "report", "trend", "--period", "2026-13")
	c.fails(exitFailed, []string{"max_rows"}, "report", "allocation", "--rows", "10001")
}

// awaitReports waits until so much is counted: a settlement is in reports a second or so later.
func awaitReports(t *testing.T, c cli, settled int64) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		var a pb.Allocation
		if err := protojson.Unmarshal([]byte(c.ok("report", "allocation", "--verify", "-o", "json")), &a); err != nil {
			t.Fatal(err)
		}
		var sum, differ int64
		for _, table := range a.GetTables() {
			sum += table.GetTotal().GetTotals().GetCostNanos()
		}
		for _, l := range a.GetLedger() {
			differ += l.GetDifferenceNanos()
		}
		if sum > settled || differ < 0 {
			t.Fatalf("reported %d, to come %d, settled %d", sum, differ, settled)
		}
		if sum == settled && differ == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal(fmt.Sprint("not counted in 30 s: ", differ))
		}
	}
}

func column(rows [][]string, name string) int {
	for i, n := range rows[0] {
		if n == name {
			return i
		}
	}
	return 0
}
