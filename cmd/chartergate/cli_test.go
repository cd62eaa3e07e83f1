package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// cli runs a command line.
type cli struct {
	t     *testing.T
	flags []string // added to each
}

func (c cli) run(stdin string, args ...string) (exit int, out, errs string) {
	c.t.Helper()
	var o, e strings.Builder
	exit = execute(append(args, c.flags...), strings.NewReader(stdin), &o, &e)
	return exit, o.String(), e.String()
}

// ok runs a command that must succeed and gives its output.
func (c cli) ok(args ...string) string {
	c.t.Helper()
	exit, out, errs := c.run("", args...)
	if exit != exitOK || errs != "" {
		c.t.Fatalf("%v: exit %d: %s%s", args, exit, out, errs)
	}
	return out
}

// fails runs a command that must fail with one line that has all of the words.
func (c cli) fails(want int, words []string, args ...string) {
	c.t.Helper()
	exit, out, errs := c.run("", args...)
	line, rest, _ := strings.Cut(errs, "\n")
	if exit != want || out != "" || !strings.HasPrefix(line, "chartergate: ") || (want == exitFailed && rest != "") {
		c.t.Errorf("%v: exit %d with %q on stdout and %q on stderr; want exit %d and one line", args, exit, out, errs, want)
	}
	for _, w := range words {
		if !strings.Contains(line, w) {
			c.t.Errorf("%v: %q does not say %q", args, line, w)
		}
	}
}

func (c cli) contains(out string, want ...string) {
	c.t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			c.t.Errorf("no %q in:\n%s", w, out)
		}
	}
}

func TestCommandLineMistakes(t *testing.T) {
	c := cli{t: t}
	c.fails(exitUsage, []string{`unknown command "aply"`, "did you mean apply?"}, "aply")
	c.fails(exitUsage, []string{"unknown flag: --bogus"}, "check", "--bogus")
	c.fails(exitUsage, []string{"unknown kind \"budgts\"", "budgets"}, "get", "budgts")
	c.fails(exitUsage, []string{"write KIND [NAME]"}, "get")
	c.fails(exitUsage, []string{"catalog takes no NAME"}, "get", "catalog", "x")
	c.fails(exitUsage, []string{"write KIND NAME"}, "delete", "budget")
	c.fails(exitUsage, []string{"-f is required"}, "apply")
	c.fails(exitUsage, []string{"--feature is required"}, "reserve")
	c.fails(exitUsage, []string{"--hold is required"}, "settle")
	c.fails(exitUsage, []string{"web_search", "NAME=N"}, "reserve", "--tool", "web_search")
	c.fails(exitUsage, []string{"unknown --outcome \"maybe\""}, "settle", "--hold", "h", "--outcome", "maybe")
	c.fails(exitUsage, []string{"unknown output \"xml\""}, "get", "budgets", "-o", "xml")
	c.fails(exitFailed, []string{"nowhere.yaml", "no such file"}, "apply", "-f", "nowhere.yaml")

	free, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	c.fails(exitFailed, []string{"no server answers at " + free, "chartergate serve", "--server"}, "get", "budgets", "--server", free)
}

func TestErrorsAreForPeople(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("plain"), "plain"},
		{status.Error(codes.NotFound, "no such budget"), "no such budget"},
		{fmt.Errorf("a.yaml: %w", status.Error(codes.NotFound, "no such budget")), "a.yaml: no such budget"},
		{errors.Join(errors.New("one"), status.Error(codes.NotFound, "two")), "one\ntwo"},
	} {
		if got := explain(c.err); got != c.want {
			t.Errorf("%q; want %q", got, c.want)
		}
	}
	if got := explain(status.Error(codes.DeadlineExceeded, "x")); !strings.Contains(got, "--timeout") {
		t.Errorf("%q does not say what to do", got)
	}
}

