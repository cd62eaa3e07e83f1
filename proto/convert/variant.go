package convert

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const millionth = 1_000_000

// fields are where a message has its rates.
func fields(r *chartergatev1.PriceRates) map[pricing.Unit]**int64 {
	return map[pricing.Unit]**int64{
		pricing.Input: &r.InputNanos, pricing.CacheRead: &r.CacheReadNanos, pricing.CacheWrite5m: &r.CacheWrite_5MNanos,
		pricing.CacheWrite1h: &r.CacheWrite_1HNanos, pricing.Output: &r.OutputNanos, pricing.Reasoning: &r.ReasoningNanos,
		pricing.AudioInput: &r.AudioInputNanos, pricing.AudioOutput: &r.AudioOutputNanos, pricing.AudioCacheRead: &r.AudioCacheReadNanos,
		pricing.ImageInput: &r.ImageInputNanos, pricing.ImageOutput: &r.ImageOutputNanos, pricing.Request: &r.RequestNanos,
		pricing.Embedding: &r.EmbeddingNanos, pricing.VectorQuery: &r.VectorQueryNanos, pricing.GPUMillisecond: &r.GpuHourNanos,
		pricing.StorageByte: &r.StorageMegabyteNanos, pricing.EgressByte: &r.EgressMegabyteNanos,
	}
}

func variantsToProto(p *pricing.Price) []*chartergatev1.PriceVariant {
	var list []*chartergatev1.PriceVariant
	for _, v := range p.Variants() {
		if v.Whole() { // in the price's factor
			continue
		}
		to := &chartergatev1.PriceVariant{
			ServiceTier: v.ServiceTier, Region: v.Region, OverInputTokens: v.OverInput, ExcessOnly: v.Excess,
		}
		if v.From != v.To {
			to.StartTime, to.EndTime = clock(v.From), clock(v.To)
		}
		for day := range int32(7) {
			if v.Days&(1<<((day+1)%7)) != 0 {
				to.Weekdays = append(to.Weekdays, day+1)
			}
		}
		if (v.Multiplier != pricing.Ratio{}) {
			if n := v.Multiplier.Num; millionth%v.Multiplier.Den == 0 && n <= 100 {
				to.MultiplierPpm = int64(n * (millionth / v.Multiplier.Den))
			} else {
				to.TokenFactor = ratioToProto(v.Multiplier)
			}
		}
		if len(v.Rates) > 0 {
			to.Rates = &chartergatev1.PriceRates{}
			at := fields(to.Rates)
			for u, r := range v.Rates {
				*at[u] = (*int64)(&r)
			}
		}
		list = append(list, to)
	}
	return list
}

// variantsFromProto gives a price its variants. Error: *charter.InvalidError, of a field within the price.
func variantsFromProto(to *pricing.Price, list []*chartergatev1.PriceVariant) error {
	var variants []pricing.Variant
	for i, p := range list {
		v := pricing.Variant{ServiceTier: p.ServiceTier, Region: p.Region, OverInput: p.OverInputTokens, Excess: p.ExcessOnly}
		field := fmt.Sprintf("variants[%d].", i)
		if (p.StartTime == "") != (p.EndTime == "") {
			return &charter.InvalidError{Field: field + "start_time", Problem: "and end_time go together: write both or none"}
		}
		if p.StartTime != "" {
			var err, err2 error
			v.From, err = timeOfDay(p.StartTime)
			v.To, err2 = timeOfDay(p.EndTime)
			if err := cmp.Or(err, err2); err != nil {
				return &charter.InvalidError{Field: field + "start_time", Problem: err.Error()}
			}
		}
		for _, day := range p.Weekdays {
			v.Days |= 1 << (day % 7)
		}
		switch {
		case p.MultiplierPpm > 0:
			v.Multiplier = pricing.NewRatio(uint64(p.MultiplierPpm), millionth)
		case p.TokenFactor != nil:
			v.Multiplier = ratioFromProto(p.TokenFactor)
		}
		if p.Rates != nil {
			v.Rates = map[pricing.Unit]money.Nanos{}
			for u, r := range fields(p.Rates) {
				if *r != nil {
					v.Rates[u] = money.Nanos(**r)
				}
			}
		}
		variants = append(variants, v)
	}
	if len(variants) == 0 {
		return nil
	}
	err := to.SetVariants(variants)
	if wrong, ok := errors.AsType[*pricing.VariantError](err); ok {
		field := "variants"
		if wrong.Index >= 0 {
			field = fmt.Sprintf("variants[%d]", wrong.Index)
		}
		return &charter.InvalidError{Field: field, Problem: wrong.Problem}
	}
	return err
}

