package pricing

import (
	"errors"
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func drawPrice(t *rapid.T) *Price {
	rates := map[Unit]money.Nanos{}
	for u := range unitCount {
		if rapid.Bool().Draw(t, "has "+u.String()) {
			rates[u] = money.Nanos(rapid.Int64Range(0, 1e15).Draw(t, u.String()))
		}
	}
	p := New("m", day, "USD", rates)
	p.OverheadPPM = rapid.Int64Range(0, 1_000_000).Draw(t, "overhead")
	p.Tools = map[string]money.Nanos{"search": money.Nanos(rapid.Int64Range(0, 1e15).Draw(t, "search")), "code": 7}
	p.Accelerators = map[string]money.Nanos{"h100": money.Nanos(rapid.Int64Range(0, 1e15).Draw(t, "h100")), "a100": 7}
	if rapid.Bool().Draw(t, "no accelerators") {
		p.Accelerators = nil
	}
	p.GPUPerMInput = rapid.Int64Range(0, 1e9).Draw(t, "gpu in")
	p.GPUPerMOutput = rapid.Int64Range(0, 1e9).Draw(t, "gpu out")
	return p
}

func drawUsage(t *rapid.T) usage.Usage {
	n := func(name string) int64 {
		return rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 2e6), rapid.Int64Range(0, 1e9)).Draw(t, name)
	}
	u := usage.Usage{
		InputTokens: n("input"), CacheReadTokens: n("read"), CacheWrite5mTokens: n("write5"), CacheWrite1hTokens: n("write1"),
		OutputTokens: n("output"), ReasoningTokens: n("reasoning"), AudioInputTokens: n("audio in"), AudioOutputTokens: n("audio out"),
		AudioCacheReadTokens: n("audio read"), ImageInputTokens: n("image in"), ImageOutputTokens: n("image out"),
		EmbeddingTokens: n("embedding"), VectorQueries: n("vector"), GPUMilliseconds: n("gpu"), StorageBytes: n("storage"),
		EgressBytes: n("egress"), ToolCalls: map[string]int64{"search": n("search"), "code": n("code")},
		Accelerator: rapid.SampledFrom([]string{"", "h100", "a100", "b200"}).Draw(t, "accelerator"),
	}
	u.ContextOverheadTokens = rapid.Int64Range(0, u.AllInput()).Draw(t, "overhead")
	return u
}

// exact is the formula of the price in rational numbers, rounded once, half up. ok is false where a unit has no rate.
func exact(p *Price, u *usage.Usage) (cost *big.Int, ok bool) {
	sum := new(big.Rat)
	add := func(n int64, rate money.Nanos, per int64) {
		sum.Add(sum, new(big.Rat).Mul(big.NewRat(n, per), new(big.Rat).SetInt64(int64(rate))))
	}
	gpuRate, selfHosted := p.Rate(GPUMillisecond)
	byHour := selfHosted || len(p.Accelerators) > 0
	if u.Accelerator != "" {
		gpuRate, selfHosted = p.Accelerators[u.Accelerator]
	}
	if byHour && !selfHosted {
		return nil, false
	}
	gpu := u.GPUMilliseconds
	if gpu == 0 && selfHosted {
		n := new(big.Int).Add(new(big.Int).Mul(big.NewInt(u.AllInput()), big.NewInt(p.GPUPerMInput)),
			new(big.Int).Mul(big.NewInt(u.AllOutput()), big.NewInt(p.GPUPerMOutput)))
		n.Add(n, big.NewInt(999_999)).Div(n, big.NewInt(1_000_000))
		gpu = n.Int64()
	}
	chain := func(n int64, units ...Unit) bool {
		if n == 0 {
			return true
		}
		for _, unit := range units {
			if rate, has := p.Rate(unit); has {
				add(n, rate, 1_000_000)
				return true
			}
		}
		return selfHosted && units[0].tokens() && gpu > 0
	}
	ok = chain(u.InputTokens, Input) && chain(u.CacheReadTokens, CacheRead, Input) && chain(u.CacheWrite5mTokens, CacheWrite5m, Input) &&
		chain(u.CacheWrite1hTokens, CacheWrite1h, CacheWrite5m, Input) && chain(u.OutputTokens, Output) &&
		chain(u.ReasoningTokens, Reasoning, Output) && chain(u.AudioInputTokens, AudioInput) && chain(u.AudioOutputTokens, AudioOutput) &&
		chain(u.AudioCacheReadTokens, AudioCacheRead, AudioInput) && chain(u.ImageInputTokens, ImageInput, Input) && chain(u.ImageOutputTokens, ImageOutput, Output) &&
		chain(u.EmbeddingTokens, Embedding) && chain(u.VectorQueries, VectorQuery) && chain(u.StorageBytes, StorageByte) && chain(u.EgressBytes, EgressByte)
	if gpu > 0 {
		if !selfHosted {
			return nil, false
		}
		add(gpu, gpuRate, 3_600_000)
	}
	if rate, has := p.Rate(Request); has {
		add(1, rate, 1_000_000)
	}
	for tool, n := range u.ToolCalls {
		add(n, p.Tools[tool], 1_000_000)
	}
	sum.Mul(sum, big.NewRat(1_000_000+p.OverheadPPM, 1_000_000))
	sum.Add(sum, big.NewRat(1, 2))
	return new(big.Int).Div(sum.Num(), sum.Denom()), ok
}

func TestCostIsTheExactSumRoundedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, u := drawPrice(t), drawUsage(t)
		want, priced := exact(p, &u)
		got, err := p.Cost(&u)
		if _, unpriced := errors.AsType[*UnpricedError](err); unpriced {
			if priced {
				t.Fatalf("%v, but every unit has a rate", err)
			}
			return
		}
		if !priced && err == nil {
			t.Fatalf("a unit without a rate cost nothing: %d", got)
		}
		if errors.Is(err, money.ErrOverflow) {
			if priced && want.IsInt64() {
				t.Fatalf("overflow, but the cost is %s", want)
			}
			return
		}
		if err != nil || !want.IsInt64() || int64(got) != want.Int64() {
			t.Fatalf("cost %d, %v; want %s", got, err, want)
		}
		total, lines, err := p.Lines(&u)
		if err != nil || total != got {
			t.Fatalf("lines: total %d, %v; cost %d", total, err, got)
		}
		var sum money.Nanos
		for _, l := range lines {
			sum += l.Cost
			if l.Cost < 0 {
				t.Fatalf("line %s costs %d", l.Unit, l.Cost)
			}
		}
		if sum != total {
			t.Fatalf("the lines add up to %d, the total is %d", sum, total)
		}
		split, c, err := p.Split(&u)
		if sum, err2 := c.Total(); err != nil || err2 != nil || split != got || sum != got {
			t.Fatalf("the components of %d add up to %d, to split is %d: %v, %v", got, sum, split, err, err2)
		}
		for _, part := range []money.Nanos{c.Input, c.ContextOverhead, c.Output, c.Retrieval, c.Tools, c.Compute, c.Other} {
			if part < 0 {
				t.Fatalf("a negative component: %+v", c)
			}
		}
	})
}

