package pricing

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

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
	common     = 18_000_000
)

// Cost prices u: the sum of units x rate / 1,000,000, plus GPU milliseconds x hourly rate / 3,600,000, all times
// (1 + overhead), rounded once, half up. It does not allocate. Errors: *UnpricedError, money.ErrOverflow.
func (p *Price) Cost(u *usage.Usage) (money.Nanos, error) { return p.cost(u, nil, nil) }

// Lines is Cost with its parts. Each line is what the running total, rounded, grew by, so that they add up.
func (p *Price) Lines(u *usage.Usage) (money.Nanos, []Line, error) {
	lines := make([]Line, 0, 8)
	total, err := p.cost(u, &lines, nil)
	return total, lines, err
}

// Split is Cost by component. Each component is what the running total, rounded, grew by, so that they add up. It does
// not allocate.
func (p *Price) Split(u *usage.Usage) (money.Nanos, usage.Cost, error) {
	var c usage.Cost
	total, err := p.cost(u, nil, &c)
	if err != nil {
		return 0, usage.Cost{}, err
	}
	if all := u.AllInput(); u.ContextOverheadTokens > 0 && all > 0 {
		c.ContextOverhead = share(c.Input, min(u.ContextOverheadTokens, all), all)
		c.Input -= c.ContextOverhead
	}
	return total, c, nil
}

// share is n x part / all, half up, for 0 <= part <= all.
func share(n money.Nanos, part, all int64) money.Nanos {
	hi, lo := bits.Mul64(uint64(n), uint64(part))
	q, rest := bits.Div64(hi, lo, uint64(all))
	if rest >= uint64(all)-rest {
		q++
	}
	return money.Nanos(q)
}

func (p *Price) cost(u *usage.Usage, lines *[]Line, split *usage.Cost) (money.Nanos, error) {
	if len(p.long) > 0 {
		input := u.AllInput()
		for i := range p.long {
			if input > p.long[i].over {
				p = p.long[i].price
				break
			}
		}
	}
	gpu := gpuTime{ms: u.GPUMilliseconds}
	gpu.rate, gpu.hourly = p.gpuRate(u.Accelerator)
	switch {
	case !gpu.hourly && (gpu.ms != 0 || p.set&(1<<GPUMillisecond) != 0 || len(p.Accelerators) > 0):
		return 0, &UnpricedError{Model: p.Model, Unit: gpuUnit(u.Accelerator)}
	case gpu.hourly && gpu.ms == 0:
		var err error
		if gpu.ms, err = p.deriveGPU(u); err != nil {
			return 0, err
		}
	}
	quantities := [unitCount]int64{
		Input: u.InputTokens, CacheRead: u.CacheReadTokens, CacheWrite5m: u.CacheWrite5mTokens, CacheWrite1h: u.CacheWrite1hTokens,
		AudioInput: u.AudioInputTokens, AudioCacheRead: u.AudioCacheReadTokens, ImageInput: u.ImageInputTokens,
		Output: u.OutputTokens, Reasoning: u.ReasoningTokens, AudioOutput: u.AudioOutputTokens, ImageOutput: u.ImageOutputTokens,
		Embedding: u.EmbeddingTokens, VectorQuery: u.VectorQueries, StorageByte: u.StorageBytes, EgressByte: u.EgressBytes,
		GPUMillisecond: gpu.ms, Request: 1,
	}
	t := total{factor: p.factor.or1(), tokens: 1, rest: 1}
	if (p.tokenFactor != Ratio{}) { // tokens x n/d + rest is (tokens x n + rest x d) / d
		t.tokens, t.rest = p.tokenFactor.Num, p.tokenFactor.Den
		var err error
		if t.factor, err = t.factor.times(Ratio{1, t.rest}); err != nil {
			return 0, err
		}
	}
	for i, q := range quantities {
		unit := Unit(i)
		if q != 0 {
			var err error
			counted := true
			if len(p.excess) > 0 && unit <= ImageInput {
				err = p.addExcess(&t, &quantities, unit)
			} else {
				counted, err = p.addUnit(&t, unit, q, &gpu)
			}
			if err != nil {
				return 0, err
			}
			if lines != nil && counted {
				name := unit.String()
				if unit == GPUMillisecond {
					name = gpuUnit(u.Accelerator)
				}
				if err := t.line(lines, name, q); err != nil {
					return 0, err
				}
			}
		}
		if split == nil {
			continue
		}
		var part *money.Nanos
		switch unit {
		case ImageInput:
			part = &split.Input
		case ImageOutput:
			part = &split.Output
		case VectorQuery:
			part = &split.Retrieval
		case GPUMillisecond:
			part = &split.Compute
		case Request:
			part = &split.Other
		default:
			continue
		}
		var err error
		if *part, err = t.grown(); err != nil {
			return 0, err
		}
	}
	if err := p.addTools(&t, u.ToolCalls, lines); err != nil {
		return 0, err
	}
	var err error
	if split != nil {
		if split.Tools, err = t.grown(); err != nil {
			return 0, err
		}
	}
	if p.OverheadPPM > 0 {
		if t.factor, err = t.factor.times(Ratio{ppm + uint64(p.OverheadPPM), ppm}); err != nil {
			return 0, err
		}
		if lines != nil {
			if err := t.line(lines, "overhead_ppm", p.OverheadPPM); err != nil {
				return 0, err
			}
		}
		if split != nil {
			more, err := t.grown()
			if err != nil {
				return 0, err
			}
			split.Other += more
		}
	}
	return t.round()
}

