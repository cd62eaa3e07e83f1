package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/internal/dataset"
	"github.com/chartergate/chartergate/prices"
)

type realRow struct {
	Body      json.RawMessage
	Model     string
	Extracted []struct {
		Usage      map[string]int64
		Extractors []struct {
			Provider string      `json:"provider_id"`
			API      string      `json:"api_flavor"`
			Input    json.Number `json:"input_price"`
			Output   json.Number `json:"output_price"`
		}
	}
}

func realRows(t testing.TB) []realRow {
	t.Helper()
	data, err := os.ReadFile(dataset.File(t, "usage/real-usages.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []realRow
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// nanos rounds a decimal amount, half up.
func nanos(t testing.TB, amount json.Number) int64 {
	t.Helper()
	r, ok := new(big.Rat).SetString(amount.String())
	if !ok {
		t.Fatalf("%q is not an amount", amount)
	}
	r.Add(r.Mul(r, big.NewRat(1e9, 1)), big.NewRat(1, 2))
	return new(big.Int).Div(r.Num(), r.Denom()).Int64()
}

// Payloads of real responses, as every provider and API that the reference reads them as, cost what it says, or differ by
// a rule. The reference was made when claude-sonnet-5 had its first price, and by DeepSeek's day rates.
func TestCostOfRealPayloads(t *testing.T) {
	list, err := loadPrices(dataset.File(t, "prices/genai-prices.json"))
	if err != nil {
		t.Fatal(err)
	}
	c := &coster{list: list}
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	type count struct{ tokens, equal, explained, unexplained int }
	byProvider, rules := map[string]*count{}, map[string]int{}
	var all count
	rows := realRows(t)
	for i, row := range rows {
		for _, e := range row.Extracted {
			for _, x := range e.Extractors {
				n := byProvider[x.Provider+" "+x.API]
				if n == nil {
					n = new(count)
					byProvider[x.Provider+" "+x.API] = n
				}
				r, err := c.cost(x.Provider, x.API, row.Model, at, row.Body)
				if got, want := [...]int64{r.used.AllInput(), r.used.AllOutput(), cacheRead(&r.used)},
					[...]int64{e.Usage["input_tokens"], e.Usage["output_tokens"], e.Usage["cache_read_tokens"]}; got != want {
					t.Errorf("row %d as %s %s: tokens %v, the reference has %v (%v)\n%s", i, x.Provider, x.API, got, want, err, row.Body)
					continue
				}
				n.tokens++
				all.tokens++
				if x.Input == "" { // the reference knows no price
					continue
				}
				input, output := nanos(t, x.Input), nanos(t, x.Output)
				if err == nil && int64(r.input) == input && int64(r.output) == output {
					n.equal++
					all.equal++
					continue
				}
				if rule := whyOther(r, err, e.Usage, input, output); rule != "" {
					n.explained++
					all.explained++
					rules[rule]++
					continue
				}
				n.unexplained++
				all.unexplained++
				t.Errorf("row %d as %s %s: %d and %d, the reference has %d and %d (%v)\n%s", i, x.Provider, x.API, r.input, r.output, input, output, err, row.Body)
			}
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-32s %8s %8s %10s %12s\n", "provider and API", "tokens =", "price =", "explained", "unexplained")
	for _, name := range slices.Sorted(maps.Keys(byProvider)) {
		n := byProvider[name]
		fmt.Fprintf(&table, "%-32s %8d %8d %10d %12d\n", name, n.tokens, n.equal, n.explained, n.unexplained)
	}
	fmt.Fprintf(&table, "%-32s %8d %8d %10d %12d\n", fmt.Sprintf("all %d payloads", len(rows)), all.tokens, all.equal, all.explained, all.unexplained)
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		fmt.Fprintf(&table, "%3d  %s\n", rules[rule], rule)
	}
	t.Log("\n" + table.String())
}

// whyOther is the rule by which a cost differs from the reference; empty where there is none.
func whyOther(r *costed, err error, reference map[string]int64, input, output int64) string {
	unpriced, _ := errors.AsType[*pricing.UnpricedError](err)
	switch {
	case errors.As(err, new(*prices.NotFoundError)):
		return "the list has no such model; the reference's list is newer"
	case unpriced != nil && unpriced.Unit == "" && input == 0 && output == 0:
		return "the list has the model, but no rates; the reference takes that for free"
	case err != nil:
		return ""
	case reference["output_image_tokens"] > 0 && int64(r.input) == input && int64(r.output) > output:
		return "the list has one rate for text and images put out; the reference's newer list has two"
	}
	if written := r.used.CacheWrite5mTokens; written > 0 && reference["cache_write_tokens"] == 0 && int64(r.output) == output {
		asInput := r.used
		asInput.InputTokens, asInput.CacheWrite5mTokens = asInput.InputTokens+written, 0
		if in, _, err := r.price.InOut(&asInput); err == nil && int64(in) == input {
			return "the reference does not read cache writes at that provider, and takes them for input"
		}
	}
	return ""
}

func TestCostOfOnePayload(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "book.yaml")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(list, `kind: PriceBook
name: list
currency: EUR
prices:
  - model: claude-x
    effective_time: 2026-01-01
    input: 3
    cache_read: 0.3
    output: 15
    tool_call: {web_search: 10000}
`)
	payload := filepath.Join(dir, "usage.json")
	write(payload, `{"model":"claude-x","usage":{"input_tokens":1000,"cache_read_input_tokens":10000,"output_tokens":500,"server_tool_use":{"web_search_requests":2},"service_tier":"standard","new":1}}`)
	c := cli{t, nil}
	args := []string{"cost", "--prices", list, "--provider", "anthropic", "--usage", payload, "--at", "2026-06-01"}
	c.contains(c.ok(args...), "claude-x of anthropic", "not counted  new", "0.30", "tool_calls/web_search", "0.0335", "EUR")
	var a costAnswer
	if err := json.Unmarshal([]byte(c.ok(append(args, "-o", "json")...)), &a); err != nil {
		t.Fatal(err)
	}
	if a.InputTokens != 11_000 || a.OutputTokens != 500 || a.CacheReadTokens != 10_000 || a.InputNanos != 6_000_000 || a.OutputNanos != 7_500_000 ||
		a.TotalNanos != 33_500_000 || a.Currency != "EUR" || len(a.Lines) != 4 {
		t.Errorf("%+v", a)
	}
	var sum int64
	for _, l := range a.Lines {
		sum += l.CostNanos
	}
	if sum != a.TotalNanos {
		t.Errorf("the lines add up to %d, not to %d", sum, a.TotalNanos)
	}
	c.contains(c.ok(append(args, "-o", "yaml")...), "\nlines:\n  - unit: input_tokens\n    quantity: 1000\n")
	c.fails(exitFailed, []string{"claude-x", "no price at that time"}, append(args, "--at", "2025-01-01")...)
	c.fails(exitFailed, []string{"usage of anthropic chat has prompt_tokens"}, append(args, "--api", "chat")...)
	shipped := c.ok("cost", "--provider", "anthropic", "--model", "claude-sonnet-4-5-20250929", "--usage", payload, "--at", "2026-06-01")
	c.contains(shipped, "claude-sonnet-4-5", "tool_calls/web_search", "0.0335", "USD", "genai-prices 20")
	c.fails(exitUsage, []string{"one of --usage and --batch"}, "cost", "--prices", list)
	c.fails(exitUsage, []string{`--at "soon" is not a time`}, append(args, "--at", "soon")...)
}

func TestCostOfABatch(t *testing.T) {
	list := dataset.File(t, "prices/genai-prices.json")
	in := strings.Join([]string{
		`{"id":1,"provider":"openai","api":"chat","model":"gpt-4o","at":"2026-06-01T00:00:00Z","usage":{"prompt_tokens":1000,"completion_tokens":100,"prompt_tokens_details":{"cached_tokens":400}}}`,
		``,
		`{"id":"b","provider":"bedrock","api":"converse","model":"us.anthropic.claude-sonnet-4-5-20250929-v1:0","usage":{"inputTokens":10,"outputTokens":5,"cacheReadInputTokens":7}}`,
		`not JSON`,
		`{"id":"d","provider":"openai","api":"chat","model":"gpt-4o","usage":{"prompt_tokens":-1,"completion_tokens":100}}`,
		`{"id":"e","provider":"openai","api":"chat","model":"nobody-knows","usage":{"prompt_tokens":5,"completion_tokens":6}}`,
		`{"id":"f","provider":"anthropic","usage":"data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-sonnet-4-5-20250929\",\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}"}`,
		`{"id":"g","provider":5,"usage":{}}`,
		`{"id":"h","provider":"openai"}`,
		`[1]`,
		`{"id":{"n":1},"provider":"google","at":1780000000,"model":"models/gemini-2.5-flash","usage":{"usageMetadata":{"promptTokenCount":100,"candidatesTokenCount":10,"thoughtsTokenCount":5}}}`,
	}, "\n")
	exit, out, errs := cli{t, nil}.run(in, "cost", "--batch", "-", "--prices", list)
	want := []string{
		`{"id":1,"input_tokens":1000,"output_tokens":100,"cache_read_tokens":400,"input_nanos":2000000,"output_nanos":1000000,"total_nanos":3000000,"error":""}`,
		`{"id":"b","input_tokens":17,"output_tokens":5,"cache_read_tokens":7,"input_nanos":35310,"output_nanos":82500,"total_nanos":117810,"error":""}`,
		`{"id":null,"input_tokens":0,"output_tokens":0,"cache_read_tokens":0,"input_nanos":0,"output_nanos":0,"total_nanos":0,"error":"line 4: it is not JSON: invalid character 'o' in literal null (expecting 'u')"}`,
		`{"id":"d","input_tokens":0,"output_tokens":0,"cache_read_tokens":0,"input_nanos":0,"output_nanos":0,"total_nanos":0,"error":"line 5: invalid usage: prompt_tokens is -1, a count is not negative"}`,
		`{"id":"e","input_tokens":5,"output_tokens":6,"cache_read_tokens":0,"input_nanos":0,"output_nanos":0,"total_nanos":0,"error":"line 6: ` + list + `: provider \"openai\" has no model \"nobody-knows\""}`,
		`{"id":"f","input_tokens":25,"output_tokens":1,"cache_read_tokens":0,"input_nanos":75000,"output_nanos":15000,"total_nanos":90000,"error":"","partial":true}`,
		`{"id":"g","input_tokens":0,"output_tokens":0,"cache_read_tokens":0,"input_nanos":0,"output_nanos":0,"total_nanos":0,"error":"line 8: provider is not a string but number"}`,
		`{"id":"h","input_tokens":0,"output_tokens":0,"cache_read_tokens":0,"input_nanos":0,"output_nanos":0,"total_nanos":0,"error":"line 9: usage is missing"}`,
		`{"id":null,"input_tokens":0,"output_tokens":0,"cache_read_tokens":0,"input_nanos":0,"output_nanos":0,"total_nanos":0,"error":"line 10: it is not a JSON object but array"}`,
		`{"id":{"n":1},"input_tokens":100,"output_tokens":15,"cache_read_tokens":0,"input_nanos":30000,"output_nanos":37500,"total_nanos":67500,"error":""}`,
	}
	got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i, line := range want {
		if i >= len(got) || got[i] != line {
			t.Errorf("line %d is\n%s\nwant\n%s", i+1, got[min(i, len(got)-1)], line)
		}
	}
	if exit != exitOK || len(got) != len(want) || errs != "chartergate: 6 of 10 lines could not be priced; each says why in its error\n" {
		t.Errorf("exit %d, %d lines, %s", exit, len(got), errs)
	}
	if exit, _, errs := (cli{t, nil}).run("", "cost", "--batch", "/nowhere", "--prices", list); exit != exitFailed || !strings.Contains(errs, "/nowhere") {
		t.Errorf("exit %d: %s", exit, errs)
	}
}

func TestNamesOfModels(t *testing.T) {
	for _, c := range []struct{ provider, model, finds string }{
		{"google", "models/gemini-2.5-pro", "gemini-2.5-pro"},
		{"google", "publishers/anthropic/models/claude-sonnet-4@20250514", "claude-sonnet-4-20250514"},
		{"aws", "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0", "anthropic.claude-sonnet-4-20250514-v1:0"},
		{"openai", "ft:gpt-4o-mini-2024-07-18:acme::abc", "gpt-4o-mini-2024-07-18"},
		{"openai", "openai/gpt-5-mini", "gpt-5-mini"},
		{"openai", "gpt-5.2-20251211", "gpt-5.2-2025-12-11"},
	} {
		if names := namesOf(c.provider, c.model); names[0] != c.model || !slices.Contains(names, c.finds) {
			t.Errorf("%s is looked for as %v, without %s", c.model, names, c.finds)
		}
	}
}

func BenchmarkCostBatch(b *testing.B) {
	list, err := loadPrices(dataset.File(b, "prices/genai-prices.json"))
	if err != nil {
		b.Fatal(err)
	}
	var lines bytes.Buffer
	count := 0
	for _, row := range realRows(b) {
		for _, e := range row.Extracted {
			for _, x := range e.Extractors {
				if x.Input == "" {
					continue
				}
				body, _ := json.Marshal(map[string]any{"id": count, "provider": x.Provider, "api": x.API, "model": row.Model, "usage": row.Body})
				lines.Write(append(body, '\n'))
				count++
			}
		}
	}
	c := &coster{list: list}
	b.SetBytes(int64(lines.Len()))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		cmd := newCostCommand()
		cmd.SetIn(bytes.NewReader(lines.Bytes()))
		cmd.SetOut(new(bytes.Buffer))
		cmd.SetErr(new(bytes.Buffer))
		if err := costBatch(cmd, c, costDefaults{at: time.Now()}, "-"); err != nil {
			b.Fatal(err)
		}
		n += count
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "lines/s")
}
