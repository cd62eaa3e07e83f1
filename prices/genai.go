package prices

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
)

// As prices/data.json of pydantic/genai-prices has it. What is not for prices is ignored.
type genaiProvider struct {
	ID            string   `json:"id"`
	ProviderMatch Match    `json:"provider_match"`
	ModelMatch    Match    `json:"model_match"`
	PricingURLs   []string `json:"pricing_urls"`
	Fallback      []string `json:"fallback_model_providers"`
	Models        []struct {
		ID     string          `json:"id"`
		Match  Match           `json:"match"`
		Prices json.RawMessage `json:"prices"`
	} `json:"models"`
}

type genaiRates map[string]json.RawMessage

// genaiConditional applies where its constraint holds. The last of a list that does is meant; if none does, the first.
type genaiConditional struct {
	Constraint *struct {
		StartDate string `json:"start_date"`
		StartTime string `json:"start_time"`
		EndTime   string `json:"end_time"`
	} `json:"constraint"`
	Prices genaiRates `json:"prices"`
}

var errNoPrices = errors.New("it has no prices")

var genaiUnits = map[string]struct {
	unit pricing.Unit
	per  int64
}{
	"input_mtok": {pricing.Input, 1_000_000}, "output_mtok": {pricing.Output, 1_000_000},
	"cache_read_mtok": {pricing.CacheRead, 1_000_000}, "cache_write_mtok": {pricing.CacheWrite5m, 1_000_000},
	"input_audio_mtok": {pricing.AudioInput, 1_000_000}, "output_audio_mtok": {pricing.AudioOutput, 1_000_000},
	"cache_audio_read_mtok": {pricing.AudioCacheRead, 1_000_000}, "requests_kcount": {pricing.Request, 1_000},
}

func readGenAI(data []byte) (*Book, error) {
	var list []genaiProvider
	if err := decode(data, &list); err != nil {
		return nil, err
	}
	b := &Book{}
	for _, from := range list {
		p := &Provider{ID: from.ID, Match: from.ProviderMatch, modelMatch: from.ModelMatch, Fallback: from.Fallback}
		source := GenAI
		if len(from.PricingURLs) > 0 {
			source = from.PricingURLs[0] + "; " + GenAI
		}
		for _, m := range from.Models {
			list, err := genaiPrices(from.ID, m.ID, source, m.Prices)
			if err != nil {
				b.Skipped = append(b.Skipped, Skip{from.ID, m.ID, err.Error()})
			}
			p.Models = append(p.Models, &Model{from.ID, m.ID, m.Match, list})
		}
		b.Providers = append(b.Providers, p)
	}
	return b, nil
}

func decode(data []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	d.UseNumber()
	if err := d.Decode(to); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return fmt.Errorf("byte %d: %w", syntax.Offset, err)
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the end of the list")
	}
	return nil
}

