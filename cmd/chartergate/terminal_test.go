package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func TestControlCharactersDoNotReachTheTerminal(t *testing.T) {
	for in, want := range map[string]string{
		"Tomás → 東京": "Tomás → 東京", "a\nb\tc": `a\nb\tc`, "\x1b[2J\x7f": `\x1b[2J\x7f`, "\u0085\u009b": `\u0085\u009b`,
		"a\u202eb\u2066\u200f": `a\u202eb\u2066\u200f`, "\u2028": `\u2028`, "\xff": `\xff`,
	} {
		if got := visible(in); got != want {
			t.Errorf("visible(%q) = %s; want %s", in, got, want)
		}
	}
	var b strings.Builder
	g := newGrid("ID")
	g.add("x\x1b[31m\ny")
	g.write(&b, "")
	facts{{"model", "m\ncost 0"}}.write(&b)
	if b.String() != "ID\n"+`x\x1b[31m\ny`+"\nmodel  "+`m\ncost 0`+"\n" {
		t.Errorf("%q", b.String())
	}
}

func TestTimesAreUTCAndFurtherRatesAreNamed(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 30, 0, 0, time.FixedZone("", 3600))
	if got := timeText(timestamppb.New(at)); got != "2026-11-23 08:30:00Z" {
		t.Error(got)
	}
	nanos := int64(1)
	price := &pb.Price{InputNanos: &nanos, EmbeddingNanos: &nanos, ToolCallNanos: map[string]int64{"web_search": 1}, OverheadPpm: 120_000}
	if got := furtherRates(price); got != "+ embedding, tools, overhead" {
		t.Error(got)
	}
	if got := furtherRates(&pb.Price{InputNanos: &nanos}); got != "" {
		t.Error(got)
	}
}

func TestTheBudgetOfAReasonIsShownOnce(t *testing.T) {
	for _, c := range []struct{ message, budget, want string }{
		{"the money of a run is used up", "budgets/a", "the money of a run is used up (budgets/a)"},
		{"budgets/a is used up", "budgets/a", "budgets/a is used up"},
		{"budgets/a-b is used up", "budgets/a", "budgets/a-b is used up (budgets/a)"},
		{"budgets/a-b and budgets/a", "budgets/a", "budgets/a-b and budgets/a"},
	} {
		f := decisionFacts(&pb.Decision{Reasons: []*pb.Reason{{Code: pb.ReasonCode_REASON_CODE_BUDGET_EXHAUSTED, Message: c.message, Budget: c.budget}}})
		found := false
		for _, x := range f {
			found = found || x[1] == c.want
		}
		if !found {
			t.Errorf("%q of %s: %v; want %q", c.message, c.budget, f, c.want)
		}
	}
}

func TestBudgetTableOfKeysAndQuarantine(t *testing.T) {
	var b strings.Builder
	g := newGrid("BUDGET", "OWNER", "PERIOD", "CURRENCY", ">LIMIT", ">SETTLED", ">HELD", ">REMAINING", ">USED", "ALERTS")
	statuses := []*pb.BudgetStatus{
		{Name: "budgets/run/keys/1", Currency: "USD", LimitNanos: 5e9, SettledNanos: 5e9, UtilizationPermille: 1000},
		{Name: "budgets/run/keys/2", Currency: "USD", LimitNanos: 5e9, HeldNanos: 1.32e9, QuarantinedNanos: 1.32e9, RemainingNanos: 3.68e9},
	}
	budgetTree(g, []*pb.Budget{{
		Name: "budgets/run", Currency: "USD", LimitNanos: 5e9, Per: pb.BudgetKey_BUDGET_KEY_RUN,
		Period: &pb.Period{Calendar: pb.CalendarPeriod_CALENDAR_PERIOD_DAY},
	}}, statuses, "")
	g.notes = standingNotes(statuses)
	g.write(&b, "")
	c := cli{t: t}
	c.contains(b.String(), "limit for each run; 2 seen, 1 used up\n",
		"\n\nHELD includes money of a server that is gone, free again when its longest hold is over: run/keys/2 1.3200 USD.\n")
	if note := quarantine(statuses[:1]); note != "" {
		t.Errorf("%q without quarantined money", note)
	}
}

// full is a writer that has no room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestAnswersThatCannotBeWrittenAreFailures(t *testing.T) {
	addr, _ := startExamples(t)
	for _, args := range [][]string{
		{"--help"},
		{"get", "budgets", "--server", addr},
		{"get", "budgets", "-o", "json", "--server", addr},
		{"reserve", "--feature", "code-assistant", "--input-tokens", "900000000", "--server", addr}, // refused
	} {
		var errs strings.Builder
		exit := execute(args, strings.NewReader(""), full{}, &errs)
		if exit != exitFailed || errs.String() != "chartergate: the answer could not be written: no space left on device\n" {
			t.Errorf("%v: exit %d: %s", args, exit, errs.String())
		}
	}
}

