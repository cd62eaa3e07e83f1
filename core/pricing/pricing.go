// Package pricing turns usage into exact money.
package pricing

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Unit is something that a price has a rate for.
type Unit int

// Units. The rate of each is per million, but GPUMillisecond's, which is per hour.
const (
	Input Unit = iota
	CacheRead
	CacheWrite5m
	CacheWrite1h
	Output
	Reasoning
	AudioInput
	AudioOutput
	Request
	Embedding
	VectorQuery
	StorageByte
	EgressByte
	GPUMillisecond
	unitCount
)

var unitNames = [unitCount]string{
	"input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
	"reasoning_tokens", "audio_input_tokens", "audio_output_tokens", "requests", "embedding_tokens", "vector_queries",
	"storage_bytes", "egress_bytes", "gpu_milliseconds",
}

func (u Unit) String() string { return unitNames[u] }

// fallback says whose rate a unit takes that has none of its own: never a cheaper reading than the provider's.
var fallback = map[Unit]Unit{CacheRead: Input, CacheWrite5m: Input, CacheWrite1h: CacheWrite5m, Reasoning: Output}

// Price is what a model costs from Effective on, until its next price takes effect. Make one with New.
type Price struct {
	Model     string
	Effective time.Time
	Currency  string
	Book      string // the price book that it stands in
	Revision  int64  // the store's revision of that book
	Source    string
	// GPU milliseconds per million tokens, to derive GPU time that is not reported.
	GPUPerMInput, GPUPerMOutput int64
	OverheadPPM                 int64 // operational overhead on everything else, in parts per million
	Tools                       map[string]money.Nanos

	rates [unitCount]money.Nanos
	set   uint32
}

// New makes a price with its rates in nanos: per million units, and per hour for GPUMillisecond.
func New(model string, effective time.Time, currency string, rates map[Unit]money.Nanos) *Price {
	p := &Price{Model: model, Effective: effective, Currency: currency}
	for u, r := range rates {
		p.rates[u], p.set = r, p.set|1<<u
	}
	return p
}

// Rate gives the rate of a unit as published, without fallback.
func (p *Price) Rate(u Unit) (money.Nanos, bool) { return p.rates[u], p.set&(1<<u) != 0 }

// UnpricedError says that a price has no rate for a unit that was used.
type UnpricedError struct {
	Model, Unit string
	Derived     bool // the rate is there, but not how to derive the quantity
}

func (e *UnpricedError) Error() string {
	if e.Unit == "" {
		return fmt.Sprintf("model %q has no price at that time: add one to a price book", e.Model)
	}
	if e.Unit == GPUMillisecond.String() && e.Derived {
		return fmt.Sprintf("model %q is paid by the GPU-hour, but the call does not report gpu_milliseconds: report them, or set gpu_milliseconds_per_mtok_input and _output in its price", e.Model)
	}
	return fmt.Sprintf("the price of model %q has no rate for %s: add one to its price book, 0 if it is free", e.Model, e.Unit)
}

// Line is a part of a cost. The lines of a cost add up to it exactly.
type Line struct {
	Unit     string
	Quantity int64
	Cost     money.Nanos
}

// Rates per million and per GPU-hour (3.6 million ms) meet on a common denominator: 18 million.
const (
	perMillion = 18 // 18e6 / 1e6
	perHour    = 5  // 18e6 / 3.6e6
	ppm        = 1_000_000
	denom      = 18_000_000 * ppm // with the overhead factor in
)

// Cost prices u: the sum of units x rate / 1,000,000, plus GPU milliseconds x hourly rate / 3,600,000, all times
// (1 + overhead), rounded once, half up. It does not allocate. Errors: *UnpricedError, money.ErrOverflow.
func (p *Price) Cost(u *usage.Usage) (money.Nanos, error) { return p.cost(u, nil) }

// Lines is Cost with its parts. Each line is what the running total, rounded, grew by, so that they add up.
func (p *Price) Lines(u *usage.Usage) (money.Nanos, []Line, error) {
	lines := make([]Line, 0, 8)
	total, err := p.cost(u, &lines)
	return total, lines, err
}