func TestApplyGetAndDelete(t *testing.T) {
	addr, _ := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	examples := filepath.Join("..", "..", "examples", "acme")

	c.contains(c.ok("apply", "-f", examples), "= budgets/acme unchanged\n", "\n0 created, 0 updated, 15 unchanged\n")

	// What get writes as YAML, apply reads again.
	for kind, count := range map[string]int{"budgets": 8, "charters": 4, "catalog": 1, "prices": 2, "policies": 1} {
		_, out, errs := c.run(c.ok("get", kind, "-o", "yaml"), "apply", "-f", "-")
		c.contains(out+errs, fmt.Sprintf("0 created, 0 updated, %d unchanged", count))
	}

	// A change, dry and done.
	manifest := c.ok("get", "budget", "support-copilot", "-o", "yaml")
	manifest = strings.Replace(manifest, "limit: 40.00", "limit: 55.5", 1) + "---\nkind: Budget\nname: trial\nparent: acme\nowner: {name: Priya}\nlimit: 1\nperiod: {calendar: day}\n"
	want := "~ budgets/support-copilot updated\n    limit: 40.00 -> 55.50\n+ budgets/trial created\n1 created, 1 updated, 0 unchanged"
	_, out, errs := c.run(manifest, "apply", "-f", "-", "--dry-run")
	if out != want+" (dry run: nothing was changed)\n" || errs != "" {
		t.Errorf("dry run: %s%s", out, errs)
	}
	if _, out, errs = c.run(manifest, "apply", "-f", "-"); out != want+"\n" || errs != "" {
		t.Errorf("%s%s", out, errs)
	}

	// A tree in a table, with money aligned.
	tree := c.ok("get", "budgets")
	c.contains(tree, "\nacme ", "\n  customer-operations ", "\n    support-copilot ", "\n      research-agent-run ", "each run", "55.5000", "Tomás Ferreira")
	if sub := c.ok("get", "budgets", "engineering"); strings.Contains(sub, "acme") || !strings.Contains(sub, "\n  code-assistant") {
		t.Errorf("not the subtree of engineering:\n%s", sub)
	}
	c.contains(c.ok("get", "charters"), "contract-extraction", "llama-3.3-70b-instruct", "trickle", "downgrade")
	c.contains(c.ok("get", "catalog"), "premium   claude-sonnet-5", "1,000,000")
	c.contains(c.ok("get", "prices", "self-hosted"), "2.6000")
	c.contains(c.ok("get", "policies"), "builtin/", "ships with the server")
	c.contains(c.ok("get", "alerts"), "There are no alerts.")
	var charter pb.Charter
	if err := protojson.Unmarshal([]byte(c.ok("get", "charter", "code-assistant", "-o", "json")), &charter); err != nil || charter.GetTeam() != "developer-experience" {
		t.Errorf("%v, %v", &charter, err)
	}

	c.contains(c.ok("delete", "budget", "trial"), "- budgets/trial deleted")
	c.fails(exitFailed, []string{"budgets/trial"}, "get", "budget", "trial")
	c.fails(exitFailed, []string{"budgets/acme is used by"}, "delete", "budget", "acme")
	c.fails(exitFailed, []string{"policies/routing"}, "delete", "policy", "routing")
	c.fails(exitUsage, []string{"catalog cannot be deleted"}, "delete", "catalog", "x")
}

func TestApplyOrdersFilesAndKeepsEachWhole(t *testing.T) {
	addr, _ := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	budget := "kind: Budget\nname: %s\nparent: %s\nowner: {name: Priya}\nlimit: 1\nperiod: {calendar: day}\n"
	write("a.yaml", fmt.Sprintf(budget, "leaf", "middle"))
	write("b.yaml", fmt.Sprintf(budget, "middle", "top"))
	write("c.yaml", fmt.Sprintf(budget, "top", "acme"))
	write("d.yaml", fmt.Sprintf(budget, "whole", "acme")+"---\n"+fmt.Sprintf(budget, "lost", "nowhere"))

	exit, out, errs := c.run("", "apply", "-f", dir, "--dry-run")
	if exit != exitFailed || out != "" || !strings.Contains(errs, "budgets/nowhere") {
		t.Errorf("dry run: exit %d: %s%s", exit, out, errs)
	}
	exit, out, errs = c.run("", "apply", "-f", dir)
	if exit != exitFailed || out != "+ budgets/top created\n+ budgets/middle created\n+ budgets/leaf created\n3 created, 0 updated, 0 unchanged\n" {
		t.Errorf("exit %d: %s", exit, out)
	}
	if strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "d.yaml was not applied: budgets/lost names budgets/nowhere") {
		t.Errorf("%s", errs)
	}
	c.fails(exitFailed, []string{"budgets/whole"}, "get", "budget", "whole") // the file's other budget
	write("d.yaml", "kind: Budget\nname: whole\nlimit: ten\n")
	c.fails(exitFailed, []string{filepath.Join(dir, "d.yaml") + `:3:8: limit: "ten" is not a decimal amount`}, "apply", "-f", dir)
}

