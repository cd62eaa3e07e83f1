package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const budget = "kind: Budget\nname: acme\nowner: {name: Priya}\nperiod: {calendar: month}\n"

func TestMistakesHaveTheirPlace(t *testing.T) {
	big := strings.Repeat("  - {id: m, provider: p, tier: t, context_tokens: 1, max_output_tokens: 1}\n", 1001)
	for _, c := range []struct{ name, in, want string }{
		// Malformed YAML: the line that does not belong.
		{"indentation", "kind: Budget\nname: acme\n  limit: 5\n", "m.yaml:3:3: malformed YAML: mapping values are not allowed in this context"},
		{"quote never closed", "kind: Budget\nname: \"acme\nlimit: 5\nper: run\n", "m.yaml:2:1: malformed YAML: found unexpected end of stream"},
		{"bracket never closed", "kind: Budget\nalert_thresholds: [80%, 95%\nlimit: 5\nper: run\n", "m.yaml:2:1: malformed YAML: did not find expected ',' or ']'"},
		{"outdented", "kind: Budget\nperiod:\n  calendar: day\n time_zone: UTC\n", "m.yaml:4:2: malformed YAML: did not find expected key"},
		{"tab", "kind: Budget\n\tname: acme\n", "m.yaml:2:2: malformed YAML: found a tab character that violates indentation"},
		{"second document", budget + "---\nkind: @Budget\n", "m.yaml:6:1: malformed YAML: found character that cannot start any token"},
		{"first line", "kind: Budget: x\n", "m.yaml:1:1: malformed YAML: mapping values are not allowed in this context"},
		{"unknown anchor", "kind: Budget\nname: *acme\n", "m.yaml:2:1: malformed YAML: unknown anchor 'acme' referenced"},
		{"not text", "kind: Budget\nname: é\xff\n", "m.yaml:2:8: the file is not UTF-8 text"},
		// What it holds.
		{"empty", "# nothing\n", "m.yaml: there is no resource in it: write one with `kind: Charter`, Budget, Catalog, PriceBook or Policy"},
		{"a list", "- kind: Budget\n", "m.yaml:1:1: a resource is a mapping that starts with `kind: `, not a list"},
		{"no kind", "\nname: acme\n", "m.yaml:2:1: kind is missing: write `kind: ` with Charter, Budget, Catalog, PriceBook or Policy"},
		{"unknown kind", "kind: Budgte\n", "m.yaml:1:7: unknown kind \"Budgte\": write Charter, Budget, Catalog, PriceBook or Policy; did you mean Budget?"},
		{"twice", budget + "limit: 1\n---\n" + budget + "limit: 1\n", "m.yaml:7:1: budgets/acme is there twice: first on line 1"},
		// Fields.
		{"unknown field", budget + "limt: 5.00\n", "m.yaml:5:1: unknown field \"limt\"; did you mean limit?"},
		{"unknown field far from all", budget + "colour: red\n", "m.yaml:5:1: unknown field \"colour\""},
		{"unknown nested field", "kind: Budget\nname: acme\nowner:\n  nam: Priya\n", "m.yaml:4:3: unknown field \"nam\"; did you mean name?"},
		{"duplicate key", budget + "limit: 5\nlimit: 6\n", "m.yaml:6:1: \"limit\" is there twice: first on line 5"},
		{"duplicate map key", budget + "labels: {a: x, a: y}\n", "m.yaml:5:16: \"a\" is there twice: first on line 5"},
		{"money both ways", budget + "limit: 5\nlimit_nanos: 6\n", "m.yaml:6:1: limit and limit_nanos are the same field: write one of them"},
		{"camel and snake", budget + "displayName: a\ndisplay_name: b\n", "m.yaml:6:1: displayName and display_name are the same field: write one of them"},
		{"server-set", budget + "create_time: 2026-01-01\n", "m.yaml:5:1: create_time is set by the server: leave it out"},
		{"no value", budget + "parent:\n", "m.yaml:5:8: parent has no value: write one, or leave the field out"},
		// Types.
		{"mapping for a value", budget + "limit: {usd: 5}\n", "m.yaml:5:8: limit is one value, not a mapping"},
		{"value for a mapping", "kind: Budget\nname: acme\nowner: Priya\n", "m.yaml:3:8: owner is a mapping of fields, not \"Priya\""},
		{"value for a list", budget + "alert_thresholds: 80%\n", "m.yaml:5:19: alert_thresholds is a list, not \"80%\""},
		{"list for a map", budget + "labels: [a]\n", "m.yaml:5:9: labels is a mapping of names to values, not a list"},
		{"not a number", budget + "limit_nanos: lots\n", "m.yaml:5:14: limit_nanos: \"lots\" is not a whole number"},
		{"a fraction", budget + "limit_nanos: 1.5\n", "m.yaml:5:14: limit_nanos: \"1.5\" is not a whole number"},
		{"not a share", budget + "alert_thresholds: [80%, 95]\n", "m.yaml:5:25: alert_thresholds[1]: \"95\" is not a share such as 80%"},
		{"too fine a share", budget + "alert_thresholds: [80.05%]\n", "m.yaml:5:20: alert_thresholds[0]: 80.05% is finer than 0.10%"},
		{"not a bool", "kind: Charter\ncapability_evaluations:\n- passed: maybe\n", "m.yaml:3:11: capability_evaluations[0].passed: \"maybe\" is neither true nor false"},
		{"not a duration", "kind: Charter\nescalation:\n- after: 15\n", "m.yaml:3:10: escalation[0].after: \"15\" is not a duration such as 90s, 15m or 24h"},
		{"not a time", "kind: Budget\nname: acme\nowner: {name: Priya}\nperiod: {calendar: day}\nlimit: 1\n---\nkind: PriceBook\nprices:\n- effective_time: 31.1.2026\n", "m.yaml:9:19: prices[0].effective_time: \"31.1.2026\" is neither a time such as 2026-01-31T12:00:00Z nor a date such as 2026-01-31"},
		{"unknown enum", "kind: Budget\nname: acme\nowner: {name: P}\nperiod: {calendar: fortnight}\n", "m.yaml:4:20: period.calendar: unknown value \"fortnight\": write day, week, month, quarter or year"},
		{"not a name", "kind: Charter\nname: Support Copilot\n", "m.yaml:2:7: name: \"Support Copilot\" is not a name: write charters/ID or the ID alone, 1 to 63 of a-z, 0-9 and -, starting with a letter"},
		{"not a reference", "kind: Budget\nname: a\nparent: charters/b\n", "m.yaml:3:9: parent: \"charters/b\" is not a name: write budgets/ID or the ID alone, 1 to 63 of a-z, 0-9 and -, starting with a letter"},
		// Money.
		{"ten decimals", budget + "limit: 0.0000000001\n", "m.yaml:5:8: limit: \"0.0000000001\" has more than nine decimals"},
		{"not an amount", budget + "limit: $5\n", "m.yaml:5:8: limit: \"$5\" is not a decimal amount such as 12.50"},
		{"too large an amount", budget + "limit: 99999999999\n", "m.yaml:5:8: limit: \"99999999999\": amount does not fit 64 bits of nanos (about 9.2 billion currency units)"},
		{"too large a number", budget + "limit_nanos: 9223372036854775808\n", "m.yaml:5:14: limit_nanos: 9223372036854775808 does not fit 64 bits"},
		{"map amount", "kind: PriceBook\nname: p\nprices:\n- tool_call: {web_search: free}\n", "m.yaml:4:27: prices[0].tool_call[\"web_search\"]: \"free\" is not a decimal amount such as 12.50"},
		// Rules of the API.
		{"below zero", budget + "limit: -1.00\n", "m.yaml:5:8: limit must be greater than or equal to 0"},
		{"out of range", budget + "alert_thresholds: [80%, 120%]\nlimit: 1\n", "m.yaml:5:25: alert_thresholds[1] must be greater than or equal to 1 and less than or equal to 1000"},
		{"no owner", "# Acme\nkind: Budget\nname: acme\nperiod: {calendar: day}\nlimit: 1\n", "m.yaml:2:1: owner is required"},
		{"owner without a name", "kind: Budget\nname: acme\nperiod: {calendar: day}\nowner: {email: a@b.example}\nlimit: 1\n", "m.yaml:4:8: owner.name must be at least 1 characters"},
		{"too many", "kind: Catalog\ntiers: [{id: t}]\nmodels:\n" + big, "m.yaml:4:3: models must contain no more than 1000 item(s)"},
		{"no limit", "\n" + budget, "m.yaml:2:1: limit is missing: write 0 to stop all spend"},
		{"not a currency", budget + "limit: 0\ncurrency: usd\n", "m.yaml:6:11: currency is not a three-letter ISO 4217 code, such as USD"},
		{"not an id", "kind: Catalog\ntiers: [{id: T 1}]\n", "m.yaml:2:14: tiers[0].id is not an id: 1 to 63 of a-z, 0-9 and -, starting with a letter"},
		// Policies.
		{"no such file", "kind: Policy\nname: routing\nfiles: [nowhere.rego]\n", "m.yaml:3:9: stat nowhere.rego: no such file or directory"},
		{"file outside", "kind: Policy\nname: routing\nfiles: [../secret.rego]\n", "m.yaml:3:9: \"../secret.rego\" is outside of the manifest's folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resources, err := Parse("m.yaml", []byte(c.in))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if _, ok := errors.AsType[*Error](err); !ok || resources != nil {
				t.Errorf("%T with %v; want *Error and nothing else", err, resources)
			}
		})
	}
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	_, err := Parse("m.yaml", []byte(budget+"limt: 5\nper: robot\n---\nkind: Charter\nname: x y\n"))
	if n := strings.Count(err.Error(), "\n") + 1; n != 3 {
		t.Errorf("%d mistakes; want 3:\n%v", n, err)
	}
}