func (p *Price) cost(u *usage.Usage, lines *[]Line) (money.Nanos, error) {
	gpu := u.GPUMilliseconds
	if gpu == 0 && p.set&(1<<GPUMillisecond) != 0 {
		var err error
		if gpu, err = p.deriveGPU(u); err != nil {
			return 0, err
		}
	}
	quantities := [unitCount]int64{
		u.InputTokens, u.CacheReadTokens, u.CacheWrite5mTokens, u.CacheWrite1hTokens, u.OutputTokens, u.ReasoningTokens,
		u.AudioInputTokens, u.AudioOutputTokens, 1, u.EmbeddingTokens, u.VectorQueries, u.StorageBytes, u.EgressBytes, gpu,
	}
	sum := total{factor: ppm}
	for i, q := range quantities {
		unit := Unit(i)
		if q == 0 {
			continue
		}
		rate, ok := p.effectiveRate(unit)
		if !ok {
			if unit == Request {
				continue
			}
			// A self-hosted model is paid by the GPU-hour: its tokens need no rate of their own.
			if p.set&(1<<GPUMillisecond) != 0 && unit < Request && gpu > 0 {
				continue
			}
			if p.set&(1<<GPUMillisecond) != 0 && unit < Request {
				return 0, &UnpricedError{p.Model, GPUMillisecond.String(), true}
			}
			return 0, &UnpricedError{Model: p.Model, Unit: unit.String()}
		}
		weight := uint64(perMillion)
		if unit == GPUMillisecond {
			weight = perHour
		}
		if !sum.add(q, rate, weight) {
			return 0, money.ErrOverflow
		}
		if lines != nil {
			if err := sum.line(lines, unit.String(), q); err != nil {
				return 0, err
			}
		}
	}
	if lines == nil {
		for tool, n := range u.ToolCalls {
			if err := p.addTool(&sum, tool, n); err != nil {
				return 0, err
			}
		}
	} else {
		tools := make([]string, 0, len(u.ToolCalls))
		for tool := range u.ToolCalls {
			tools = append(tools, tool)
		}
		slices.Sort(tools) // so that rounding falls on the same line each time
		for _, tool := range tools {
			if err := p.addTool(&sum, tool, u.ToolCalls[tool]); err != nil {
				return 0, err
			}
			if u.ToolCalls[tool] == 0 {
				continue
			}
			if err := sum.line(lines, "tool_calls/"+tool, u.ToolCalls[tool]); err != nil {
				return 0, err
			}
		}
	}
	if p.OverheadPPM > 0 {
		sum.factor += uint64(p.OverheadPPM)
		if lines != nil {
			if err := sum.line(lines, "overhead_ppm", p.OverheadPPM); err != nil {
				return 0, err
			}
		}
	}
	return sum.round()
}

func (p *Price) addTool(sum *total, tool string, n int64) error {
	if n == 0 {
		return nil
	}
	rate, ok := p.Tools[tool]
	if !ok {
		return &UnpricedError{Model: p.Model, Unit: "tool_calls/" + tool}
	}
	if !sum.add(n, rate, perMillion) {
		return money.ErrOverflow
	}
	return nil
}

func (p *Price) effectiveRate(u Unit) (money.Nanos, bool) {
	for {
		if p.set&(1<<u) != 0 {
			return p.rates[u], true
		}
		next, ok := fallback[u]
		if !ok {
			return 0, false
		}
		u = next
	}
}