func TestCallsFromReserveToSettle(t *testing.T) {
	addr, _ := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	call := []string{"--feature", "support-copilot", "--task-class", "chat", "--input-tokens", "1200", "--max-output-tokens", "400", "--tool", "web_search=1"}
	reserve := func() string {
		t.Helper()
		var r struct {
			Hold struct {
				Token       string
				AmountNanos string `json:"amount_nanos"`
			}
		}
		if err := json.Unmarshal([]byte(c.ok(append([]string{"reserve", "-o", "json"}, call...)...)), &r); err != nil || r.Hold.AmountNanos != "12700000" {
			t.Fatalf("%+v, %v; want 0.0127 held: 1,200 x 0.75 and 400 x 4.50 a million, one search at 10,000 a million", r, err)
		}
		return r.Hold.Token
	}
	c.contains(c.ok(append([]string{"check"}, call...)...), "effect", "allow", "gpt-5.4-mini (standard, openai)", "0.0127 USD at most")
	c.contains(c.ok("get", "status", "support-copilot"), "0.0000")

	hold := reserve()
	c.contains(c.ok("get", "budgets"), "0.0127")
	extended := c.ok("extend", "--hold", hold, "--ttl", "5m", "-o", "yaml")
	hold = strings.Trim(regexp.MustCompile(`token: (\S+)`).FindStringSubmatch(extended)[1], `"`)
	settle := []string{"settle", "--hold", hold, "--input-tokens", "200", "--cache-read-tokens", "980", "--output-tokens", "322", "--tool", "web_search=1", "--outcome", "success"}
	first := c.ok(settle...)
	c.contains(first, "cost      0.0116725 USD", "released  0.0010275 USD", "cache_read_tokens", "tool_calls/web_search")
	if again := c.ok(settle...); again != first {
		t.Errorf("the second answer is another:\n%s\n%s", first, again)
	}
	c.fails(exitFailed, []string{"settled before", "0.0116725"}, "settle", "--hold", hold, "--input-tokens", "1")
	c.fails(exitFailed, []string{"settled"}, "release", "--hold", hold)
	c.contains(c.ok("release", "--hold", reserve()), "released  0.0127")
	response := filepath.Join(t.TempDir(), "response.json")
	if err := os.WriteFile(response, []byte(`{"usage":{"prompt_tokens":1180,"completion_tokens":322,"prompt_tokens_details":{"cached_tokens":980}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	raw := reserve()
	c.fails(exitUsage, []string{"--input-tokens and --raw-usage"}, "settle", "--hold", raw, "--raw-usage", response, "--input-tokens", "1")
	c.fails(exitFailed, []string{"unknown usage format"}, "settle", "--hold", raw, "--raw-usage", response, "--api", "responses")
	c.contains(c.ok("settle", "--hold", raw, "--raw-usage", response, "--provider", "openai"), "cost      0.0016725 USD", "cache_read_tokens")
	c.fails(exitFailed, []string{"hold"}, "settle", "--hold", "nonsense", "--input-tokens", "1")

	c.fails(exitFailed, []string{`no charter has the id "nope"`}, "reserve", "--feature", "nope")
	c.fails(exitFailed, []string{"research-agent-run", "run"}, "reserve", "--feature", "research-agent", "--input-tokens", "10")
	c.contains(c.ok("reserve", "--feature", "research-agent", "--input-tokens", "10", "--max-output-tokens", "10", "--run", "r-1"), "effect")
	c.contains(c.ok("get", "status", "research-agent-run"), "research-agent-run/keys/r-1")

	// A refusal is printed and has an exit status of its own.
	exit, out, errs := c.run("", "reserve", "--feature", "code-assistant", "--task-class", "code", "--input-tokens", "900000000", "-o", "json")
	if exit != exitRefused || errs != "" || !strings.Contains(out, "EFFECT_DENY") {
		t.Errorf("exit %d: %s%s", exit, out, errs)
	}
}

func TestHelpAndCompletion(t *testing.T) {
	c := cli{t: t}
	root := newRoot()
	for _, cmd := range root.Commands() {
		if cmd.Hidden || cmd.Short == "" || slices.Contains([]string{"help", "completion"}, cmd.Name()) {
			continue
		}
		c.contains(c.ok("--help"), "  "+cmd.Name()+" ", cmd.Short)
		c.contains(c.ok(cmd.Name(), "--help"), "Usage:\n  chartergate "+cmd.Use)
	}
	c.contains(c.ok("completion", "bash"), "__start_chartergate")
	c.contains(c.ok("--version"), "chartergate version ")
}
