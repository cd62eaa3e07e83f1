package convert

import (
	"errors"
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// DefaultCurrency is the currency of a price book that names none.
const DefaultCurrency = "USD"

// PriceBookToProto converts a price book with its meta.
func PriceBookToProto(b *charter.PriceBook) *chartergatev1.PriceBook {
	p := &chartergatev1.PriceBook{
		Name: b.Name(), Currency: b.Currency,
		Etag: etag(b.Meta), CreateTime: TimeToProto(b.Created), UpdateTime: TimeToProto(b.Updated),
	}
	for _, price := range b.Prices {
		in := PriceToProto(price)
		in.PriceBook, in.Currency, in.Revision, in.TokenFactor, in.Factor = "", "", 0, nil, nil
		p.Prices = append(p.Prices, in)
	}
	contractsToProto(b, p)
	return p
}

// PriceBookFromProto converts a price book. Its prices know their book and currency; an empty currency is
// DefaultCurrency.
func PriceBookFromProto(p *chartergatev1.PriceBook) (*charter.PriceBook, error) {
	bid, err := id(p.GetName(), "priceBooks/")
	if err != nil {
		return nil, err
	}
	b := &charter.PriceBook{ID: bid, Currency: p.Currency}
	if b.Currency == "" {
		b.Currency = DefaultCurrency
	}
	for i, price := range p.Prices {
		effective, err := timeFromProto(p.Name, fmt.Sprintf("prices[%d].effective_time", i), price.EffectiveTime)
		if err != nil {
			return nil, err
		}
		to := priceFromProto(price, effective, b.Currency)
		to.Book = b.Name()
		if price.ExpireTime != nil {
			if to.Expires, err = timeFromProto(p.Name, fmt.Sprintf("prices[%d].expire_time", i), price.ExpireTime); err != nil {
				return nil, err
			}
		}
		if c := price.Corrects; c != nil {
			at, err := timeFromProto(p.Name, fmt.Sprintf("prices[%d].corrects.effective_time", i), c.EffectiveTime)
			if err != nil {
				return nil, err
			}
			to.Corrects = &pricing.Corrected{Effective: at, Reason: c.Reason}
		}
		if err := variantsFromProto(to, price.Variants); err != nil {
			if invalid, ok := errors.AsType[*charter.InvalidError](err); ok {
				invalid.Name, invalid.Field = p.Name, fmt.Sprintf("prices[%d].%s", i, invalid.Field)
			}
			return nil, err
		}
		b.Prices = append(b.Prices, to)
	}
	return b, contractsFromProto(p, b)
}

func priceFromProto(p *chartergatev1.Price, effective time.Time, currency string) *pricing.Price {
	to := pricing.New(p.GetModel(), effective, currency, ratesOf(p))
	to.Provider = p.GetProvider()
	to.Source, to.OverheadPPM = p.GetSource(), p.GetOverheadPpm()
	to.GPUPerMInput, to.GPUPerMOutput = p.GetGpuMillisecondsPerMtokInput(), p.GetGpuMillisecondsPerMtokOutput()
	to.Tools, to.Accelerators = byName[money.Nanos](p.GetToolCallNanos()), byName[money.Nanos](p.GetGpuHourByAcceleratorNanos())
	return to
}

// PriceFromProto converts a price as LookupPrice answers it and slices carry it. One that makes no sense has no rates.
func PriceFromProto(p *chartergatev1.Price) *pricing.Price {
	to := priceFromProto(p, p.GetEffectiveTime().AsTime(), p.GetCurrency())
	to.Book, to.Revision = p.GetPriceBook(), p.GetRevision()
	to.SetFactors(ratioFromProto(p.GetTokenFactor()), ratioFromProto(p.GetFactor()))
	if err := variantsFromProto(to, p.GetVariants()); err != nil {
		return pricing.New(p.GetModel(), to.Effective, to.Currency, nil)
	}
	return to
}

// PriceToProto converts a price with its book, currency and revision, as LookupPrice answers it.
func PriceToProto(p *pricing.Price) *chartergatev1.Price {
	rate := func(u pricing.Unit) *int64 {
		r, ok := p.Rate(u)
		if !ok {
			return nil
		}
		return (*int64)(&r)
	}
	to := &chartergatev1.Price{
		Model: p.Model, EffectiveTime: TimeToProto(p.Effective),
		InputNanos: rate(pricing.Input), CacheReadNanos: rate(pricing.CacheRead),
		CacheWrite_5MNanos: rate(pricing.CacheWrite5m), CacheWrite_1HNanos: rate(pricing.CacheWrite1h),
		OutputNanos: rate(pricing.Output), ReasoningNanos: rate(pricing.Reasoning),
		AudioInputNanos: rate(pricing.AudioInput), AudioOutputNanos: rate(pricing.AudioOutput),
		AudioCacheReadNanos: rate(pricing.AudioCacheRead), ImageInputNanos: rate(pricing.ImageInput), ImageOutputNanos: rate(pricing.ImageOutput),
		RequestNanos: rate(pricing.Request), EmbeddingNanos: rate(pricing.Embedding),
		VectorQueryNanos: rate(pricing.VectorQuery), GpuHourNanos: rate(pricing.GPUMillisecond),
		StorageMegabyteNanos: rate(pricing.StorageByte), EgressMegabyteNanos: rate(pricing.EgressByte),
		GpuMillisecondsPerMtokInput: p.GPUPerMInput, GpuMillisecondsPerMtokOutput: p.GPUPerMOutput,
		OverheadPpm: p.OverheadPPM, Source: p.Source, PriceBook: p.Book, Currency: p.Currency, Revision: p.Revision,
		Provider: p.Provider, Variants: variantsToProto(p),
	}
	if !p.Expires.IsZero() {
		to.ExpireTime = TimeToProto(p.Expires)
	}
	if c := p.Corrects; c != nil {
		to.Corrects = &chartergatev1.PriceCorrection{EffectiveTime: TimeToProto(c.Effective), Reason: c.Reason}
	}
	if tokens, whole := p.Factors(); tokens != whole || tokens != (pricing.Ratio{Num: 1, Den: 1}) {
		to.TokenFactor, to.Factor = ratioToProto(tokens), ratioToProto(whole)
	}
	to.ToolCallNanos, to.GpuHourByAcceleratorNanos = byName[int64](p.Tools), byName[int64](p.Accelerators)
	return to
}

// byName converts rates by name; none are nil.
func byName[To, From ~int64](rates map[string]From) map[string]To {
	if len(rates) == 0 {
		return nil
	}
	to := make(map[string]To, len(rates))
	for name, rate := range rates {
		to[name] = To(rate)
	}
	return to
}

// ratesOf are the rates that a price itself has.
func ratesOf(p *chartergatev1.Price) map[pricing.Unit]money.Nanos {
	rates := make(map[pricing.Unit]money.Nanos)
	for unit, rate := range fields(&chartergatev1.PriceRates{
		InputNanos: p.InputNanos, CacheReadNanos: p.CacheReadNanos, CacheWrite_5MNanos: p.CacheWrite_5MNanos,
		CacheWrite_1HNanos: p.CacheWrite_1HNanos, OutputNanos: p.OutputNanos, ReasoningNanos: p.ReasoningNanos,
		AudioInputNanos: p.AudioInputNanos, AudioOutputNanos: p.AudioOutputNanos, AudioCacheReadNanos: p.AudioCacheReadNanos,
		ImageInputNanos: p.ImageInputNanos, ImageOutputNanos: p.ImageOutputNanos, RequestNanos: p.RequestNanos,
		EmbeddingNanos: p.EmbeddingNanos, VectorQueryNanos: p.VectorQueryNanos, GpuHourNanos: p.GpuHourNanos,
		StorageMegabyteNanos: p.StorageMegabyteNanos, EgressMegabyteNanos: p.EgressMegabyteNanos,
	}) {
		if *rate != nil {
			rates[unit] = money.Nanos(**rate)
		}
	}
	return rates
}

// LinesToProto converts the lines of a cost.
func LinesToProto(lines []pricing.Line) []*chartergatev1.CostLine {
	to := make([]*chartergatev1.CostLine, len(lines))
	for i, l := range lines {
		to[i] = &chartergatev1.CostLine{Unit: l.Unit, Quantity: l.Quantity, CostNanos: int64(l.Cost)}
	}
	return to
}