func TestPublishedPricesAreExact(t *testing.T) {
	sonnet := New("sonnet", day, "USD", map[Unit]money.Nanos{Input: 3 * money.Unit, CacheRead: 300_000_000, CacheWrite5m: 3_750_000_000, Output: 15 * money.Unit})
	llama := New("llama", day, "USD", map[Unit]money.Nanos{GPUMillisecond: 2_500_000_000})
	llama.OverheadPPM, llama.GPUPerMInput, llama.GPUPerMOutput = 120_000, 40_000, 900_000
	for _, c := range []struct {
		name  string
		price *Price
		usage usage.Usage
		want  money.Nanos
	}{
		{"1M in, 1M out", sonnet, usage.Usage{InputTokens: 1e6, OutputTokens: 1e6}, 18 * money.Unit},
		{"one cached token is 300 nanos", sonnet, usage.Usage{CacheReadTokens: 1}, 300},
		{"a 1-hour write falls back to the 5-minute rate", sonnet, usage.Usage{CacheWrite1hTokens: 4}, 15_000},
		{"reasoning falls back to output", sonnet, usage.Usage{ReasoningTokens: 2}, 30_000},
		{"one GPU-hour with 12% overhead", llama, usage.Usage{GPUMilliseconds: 3_600_000}, 2_800_000_000},
		{"derived: 1000 in and 100 out are 40 + 90 ms", llama, usage.Usage{InputTokens: 1000, OutputTokens: 100}, 101_111},
		{"half up", New("x", day, "USD", map[Unit]money.Nanos{Input: 500_000}), usage.Usage{InputTokens: 1}, 1},
		{"below half", New("x", day, "USD", map[Unit]money.Nanos{Input: 499_999}), usage.Usage{InputTokens: 1}, 0},
		{"nothing", sonnet, usage.Usage{}, 0},
	} {
		if got, err := c.price.Cost(&c.usage); err != nil || got != c.want {
			t.Errorf("%s: %d, %v; want %d", c.name, got, err, c.want)
		}
	}
}

