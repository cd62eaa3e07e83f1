package convert

import (
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
		in.PriceBook, in.Currency, in.Revision = "", "", 0
		p.Prices = append(p.Prices, in)
	}
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
		b.Prices = append(b.Prices, to)
	}
	return b, nil
}

func priceFromProto(p *chartergatev1.Price, effective time.Time, currency string) *pricing.Price {
	to := pricing.New(p.GetModel(), effective, currency, ratesOf(p))
	to.Source, to.OverheadPPM = p.GetSource(), p.GetOverheadPpm()
	to.GPUPerMInput, to.GPUPerMOutput = p.GetGpuMillisecondsPerMtokInput(), p.GetGpuMillisecondsPerMtokOutput()
	if len(p.GetToolCallNanos()) > 0 {
		to.Tools = make(map[string]money.Nanos, len(p.GetToolCallNanos()))
		for tool, rate := range p.GetToolCallNanos() {
			to.Tools[tool] = money.Nanos(rate)
		}
	}
	return to
}

// PriceFromProto converts a price as LookupPrice answers it and slices carry it.
func PriceFromProto(p *chartergatev1.Price) *pricing.Price {
	to := priceFromProto(p, p.GetEffectiveTime().AsTime(), p.GetCurrency())
	to.Book, to.Revision = p.GetPriceBook(), p.GetRevision()
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
	}
	if len(p.Tools) > 0 {
		to.ToolCallNanos = make(map[string]int64, len(p.Tools))
		for tool, rate := range p.Tools {
			to.ToolCallNanos[tool] = int64(rate)
		}
	}
	return to
}

func ratesOf(p *chartergatev1.Price) map[pricing.Unit]money.Nanos {
	rates := make(map[pricing.Unit]money.Nanos)
	for unit, rate := range map[pricing.Unit]*int64{
		pricing.Input: p.InputNanos, pricing.CacheRead: p.CacheReadNanos,
		pricing.CacheWrite5m: p.CacheWrite_5MNanos, pricing.CacheWrite1h: p.CacheWrite_1HNanos,
		pricing.Output: p.OutputNanos, pricing.Reasoning: p.ReasoningNanos,
		pricing.AudioInput: p.AudioInputNanos, pricing.AudioOutput: p.AudioOutputNanos,
		pricing.AudioCacheRead: p.AudioCacheReadNanos, pricing.ImageInput: p.ImageInputNanos, pricing.ImageOutput: p.ImageOutputNanos,
		pricing.Request: p.RequestNanos, pricing.Embedding: p.EmbeddingNanos,
		pricing.VectorQuery: p.VectorQueryNanos, pricing.GPUMillisecond: p.GpuHourNanos,
		pricing.StorageByte: p.StorageMegabyteNanos, pricing.EgressByte: p.EgressMegabyteNanos,
	} {
		if rate != nil {
			rates[unit] = money.Nanos(*rate)
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