// deriveGPU rounds up: derived GPU time is never less than the calibration says.
func (p *Price) deriveGPU(u *usage.Usage) (int64, error) {
	if u.AllInput() < 0 || u.AllOutput() < 0 {
		return 0, fmt.Errorf("%w: negative tokens", usage.ErrInvalid)
	}
	inHi, inLo := bits.Mul64(uint64(u.AllInput()), uint64(p.GPUPerMInput))
	outHi, outLo := bits.Mul64(uint64(u.AllOutput()), uint64(p.GPUPerMOutput))
	lo, carry := bits.Add64(inLo, outLo, 0)
	hi, over := bits.Add64(inHi, outHi, carry)
	lo, carry = bits.Add64(lo, 1e6-1, 0)
	hi, over2 := bits.Add64(hi, 0, carry)
	if over|over2 != 0 || hi >= 1e6 {
		return 0, money.ErrOverflow
	}
	ms, _ := bits.Div64(hi, lo, 1e6)
	if ms > usage.MaxTokens {
		return 0, money.ErrOverflow
	}
	return int64(ms), nil
}

// total is an exact 128-bit sum in 1/18,000,000 nano, times factor/1,000,000.
type total struct {
	hi, lo uint64
	factor uint64
	shown  money.Nanos // what the lines add up to
}

func (t *total) add(quantity int64, rate money.Nanos, weight uint64) bool {
	if quantity < 0 || rate < 0 {
		return false
	}
	hi, lo := bits.Mul64(uint64(quantity), uint64(rate))
	wHi, wLo := bits.Mul64(lo, weight)
	over, hiW := bits.Mul64(hi, weight)
	hi, carry := bits.Add64(hiW, wHi, 0)
	if over|carry != 0 {
		return false
	}
	t.lo, carry = bits.Add64(t.lo, wLo, 0)
	t.hi, carry = bits.Add64(t.hi, hi, carry)
	return carry == 0
}

func (t *total) round() (money.Nanos, error) {
	over, hi := bits.Mul64(t.hi, t.factor)
	mid, lo := bits.Mul64(t.lo, t.factor)
	hi, carry := bits.Add64(hi, mid, 0)
	if over|carry != 0 {
		return 0, money.ErrOverflow
	}
	lo, carry = bits.Add64(lo, denom/2, 0)
	hi, carry = bits.Add64(hi, 0, carry)
	if carry != 0 || hi >= denom {
		return 0, money.ErrOverflow
	}
	q, _ := bits.Div64(hi, lo, denom)
	if q > 1<<63-1 {
		return 0, money.ErrOverflow
	}
	return money.Nanos(q), nil
}

func (t *total) line(lines *[]Line, unit string, quantity int64) error {
	now, err := t.round()
	if err != nil {
		return err
	}
	*lines = append(*lines, Line{unit, quantity, now - t.shown})
	t.shown = now
	return nil
}

// ErrConflict says that two prices of one model take effect at the same time.
var ErrConflict = errors.New("two prices take effect at the same time")

// Book finds the price of a model at a time. It is immutable.
type Book struct{ byModel map[string][]*Price }

// NewBook orders prices by model and time. Errors: ErrConflict, wrapped.
func NewBook(prices []*Price) (*Book, error) {
	b := &Book{make(map[string][]*Price)}
	for _, p := range prices {
		b.byModel[p.Model] = append(b.byModel[p.Model], p)
	}
	for model, list := range b.byModel {
		slices.SortFunc(list, func(x, y *Price) int { return x.Effective.Compare(y.Effective) })
		for i := 1; i < len(list); i++ {
			if list[i].Effective.Equal(list[i-1].Effective) {
				return nil, &ConflictError{model, list[i].Effective, list[i-1].Book, list[i].Book}
			}
		}
	}
	return b, nil
}

// ConflictError wraps ErrConflict.
type ConflictError struct {
	Model        string
	Effective    time.Time
	Book1, Book2 string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("model %q has two prices from %s on (in %s and %s): remove one", e.Model, e.Effective.UTC().Format(time.RFC3339), e.Book1, e.Book2)
}

// Unwrap gives ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Lookup gives the price in force at a time. Error: *UnpricedError.
func (b *Book) Lookup(model string, at time.Time) (*Price, error) {
	if b != nil {
		list := b.byModel[model]
		for i := len(list) - 1; i >= 0; i-- {
			if !list[i].Effective.After(at) {
				return list[i], nil
			}
		}
	}
	return nil, &UnpricedError{Model: model}
}