func TestPeopleCanWriteItTheirWay(t *testing.T) {
	want, err := Parse("m.yaml", []byte(`
kind: Charter
name: charters/chat
display_name: "12"
owner: {name: Lena}
team: support
stage: production
budget: budgets/chat
target_cost_per_1000_successes_nanos: 9000000000
alert_thresholds_permille: [800, 955]
exhausted: {mode: downgrade, overflow_allowance_nanos: 1}
escalation: [{owner: {name: Lena}, after: 900s}]
capability_evaluations: [{capability: chat, model: m, score_permille: 920, expire_time: "2027-01-01T00:00:00Z"}]
approved_escalations: [{id: x, budget: budgets/chat, approver: {name: Ines}, approve_time: "2026-11-27T09:00:00Z", expire_time: "2026-11-28T00:00:00Z"}]
`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("m.yaml", []byte(`
kind: Charter
name: chat
displayName: 12
owner: &lena {name: Lena}
team: support
stage: STAGE_PRODUCTION
budget: chat
targetCostPer1000Successes: 9.00
alertThresholds: [80%, 95.5%]
exhausted: {mode: DOWNGRADE, overflowAllowance: 0.000000001}
escalation: [{owner: {<<: *lena}, after: 15m}]
capability_evaluations: [{capability: chat, model: m, score: 92%, expire_time: 2027-01-01}]
approved_escalations: [{id: x, budget: chat, approver: {name: Ines}, approve_time: 2026-11-27T09:00:00Z, expire_time: 2026-11-28}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got[0], want[0]) {
		t.Errorf("got  %v\nwant %v", got[0], want[0])
	}
}

func TestAnchorsDoNotExpandWithoutEnd(t *testing.T) {
	var b strings.Builder
	b.WriteString("kind: PriceBook\nname: p\nprices:\n- &p0 {model: m, effective_time: 2026-01-01, tool_call: &t {")
	for i := range 2000 {
		b.WriteString("t" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/26) + ": 1, ")
	}
	b.WriteString("}}\n" + strings.Repeat("- *p0\n", 1000))
	_, err := Parse("m.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "too large once its anchors are expanded") {
		t.Errorf("%.200v; want a refusal", err)
	}
	if _, err := Parse("m.yaml", []byte("kind: Budget\nowner: &o {<<: *o}\n")); err == nil {
		t.Error("a mapping that merges itself was accepted")
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "there are no *.yaml or *.yml files") {
		t.Errorf("empty folder: %v", err)
	}
	write("policy/routing.rego", "package chartergate.routing\n")
	write("policy/routing.yml", "kind: Policy\nname: routing\nfiles: [routing.rego]\nmessage: first\n")
	write("b.yaml", budget+"limit: 1\n")
	write("notes.txt", "not a manifest")
	write(".git/x.yaml", "not a manifest either: [")
	files, err := Load(dir)
	if err != nil || len(files) != 2 || filepath.Base(files[0].Path) != "b.yaml" {
		t.Fatalf("%v, %v; want b.yaml and policy/routing.yml", files, err)
	}
	want := &chartergatev1.Policy{
		Name: "policies/routing", Message: "first",
		Modules: map[string]string{"routing.rego": "package chartergate.routing\n"},
	}
	if got := files[1].Resources[0].GetPolicy(); !proto.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	formatted, err := Format(files[1].Resources[0])
	if err != nil || !strings.Contains(string(formatted), "  routing.rego: |\n    package chartergate.routing\n") {
		t.Errorf("%s, %v", formatted, err)
	}
	write("twice.yaml", "# again\n"+budget+"limit: 1\n")
	if _, err := Load(dir); err == nil || err.Error() != filepath.Join(dir, "twice.yaml")+":2:1: budgets/acme is in "+filepath.Join(dir, "b.yaml")+" too: remove one" {
		t.Errorf("%v", err)
	}
	write("twice.yaml", "kind: Policy\nname: routing\n---\n") // replaced by a policy of the same name
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "policies/routing is in ") {
		t.Errorf("%v", err)
	}
	write("twice.yaml", "kind: Budget\nname: other\nowner: {name: P}\nperiod: {calendar: day}\nlimit: 1\n")
	write("c.yaml", "kind: Nothing\n")
	write("d.yaml", "kind: [\n")
	if _, err := Load(dir); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("%v; want the mistakes of both files", err)
	}
	write("e.yaml", strings.Repeat("# big\n", maxFileBytes/6+1))
	if _, err := Load(filepath.Join(dir, "e.yaml")); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("%v; want a refusal of 4 MiB", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(budget + "limit: 5.00\n")
	f.Add("kind: Charter\nname: chat\nbudget: &b x\nlabels: {<<: *b}\n")
	f.Fuzz(func(t *testing.T, in string) {
		resources, err := Parse("m.yaml", []byte(in))
		if err != nil {
			return
		}
		for _, r := range resources {
			data, err := Format(r)
			if err != nil {
				t.Fatal(err)
			}
			back, err := Parse("m.yaml", data)
			if err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			etag := r.ProtoReflect() // Format leaves the etag out
			inner := Message(r).ProtoReflect()
			inner.Clear(inner.Descriptor().Fields().ByName("etag"))
			if !proto.Equal(etag.Interface(), back[0]) {
				t.Fatalf("%v became %v", r, back[0])
			}
		}
	})
}