func genaiPrices(provider, model, source string, data json.RawMessage) ([]*pricing.Price, error) {
	var list []genaiConditional
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		if err := decode(data, &list); err != nil {
			return nil, err
		}
	} else {
		var one genaiConditional
		if err := decode(data, &one.Prices); err != nil {
			return nil, err
		}
		list = []genaiConditional{one}
	}
	if len(list) == 0 {
		return nil, errNoPrices
	}
	starts := make([]time.Time, len(list)) // the zero time: always
	dates := []time.Time{{}}
	for i, c := range list {
		if c.Constraint == nil || c.Constraint.StartDate == "" {
			continue
		}
		day, err := time.Parse(time.DateOnly, c.Constraint.StartDate)
		if err != nil {
			return nil, fmt.Errorf("start_date %q is not a date", c.Constraint.StartDate)
		}
		starts[i] = day
		dates = append(dates, day)
	}
	slices.SortFunc(dates, time.Time.Compare)
	dates = slices.CompactFunc(dates, time.Time.Equal)
	prices := make([]*pricing.Price, 0, len(dates))
	for _, from := range dates {
		base := 0
		for i, c := range list {
			if !starts[i].After(from) && (c.Constraint == nil || c.Constraint.StartTime == "") {
				base = i
			}
		}
		rates, variants, err := genaiRatesOf(list[base].Prices)
		if err != nil {
			return nil, err
		}
		if len(rates) == 0 {
			if !strings.HasSuffix(model, ":free") {
				return nil, errNoPrices
			}
			rates = map[pricing.Unit]money.Nanos{pricing.Input: 0, pricing.Output: 0}
		}
		for i, c := range list {
			if i < base || starts[i].After(from) || c.Constraint == nil || c.Constraint.StartTime == "" {
				continue
			}
			window, long, err := genaiRatesOf(c.Prices)
			if err != nil {
				return nil, err
			}
			if len(long) > 0 || !slices.Equal(sorted(window), sorted(rates)) {
				return nil, errors.New("it has a time of day with other units or tiers than the rest of the day")
			}
			v := pricing.Variant{Rates: window}
			if v.From, err = genaiTime(c.Constraint.StartTime); err != nil {
				return nil, err
			}
			if v.To, err = genaiTime(c.Constraint.EndTime); err != nil {
				return nil, err
			}
			variants = append(variants, v)
		}
		p := pricing.New(model, from, Currency, rates)
		p.Source, p.Provider = source, provider
		if err := p.SetVariants(variants); err != nil {
			return nil, err
		}
		prices = append(prices, p)
	}
	return prices, nil
}

func sorted[V any](m map[pricing.Unit]V) []pricing.Unit { return slices.Sorted(maps.Keys(m)) }

func genaiTime(s string) (time.Duration, error) {
	t, err := time.Parse("15:04:05Z07:00", s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time of day in UTC", s)
	}
	t = t.UTC()
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second, nil
}

// genaiRatesOf gives the base rates, and a variant for each number of input tokens from which on the whole call costs
// more. Audio tokens without a rate of their own are a part of the text tokens there.
func genaiRatesOf(from genaiRates) (map[pricing.Unit]money.Nanos, []pricing.Variant, error) {
	type tiered struct {
		Base  json.Number `json:"base"`
		Tiers []struct {
			Start int64       `json:"start"`
			Price json.Number `json:"price"`
		} `json:"tiers"`
	}
	rates := map[pricing.Unit]money.Nanos{}
	over := map[int64]map[pricing.Unit]money.Nanos{}
	for name, value := range from {
		to, ok := genaiUnits[name]
		if !ok {
			return nil, nil, fmt.Errorf("it has a price for %s, which is not known", name)
		}
		if bytes.Equal(value, []byte("null")) {
			continue
		}
		var t tiered
		var err error
		if value[0] == '{' {
			err = decode(value, &t)
		} else {
			err = decode(value, &t.Base)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		if rates[to.unit], err = rate(t.Base, to.per); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, tier := range t.Tiers {
			if over[tier.Start] == nil {
				over[tier.Start] = map[pricing.Unit]money.Nanos{}
			}
			if over[tier.Start][to.unit], err = rate(tier.Price, to.per); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	variants := make([]pricing.Variant, 0, len(over))
	for start, r := range over {
		variants = append(variants, pricing.Variant{OverInput: start, Rates: r})
	}
	slices.SortFunc(variants, func(a, b pricing.Variant) int { return cmp.Compare(a.OverInput, b.OverInput) })
	for audio, text := range map[pricing.Unit]pricing.Unit{pricing.AudioInput: pricing.Input, pricing.AudioOutput: pricing.Output} {
		if _, ok := rates[audio]; ok {
			continue
		}
		if r, ok := rates[text]; ok {
			rates[audio] = r
		}
		for _, v := range variants {
			if r, ok := v.Rates[text]; ok {
				v.Rates[audio] = r
			}
		}
	}
	return rates, variants, nil
}
