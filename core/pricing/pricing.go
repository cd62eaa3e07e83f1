// Package pricing turns usage into exact money.
package pricing

import (
	"fmt"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// Unit is something that a price has a rate for.
type Unit int

// Units, in the order of a cost's components. The rate of each is per million, but GPUMillisecond's, which is per hour.
const (
	Input Unit = iota
	CacheRead
	CacheWrite5m
	CacheWrite1h
	AudioInput
	AudioCacheRead
	ImageInput
	Output
	Reasoning
	AudioOutput
	ImageOutput
	Embedding
	VectorQuery
	StorageByte
	EgressByte
	GPUMillisecond
	Request
	unitCount
)

var unitNames = [unitCount]string{
	"input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "audio_input_tokens",
	"audio_cache_read_tokens", "image_input_tokens", "output_tokens", "reasoning_tokens", "audio_output_tokens",
	"image_output_tokens", "embedding_tokens", "vector_queries", "storage_bytes", "egress_bytes", "gpu_milliseconds",
	"requests",
}

// Units lists all units.
func Units() []Unit {
	list := make([]Unit, unitCount)
	for i := range list {
		list[i] = Unit(i)
	}
	return list
}

func (u Unit) String() string { return unitNames[u] }

// tokens says that a unit is tokens of the model itself: not those that another model embeds.
func (u Unit) tokens() bool { return u <= ImageOutput }

// fallback says whose rate a unit takes that has none of its own: never a cheaper reading than the provider's. A unit
// that falls back on itself has none.
var fallback = [unitCount]Unit{
	CacheRead: Input, CacheWrite5m: Input, CacheWrite1h: CacheWrite5m, AudioInput: AudioInput, AudioCacheRead: AudioInput,
	ImageInput: Input, Output: Output, Reasoning: Output, AudioOutput: AudioOutput, ImageOutput: Output,
	Embedding: Embedding, VectorQuery: VectorQuery, StorageByte: StorageByte, EgressByte: EgressByte,
	GPUMillisecond: GPUMillisecond, Request: Request,
}

// Price is what a model costs from Effective on, until its next price takes effect. Make one with New.
type Price struct {
	Model     string
	Provider  string // for adjustments; may be empty
	Effective time.Time
	Expires   time.Time  // zero: when the model's next price takes effect
	Corrects  *Corrected // of a correction
	Currency  string
	Book      string // the price book that it stands in
	Revision  int64  // the store's revision of that book
	Source    string
	// GPU milliseconds per million tokens, to derive GPU time that is not reported.
	GPUPerMInput, GPUPerMOutput int64
	OverheadPPM                 int64 // operational overhead on everything else, in parts per million
	Tools                       map[string]money.Nanos
	Accelerators                map[string]money.Nanos // per GPU-hour; that of GPUMillisecond is for usage that names none

	rates [unitCount]money.Nanos
	set   uint32
	// What the rates of tokens, and the whole, are multiplied by; zero: 1.
	tokenFactor, factor Ratio

	base        *Price // without variants, where there are some
	variants    []Variant
	conditional bool // variants depend on the terms
	resolved    map[uint64]*Price
	long        []long   // the highest threshold first
	excess      []excess // the lowest threshold first
}

// Corrected names the price that another corrects, of the same model.
type Corrected struct {
	Effective time.Time
	Reason    string
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

// Reasons says that reasoning tokens have a rate of their own.
func (p *Price) Reasons() bool { return p.own()&(1<<Reasoning) != 0 }

// WritesCache says that tokens written to a cache have a rate of their own.
func (p *Price) WritesCache() bool { return p.own()&(1<<CacheWrite5m|1<<CacheWrite1h) != 0 }

// own are the units with a rate of their own, for any length of input.
func (p *Price) own() uint32 {
	own := p.set
	for i := range p.long {
		own |= p.long[i].price.set
	}
	for i := range p.excess {
		own |= p.excess[i].set
	}
	return own
}

// UnpricedError says that a price has no rate for a unit that was used.
type UnpricedError struct {
	Model, Unit string
	Derived     bool // the rate is there, but not how to derive the quantity
}

func (e *UnpricedError) Error() string {
	if e.Unit == "" {
		return fmt.Sprintf("model %q has no price at that time: add one to a price book", e.Model)
	}
	if tier, ok := strings.CutPrefix(e.Unit, "service_tier/"); ok {
		return fmt.Sprintf("the price of model %q is not for service tier %s: add a variant for it to its price book", e.Model, tier)
	}
	if e.Unit == GPUMillisecond.String() && e.Derived {
		return fmt.Sprintf("model %q is paid by the GPU-hour, but the call does not report gpu_milliseconds: report them, or set gpu_milliseconds_per_mtok_input and _output in its price", e.Model)
	}
	if accelerator, ok := strings.CutPrefix(e.Unit, GPUMillisecond.String()+"/"); ok {
		return fmt.Sprintf("the price of model %q has no GPU-hour rate for accelerator %q: add it to gpu_hour_by_accelerator in its price book", e.Model, accelerator)
	}
	return fmt.Sprintf("the price of model %q has no rate for %s: add one to its price book, 0 if it is free", e.Model, e.Unit)
}