func TestGPUHoursByAccelerator(t *testing.T) {
	const hour = 3_600_000
	p := New("llama", day, "USD", map[Unit]money.Nanos{GPUMillisecond: 3 * money.Unit, Input: 0, Output: 0})
	p.Accelerators = map[string]money.Nanos{"h100": 4_100_000_000, "a100": 2_200_000_000}
	p.OverheadPPM, p.GPUPerMInput, p.GPUPerMOutput = 120_000, 40_000, 900_000
	var sum money.Nanos
	for accelerator, want := range map[string]money.Nanos{"": 3_360_000_000, "h100": 4_592_000_000, "a100": 2_464_000_000} {
		u := usage.Usage{GPUMilliseconds: hour, Accelerator: accelerator}
		got, err := p.Cost(&u)
		if err != nil || got != want {
			t.Errorf("an hour of %q is %s, %v; want %s", accelerator, got, err, want)
		}
		_, lines, err := p.Lines(&u)
		if err != nil || lines[0].Unit != gpuUnit(accelerator) || lines[0].Quantity != hour {
			t.Errorf("lines of %q: %+v, %v", accelerator, lines, err)
		}
		_, split, err := p.Split(&u)
		if err != nil || split.Compute+split.Other != want {
			t.Errorf("components of %q: %+v, %v", accelerator, split, err)
		}
		sum += got
	}
	if sum != 10_416_000_000 { // 9.30 and 12%
		t.Errorf("all three are %s", sum)
	}
	// 1000 in and 100 out are 40 + 90 ms, of which each costs 4.10 x 1.12 / 3.6e6.
	if got, err := p.Cost(&usage.Usage{InputTokens: 1000, OutputTokens: 100, Accelerator: "h100"}); err != nil || got != 165_822 {
		t.Errorf("derived: %d, %v", got, err)
	}
	plain := New("llama", day, "USD", map[Unit]money.Nanos{GPUMillisecond: 3 * money.Unit, Input: 0})
	named := New("llama", day, "USD", map[Unit]money.Nanos{Input: 0})
	named.Accelerators = p.Accelerators
	api := New("gpt", day, "USD", map[Unit]money.Nanos{Input: 0})
	for _, c := range []struct {
		name  string
		price *Price
		usage usage.Usage
		unit  string
	}{
		{"an unknown accelerator", p, usage.Usage{GPUMilliseconds: 1, Accelerator: "b200"}, "gpu_milliseconds/b200"},
		{"one whose time would be derived", p, usage.Usage{InputTokens: 1, Accelerator: "b200"}, "gpu_milliseconds/b200"},
		{"one that only the plain rate could be for", plain, usage.Usage{InputTokens: 1, Accelerator: "h100"}, "gpu_milliseconds/h100"},
		{"none where all rates are by accelerator", named, usage.Usage{InputTokens: 1}, "gpu_milliseconds"},
		{"GPU time of a model without GPU rates", api, usage.Usage{GPUMilliseconds: 1, Accelerator: "h100"}, "gpu_milliseconds/h100"},
	} {
		got, err := c.price.Cost(&c.usage)
		if e, ok := errors.AsType[*UnpricedError](err); !ok || e.Unit != c.unit {
			t.Errorf("%s costs %s, %v", c.name, got, err)
		}
	}
	if got, err := api.Cost(&usage.Usage{InputTokens: 1, Accelerator: "h100"}); err != nil || got != 0 {
		t.Errorf("a model that is not paid by the GPU-hour: %s, %v", got, err)
	}
	u := usage.Usage{GPUMilliseconds: 5, Accelerator: "h100"}
	if n := testing.AllocsPerRun(100, func() { _, _ = p.Cost(&u) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestUnpricedUnitsAreNamed(t *testing.T) {
	p := New("m", day, "USD", map[Unit]money.Nanos{Input: 1})
	for unit, u := range map[string]usage.Usage{
		"output_tokens":     {OutputTokens: 1},
		"tool_calls/search": {ToolCalls: map[string]int64{"search": 1}},
		"gpu_milliseconds":  {GPUMilliseconds: 1},
	} {
		_, err := p.Cost(&u)
		if e, ok := errors.AsType[*UnpricedError](err); !ok || e.Unit != unit {
			t.Errorf("%v; want %s to have no price", err, unit)
		}
	}
	gpu := New("m", day, "USD", map[Unit]money.Nanos{GPUMillisecond: 1})
	if _, err := gpu.Cost(&usage.Usage{InputTokens: 1}); err == nil {
		t.Error("tokens of a self-hosted model without GPU time cost nothing")
	}
}

func TestOverflowIsAnError(t *testing.T) {
	p := New("m", day, "USD", map[Unit]money.Nanos{Input: math.MaxInt64, Output: math.MaxInt64})
	if _, err := p.Cost(&usage.Usage{InputTokens: usage.MaxTokens, OutputTokens: usage.MaxTokens}); !errors.Is(err, money.ErrOverflow) {
		t.Error(err)
	}
}

func TestCostDoesNotAllocate(t *testing.T) {
	p := New("m", day, "USD", map[Unit]money.Nanos{Input: 1e9, Output: 2e9})
	u := usage.Usage{InputTokens: 100, OutputTokens: 10}
	if n := testing.AllocsPerRun(100, func() { _, _ = p.Cost(&u) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLookupTakesThePriceInForce(t *testing.T) {
	at := func(y int) *Price {
		return New("m", time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC), "USD", map[Unit]money.Nanos{Input: money.Nanos(y)})
	}
	b, err := NewBook([]*Price{at(2026), at(2024), at(2025)})
	if err != nil {
		t.Fatal(err)
	}
	for year, want := range map[int]money.Nanos{2024: 2024, 2025: 2025, 2030: 2026} {
		p, err := b.Lookup("m", time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := p.Rate(Input); r != want {
			t.Errorf("in %d: %d", year, r)
		}
	}
	if p, err := b.Lookup("m", time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil || !p.Effective.Equal(at(2025).Effective) {
		t.Errorf("at the first instant: %v, %v", p, err)
	}
	for _, c := range []struct {
		model string
		year  int
	}{{"m", 2023}, {"other", 2026}} {
		if _, err := b.Lookup(c.model, time.Date(c.year, 6, 1, 0, 0, 0, 0, time.UTC)); err == nil {
			t.Errorf("%s in %d has a price", c.model, c.year)
		}
	}
	if _, err := NewBook([]*Price{at(2024), at(2024)}); !errors.Is(err, ErrConflict) {
		t.Errorf("two prices from the same time: %v", err)
	}
}

func BenchmarkCost(b *testing.B) {
	p := New("m", day, "USD", map[Unit]money.Nanos{Input: 1e9, Output: 2e9, CacheRead: 1e8})
	u := usage.Usage{InputTokens: 1200, OutputTokens: 300, CacheReadTokens: 512}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Cost(&u); err != nil {
			b.Fatal(err)
		}
	}
}