func TestMistakesInFlagsAreToldPlainly(t *testing.T) {
	c := cli{t: t}
	c.fails(exitUsage, []string{`--input-tokens is "1,200": write a whole number`}, "check", "--input-tokens", "1,200")
	c.fails(exitUsage, []string{"--input-tokens is 9223372036854775808: that is too large"}, "check", "--input-tokens", "9223372036854775808")
	c.fails(exitUsage, []string{`--timeout is "5": write a duration`}, "check", "--timeout", "5")
	c.fails(exitUsage, []string{"NAME is missing: write KIND NAME"}, "delete", "budget")
	c.fails(exitUsage, []string{`"c" is too much: write KIND NAME`}, "delete", "budget", "b", "c")
	c.fails(exitUsage, []string{`"x" is too much: check takes only flags`}, "check", "x")
	c.fails(exitUsage, []string{"give files with -f: chartergate apply -f a.yaml"}, "apply", "a.yaml")
	for _, addr := range []string{"http://127.0.0.1:7070", "localhost", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70700"} {
		c.fails(exitUsage, []string{"--server", "HOST:PORT", addr}, "get", "budgets", "--server", addr)
	}
	c.fails(exitFailed, []string{"the host nowhere.invalid of --server cannot be found"}, "get", "budgets", "--server", "nowhere.invalid:7070")
	addr, _ := startExamples(t)
	c.fails(exitFailed, []string{"did not answer within the --timeout of 1ns"}, "get", "budgets", "--server", addr, "--timeout", "1ns")

	trace := []string{"replay", "--format", "csv", "--feature", "support-copilot", "--server", addr, "--file", filepath.Join(t.TempDir(), "empty.csv")}
	if err := os.WriteFile(trace[len(trace)-1], []byte("input_tokens,output_tokens\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.fails(exitFailed, []string{"empty.csv: the file has no rows"}, trace...)
	c.fails(exitUsage, []string{"--concurrency 0 is too low"}, append(trace, "--concurrency", "0")...)
	c.fails(exitUsage, []string{"--limit -1 is below 0"}, append(trace, "--limit", "-1")...)
}

func TestApplyTakesSeveralPaths(t *testing.T) {
	addr, _ := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	dir := t.TempDir()
	file := func(name string) string {
		p := filepath.Join(dir, name+".yaml")
		text := fmt.Sprintf("kind: Budget\nname: %s\nparent: acme\nowner: {name: Priya}\nlimit: 0\nperiod: {calendar: day}\n", name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	one, two, three := file("one"), file("two"), file("three")
	c.contains(c.ok("apply", "-f", one, "-f", two, three), "+ budgets/one created", "+ budgets/two created", "3 created")
	c.contains(c.ok("get", "budget", "one", "-o", "yaml"), "limit: 0.00\n")
	c.fails(exitFailed, []string{"budgets/one is in " + one + " too"}, "apply", "-f", one, "-f", copyOf(t, one))
	c.fails(exitUsage, []string{"one.yaml is named twice"}, "apply", "-f", one, "-f", one)
}

func copyOf(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "copy.yaml")
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestUsageIsRecordedOnce(t *testing.T) {
	addr, _ := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	record := []string{"record", "--feature", "support-copilot", "--model", "gpt-5.4-mini", "--input-tokens", "1000", "--output-tokens", "100"}
	first := c.ok(append(record, "--request-id", "r-1")...)
	c.contains(first, "r-1", "0.0012 USD", "forced", "without a hold")
	if again := c.ok(append(record, "--request-id", "r-1")...); again != first {
		t.Errorf("the second answer is another:\n%s\n%s", first, again)
	}
	c.contains(c.ok("get", "status", "support-copilot"), "0.0012", "CURRENCY")
	if out := c.ok(record...); !regexp.MustCompile(`request id\s+record-\w{26}\n`).MatchString(out) {
		t.Errorf("no generated request id in:\n%s", out)
	}
	c.contains(c.ok("get", "status", "support-copilot"), "0.0024")
	c.fails(exitFailed, []string{`no charter has the id "nope"`, "repeat it with --request-id record-"}, "record", "--feature", "nope", "--model", "m", "--input-tokens", "1")
	c.fails(exitUsage, []string{"--model is required"}, "record", "--feature", "support-copilot")
}

func TestNamesAreCompletedFromTheServer(t *testing.T) {
	addr, _ := startExamples(t)
	t.Setenv(serverVariable, addr)
	c := cli{t: t}
	for _, x := range []struct {
		line []string
		want string
	}{
		{[]string{"get", "budgets", ""}, "engineering\n"},
		{[]string{"delete", "charter", ""}, "code-assistant\n"},
		{[]string{"get", "prices", ""}, "self-hosted\n"},
		{[]string{"reserve", "--feature", ""}, "support-copilot\n"},
		{[]string{"replay", "--format", ""}, "mooncake\n"},
		{[]string{"get", ""}, "charters\n"},
	} {
		_, out, _ := c.run("", append([]string{"__complete"}, x.line...)...)
		c.contains(out, x.want)
	}
	c.contains(c.ok("get", "budgets"), "acme") // the variable is the default of --server
	free, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if names := serverNames(free, "budgets"); names != nil || time.Since(start) > 10*completionTime {
		t.Errorf("%v after %v without a server", names, time.Since(start))
	}
}

func TestTheFirstErrorOfAReplayIsToldOnce(t *testing.T) {
	addr, _ := startExamples(t)
	file := filepath.Join(t.TempDir(), "t.csv")
	if err := os.WriteFile(file, []byte("input_tokens,output_tokens\n1,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Its budget is kept for each run, and the row names none.
	exit, out, errs := cli{t: t}.run("", "replay", "--format", "csv", "--feature", "research-agent", "--file", file, "--server", addr)
	if exit != exitFailed || !strings.Contains(errs, "1 of 1 calls had no answer; the first: row 1: ") || strings.Contains(out, "row 1: ") {
		t.Errorf("exit %d: %s%s", exit, out, errs)
	}
}
