package calibrate

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

// Check compares the price with the cost that it was made from.
type Check struct {
	Cost    money.Nanos `json:"cost_nanos"`     // that GPU time has to bring in
	Price   money.Nanos `json:"price_nanos"`    // of the window's tokens, without overhead
	Allowed money.Nanos `json:"allowed_nanos"`  // difference by rounding the rate to a nano
	PerCall money.Nanos `json:"per_call_nanos"` // by which calls may come to more in all: each is rounded up to a millisecond
}

const msPerHour = 3_600_000

// price sets Price so that it brings in the cost for the window's tokens. GPU time of tokens is rounded to a millisecond per
// million; the rate is what the cost comes to by the hour of that time, so that what is rounded there is not lost.
func (r *Result) price(o *Options) error {
	p := &pricing.Price{GPUPerMInput: milliseconds(r.Fit.Input), GPUPerMOutput: milliseconds(r.Fit.Output)}
	tokens := r.tokens()
	if err := tokens.Validate(); err != nil {
		return fmt.Errorf("the window is too long: %w", err)
	}
	ms, err := busyMilliseconds(p, tokens)
	if err != nil {
		return fmt.Errorf("the window's GPU time: %w", err)
	}
	r.BusyHours = float64(ms) / msPerHour
	if r.GPUHours > 0 && r.BusyHours > 1.05*r.GPUHours {
		return fmt.Errorf("the GPUs were busy for %.1f hours, but the replicas had %.1f GPU-hours: give the number of GPUs of a replica", r.BusyHours, r.GPUHours)
	}
	if o.OpenCost == nil {
		if r.GPUHours <= 0 {
			return errors.New("neither DCGM nor OpenCost says how many GPUs a replica has: say it")
		}
		n, err := money.MulDiv(int64(o.GPUHour), int64(math.Round(r.GPUHours*msPerHour)), msPerHour)
		if err != nil {
			return err
		}
		r.Cost.Direct, r.Cost.Recovered, r.Cost.GPUHours = money.Nanos(n), money.Nanos(n), r.GPUHours
	}
	if r.BusyHourNanos, err = hourly(r.Cost.Recovered, ms); err != nil {
		return fmt.Errorf("the rate by the GPU-hour: %w", err)
	}
	if r.GPUHours > 0 {
		if r.GPUHourNanos, err = hourly(r.Cost.Recovered, int64(math.Round(r.GPUHours*msPerHour))); err != nil {
			return fmt.Errorf("the rate by the GPU-hour: %w", err)
		}
	}
	rates := map[pricing.Unit]money.Nanos{pricing.GPUMillisecond: r.BusyHourNanos}
	var accelerators map[string]money.Nanos
	if o.ByAccelerator {
		delete(rates, pricing.GPUMillisecond)
		accelerators = map[string]money.Nanos{o.Accelerator: r.BusyHourNanos}
	}
	if o.Storage != nil {
		rates[pricing.StorageByte] = *o.Storage
	}
	if o.Egress != nil {
		rates[pricing.EgressByte] = *o.Egress
	}
	r.Price = pricing.New(o.Model, o.Effective, o.Currency, rates)
	r.Price.GPUPerMInput, r.Price.GPUPerMOutput = p.GPUPerMInput, p.GPUPerMOutput
	r.Price.OverheadPPM, r.Price.Accelerators = o.OverheadPPM, accelerators
	r.Price.Source = r.source(o)
	return r.check(ms)
}

// check prices the window's tokens with the price as it is published, but for overhead.
func (r *Result) check(ms int64) error {
	bare := *r.Price
	bare.OverheadPPM = 0
	tokens := r.tokens()
	for name := range bare.Accelerators {
		tokens.Accelerator = name
	}
	n, err := bare.Cost(tokens)
	if err != nil {
		return err
	}
	r.Check = Check{Cost: r.Cost.Recovered, Price: n, Allowed: money.Nanos(ms/(2*msPerHour) + 1)}
	if d := n - r.Check.Cost; max(d, -d) > r.Check.Allowed {
		return fmt.Errorf("the price gives %s for the window's tokens, they cost %s: rounding does not explain that", n, r.Check.Cost)
	}
	more, err := money.MulDiv(int64(r.BusyHourNanos), r.Calls, msPerHour)
	r.Check.PerCall = money.Nanos(more)
	return err
}

// milliseconds are GPU-seconds per 1,000 tokens in milliseconds per million, at least 1: no token is free.
func milliseconds(perThousand float64) int64 { return max(1, int64(math.Round(perThousand*1e6))) }

// busyMilliseconds is the GPU time that a price derives.
func busyMilliseconds(p *pricing.Price, u *usage.Usage) (int64, error) {
	probe := pricing.New("", time.Time{}, "", map[pricing.Unit]money.Nanos{pricing.GPUMillisecond: 1})
	probe.GPUPerMInput, probe.GPUPerMOutput = p.GPUPerMInput, p.GPUPerMOutput
	_, lines, err := probe.Lines(u)
	if err != nil {
		return 0, err
	}
	for _, l := range lines {
		if l.Unit == pricing.GPUMillisecond.String() {
			return l.Quantity, nil
		}
	}
	return 0, errors.New("it takes none")
}

// hourly is a cost by the hour of some milliseconds, half up.
func hourly(cost money.Nanos, ms int64) (money.Nanos, error) {
	n, err := money.MulDiv(int64(cost), 2*msPerHour, ms)
	return money.Nanos(n/2 + n%2), err
}

// source says in the price where it comes from.
func (r *Result) source(o *Options) string {
	method := fmt.Sprintf("1 output token as %g input tokens", o.Ratio)
	if r.Fit.Method == Regression {
		method = fmt.Sprintf("regression, R2 %.2f", *r.Fit.R2)
	}
	cost := "GPU-hour rate given"
	if o.OpenCost != nil {
		cost = fmt.Sprintf("OpenCost, idle cost %s", r.Cost.Rule)
	}
	s := fmt.Sprintf("calibrated %s/%s; vLLM counters and %s, %s; %s", r.From.UTC().Format("2006-01-02T15Z"), r.To.UTC().Format("2006-01-02T15Z"), r.Busy, method, cost)
	if r.Accelerator != "" {
		s += "; " + r.Accelerator
	}
	return strings.ToValidUTF8(s[:min(len(s), 512)], "")
}