func clock(d time.Duration) string {
	layout := "15:04"
	if d%time.Minute != 0 {
		layout = time.TimeOnly
	}
	return time.Time{}.Add(d).Format(layout)
}

func timeOfDay(s string) (time.Duration, error) {
	t, err := time.Parse("15:04", s)
	if err != nil {
		t, err = time.Parse(time.TimeOnly, s)
	}
	if err != nil {
		return 0, fmt.Errorf("is %q, not a time of day such as 16:30", s)
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second, nil
}

func ratioToProto(r pricing.Ratio) *chartergatev1.Ratio {
	return &chartergatev1.Ratio{Numerator: r.Num, Denominator: r.Den}
}

func ratioFromProto(p *chartergatev1.Ratio) pricing.Ratio {
	if p.GetNumerator() == 0 || p.GetDenominator() == 0 {
		return pricing.Ratio{}
	}
	return pricing.NewRatio(p.Numerator, p.Denominator)
}

func contractsToProto(b *charter.PriceBook, to *chartergatev1.PriceBook) {
	for _, a := range b.Adjustments {
		to.Adjustments = append(to.Adjustments, &chartergatev1.PriceAdjustment{
			Provider: a.Provider, Model: a.Model, Region: a.Region, StartTime: TimeToProto(a.From), EndTime: TimeToProto(a.To),
			MultiplierPpm: int64(a.Factor.Num * (millionth / a.Factor.Den)), Reason: a.Reason,
		})
	}
	for _, r := range b.Rates {
		to.ExchangeRates = append(to.ExchangeRates, &chartergatev1.ExchangeRate{
			FromCurrency: r.From, ToCurrency: r.To, EffectiveTime: TimeToProto(r.Effective),
			RateNanos: int64(r.Rate.Num * (uint64(money.Unit) / r.Rate.Den)),
		})
	}
}

func contractsFromProto(p *chartergatev1.PriceBook, to *charter.PriceBook) error {
	for i, a := range p.Adjustments {
		adjustment := pricing.Adjustment{
			Provider: a.Provider, Model: a.Model, Region: a.Region, Factor: pricing.NewRatio(uint64(max(0, a.MultiplierPpm)), millionth), Reason: a.Reason,
		}
		var err error
		if a.StartTime != nil {
			if adjustment.From, err = timeFromProto(p.Name, fmt.Sprintf("adjustments[%d].start_time", i), a.StartTime); err != nil {
				return err
			}
		}
		if a.EndTime != nil {
			if adjustment.To, err = timeFromProto(p.Name, fmt.Sprintf("adjustments[%d].end_time", i), a.EndTime); err != nil {
				return err
			}
		}
		to.Adjustments = append(to.Adjustments, adjustment)
	}
	for i, r := range p.ExchangeRates {
		effective, err := timeFromProto(p.Name, fmt.Sprintf("exchange_rates[%d].effective_time", i), r.EffectiveTime)
		if err != nil {
			return err
		}
		to.Rates = append(to.Rates, pricing.ExchangeRate{
			From: r.FromCurrency, To: r.ToCurrency, Effective: effective, Rate: pricing.NewRatio(uint64(max(0, r.RateNanos)), uint64(money.Unit)),
		})
	}
	to.Rates = slices.Clip(to.Rates)
	return nil
}