// addUnit says whether the unit has a line: what is free without a rate has none.
func (p *Price) addUnit(t *total, unit Unit, q int64, gpu *gpuTime) (counted bool, err error) {
	rate, ok := p.effectiveRate(unit)
	if unit == GPUMillisecond {
		rate, ok = gpu.rate, true
	}
	if !ok {
		switch {
		case unit == Request:
			return false, nil
		case gpu.hourly && unit.tokens() && gpu.ms > 0: // paid by the GPU-hour: its tokens need no rate of their own
			return false, nil
		case gpu.hourly && unit.tokens():
			return false, &UnpricedError{p.Model, GPUMillisecond.String(), true}
		}
		return false, &UnpricedError{Model: p.Model, Unit: unit.String()}
	}
	weight := perMillion * t.rest
	switch {
	case unit.tokens():
		weight = perMillion * t.tokens
	case unit == GPUMillisecond:
		weight = perHour * t.rest
	}
	if !t.add(q, rate, weight) {
		return false, money.ErrOverflow
	}
	return true, nil
}

func (p *Price) addTools(t *total, calls map[string]int64, lines *[]Line) error {
	if lines == nil {
		for tool, n := range calls {
			if err := p.addTool(t, tool, n); err != nil {
				return err
			}
		}
		return nil
	}
	tools := make([]string, 0, len(calls))
	for tool := range calls {
		tools = append(tools, tool)
	}
	slices.Sort(tools) // so that rounding falls on the same line each time
	for _, tool := range tools {
		if err := p.addTool(t, tool, calls[tool]); err != nil {
			return err
		}
		if calls[tool] == 0 {
			continue
		}
		if err := t.line(lines, "tool_calls/"+tool, calls[tool]); err != nil {
			return err
		}
	}
	return nil
}

func (p *Price) addTool(t *total, tool string, n int64) error {
	if n == 0 {
		return nil
	}
	rate, ok := p.Tools[tool]
	if !ok {
		return &UnpricedError{Model: p.Model, Unit: "tool_calls/" + tool}
	}
	if !t.add(n, rate, perMillion*t.rest) {
		return money.ErrOverflow
	}
	return nil
}

func (p *Price) effectiveRate(u Unit) (money.Nanos, bool) {
	for p.set&(1<<u) == 0 {
		if fallback[u] == u {
			return 0, false
		}
		u = fallback[u]
	}
	return p.rates[u], true
}

// gpuTime is the GPU time of a call with its rate by the hour, if it has one.
type gpuTime struct {
	ms     int64
	rate   money.Nanos
	hourly bool
}

func (p *Price) gpuRate(accelerator string) (rate money.Nanos, ok bool) {
	if accelerator == "" {
		return p.Rate(GPUMillisecond)
	}
	rate, ok = p.Accelerators[accelerator]
	return rate, ok
}

func gpuUnit(accelerator string) string {
	if accelerator == "" {
		return GPUMillisecond.String()
	}
	return GPUMillisecond.String() + "/" + accelerator
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
