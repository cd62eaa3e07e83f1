package policy

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/chartergate/chartergate/core/routing"
)

// Measured is what one decision costs.
type Measured struct {
	Nanos       float64 // the median of the rounds
	Allocations float64
	Bytes       float64
}

// Measurement compares what a policy's decisions cost: as a server makes them, without what it remembers of calls, and by
// OPA alone.
type Measurement struct {
	Inputs   int
	Decide   Measured // as a server does, from an empty memory in each round
	Closures Measured // each call anew; zero where the policy is not compiled to closures
	Plain    Measured // a prepared query with parsed input
	Hits     float64  // the share of calls whose plan was remembered, 0 to 1
	Plans    int      // that are remembered after all inputs
	Slow     []SlowExpression
}

// measureRounds is how often the three take turns, so that what else the machine does hits all of them.
const measureRounds = 5

// Measure lets a policy decide inputs over and over, each way for about the time given. Errors: *EvalError of the first
// input that gets no decision, ctx's own.
func (p *Policy) Measure(ctx context.Context, list []*routing.Input, each time.Duration) (*Measurement, error) {
	if len(list) == 0 {
		return nil, errors.New("there are no inputs to decide")
	}
	m := &Measurement{Inputs: len(list), Slow: p.Slow()}
	fresh := func() *evaluator { return newEvaluator(p, "measured", time.Minute, newSlots()) }
	first, hits := fresh(), 0
	for _, in := range list {
		if plan, _ := first.memo.get(p.appendKey(nil, in)); plan != nil {
			hits++
		}
		if _, err := first.decide(ctx, in); err != nil {
			return nil, err
		}
	}
	m.Hits, m.Plans = float64(hits)/float64(len(list)), first.memo.size()
	parsed := &inputs{prices: p.prices}
	var rounds [3][]Measured
	for range measureRounds {
		e := fresh()
		for way, call := range [...]func(in *routing.Input) error{
			func(in *routing.Input) error { _, err := e.decide(ctx, in); return err },
			func(in *routing.Input) error { _, err := first.run(ctx, in); return err },
			func(in *routing.Input) error {
				_, err := p.query.Eval(ctx, rego.EvalParsedInput(parsed.build(in)))
				return err
			},
		} {
			if way == 1 && p.program == nil {
				continue
			}
			one, err := timed(ctx, list, each/measureRounds, call)
			if err != nil {
				return nil, err
			}
			if way == 2 { // the input is parsed before
				input, err := timed(ctx, list, each/measureRounds/4, func(in *routing.Input) error { parsed.build(in); return nil })
				if err != nil {
					return nil, err
				}
				one = Measured{one.Nanos - input.Nanos, one.Allocations - input.Allocations, one.Bytes - input.Bytes}
			}
			rounds[way] = append(rounds[way], one)
		}
	}
	m.Decide, m.Closures, m.Plain = median(rounds[0]), median(rounds[1]), median(rounds[2])
	return m, nil
}

func timed(ctx context.Context, list []*routing.Input, d time.Duration, call func(*routing.Input) error) (Measured, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, start, took := 0, time.Now(), time.Duration(0)
	for took < d || n == 0 {
		for range 16 {
			if err := call(list[n%len(list)]); err != nil {
				return Measured{}, err
			}
			n++
		}
		if err := ctx.Err(); err != nil {
			return Measured{}, err
		}
		took = time.Since(start)
	}
	runtime.ReadMemStats(&after)
	of := func(x float64) float64 { return x / float64(n) }
	return Measured{of(float64(took)), of(float64(after.Mallocs - before.Mallocs)), of(float64(after.TotalAlloc - before.TotalAlloc))}, nil
}

func median(rounds []Measured) Measured {
	if len(rounds) == 0 {
		return Measured{}
	}
	slices.SortFunc(rounds, func(a, b Measured) int {
		switch {
		case a.Nanos < b.Nanos:
			return -1
		case a.Nanos > b.Nanos:
			return 1
		}
		return 0
	})
	return rounds[len(rounds)/2]
}
