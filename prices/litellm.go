package prices

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
)

// litellmUnits are the keys of model_prices_and_context_window.json that are a rate, before what _above_Nk_tokens and
// the service tier add to them. Prices are per unit.
var litellmUnits = map[string]pricing.Unit{
	"input_cost_per_token": pricing.Input, "output_cost_per_token": pricing.Output,
	"cache_read_input_token_cost": pricing.CacheRead, "input_cost_per_token_cache_hit": pricing.CacheRead,
	"cache_creation_input_token_cost": pricing.CacheWrite5m, "cache_creation_input_token_cost_above_1hr": pricing.CacheWrite1h,
	"output_cost_per_reasoning_token": pricing.Reasoning,
	"input_cost_per_audio_token":      pricing.AudioInput, "output_cost_per_audio_token": pricing.AudioOutput,
	"cache_read_input_audio_token_cost": pricing.AudioCacheRead,
	"input_cost_per_image_token":        pricing.ImageInput, "output_cost_per_image_token": pricing.ImageOutput,
	"input_cost_per_request": pricing.Request, "input_cost_per_query": pricing.Request,
}

// litellmTools are keys that are a price of one call of a tool.
var litellmTools = map[string]struct {
	tool string
	per  int64
}{
	"google_maps_grounding_cost_per_query": {"google_maps", 1},
	"code_interpreter_cost_per_session":    {"code_interpreter", 1},
	"file_search_cost_per_1k_calls":        {"file_search", 1000},
}

var (
	litellmKey    = regexp.MustCompile(`^(.+?)(?:_above_(\d{1,6})k_tokens)?(?:_(batches|flex|priority|ultrafast|balanced|decisions))?$`)
	litellmRegion = regexp.MustCompile(`^regional_processing_uplift_multiplier_([a-z]+)$`)
)

// litellmProviders are other names of providers, by litellm_provider up to its first hyphen.
var litellmProviders = map[string][]string{
	"vertex_ai": {"google", "google-vertex", "vertex", "google_vertex"}, "gemini": {"google", "google-gla", "google-gemini"},
	"bedrock": {"aws", "amazon", "aws_bedrock"}, "bedrock_converse": {"aws", "bedrock", "amazon", "aws_bedrock"},
	"azure_ai": {"azure"}, "azure": {"azure_openai"}, "xai": {"x-ai", "grok"}, "together_ai": {"together", "together-ai"},
	"fireworks_ai": {"fireworks", "fireworks-ai"}, "cohere_chat": {"cohere"}, "moonshot": {"moonshotai"}, "zai": {"zhipuai"},
	"voyage": {"voyageai"}, "text-completion-openai": {"openai"}, "mistral": {"mistralai"},
}

func readLiteLLM(data []byte) (*Book, error) {
	var list map[string]map[string]json.RawMessage
	if err := decode(data, &list); err != nil {
		return nil, err
	}
	b := &Book{}
	byID := map[string]*Provider{}
	for _, key := range slices.Sorted(maps.Keys(list)) {
		entry := list[key]
		var id string
		_ = json.Unmarshal(entry["litellm_provider"], &id)
		if key == "sample_spec" {
			continue
		}
		if id == "" {
			b.Skipped = append(b.Skipped, Skip{"", key, "it has no litellm_provider"})
			continue
		}
		p := byID[id]
		if p == nil {
			family, _, _ := strings.Cut(id, "-")
			p = &Provider{ID: id, Match: Equals(append(litellmProviders[id], append(litellmProviders[family], family)...)...)}
			byID[id] = p
			b.Providers = append(b.Providers, p)
		}
		price, without, err := litellmPrice(id, key, entry)
		if err != nil {
			b.Skipped = append(b.Skipped, Skip{id, key, err.Error()})
			continue
		}
		if len(without) > 0 {
			b.Skipped = append(b.Skipped, Skip{id, key, "imported without " + strings.Join(without, ", ")})
		}
		p.Models = append(p.Models, &Model{id, key, Equals(litellmNames(id, key)...), []*pricing.Price{price}})
	}
	for _, p := range b.Providers {
		// A name that one model has as its own goes before the same name without a provider.
		p.byName = make(map[string]*Model, len(p.Models))
		for _, m := range p.Models {
			for _, n := range m.Match.rules {
				if p.byName[n.text] == nil || n.text == m.ID {
					p.byName[n.text] = m
				}
			}
		}
	}
	return b, nil
}

// litellmNames are the key, and the key without the provider's prefix.
func litellmNames(provider, key string) []string {
	names := []string{key, strings.ToLower(key)}
	prefixes := []string{provider, "bedrock", "vertex_ai", "gemini"}
	for _, prefix := range prefixes {
		if rest, ok := strings.CutPrefix(key, prefix+"/"); ok && rest != "" {
			names = append(names, rest, strings.ToLower(rest))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// litellmPrice gives the price, and the keys of prices that no unit is for.
func litellmPrice(provider, model string, entry map[string]json.RawMessage) (*pricing.Price, []string, error) {
	type under struct {
		tier string
		over int64
	}
	rates := map[under]map[pricing.Unit]money.Nanos{}
	tools := map[string]money.Nanos{}
	var variants []pricing.Variant
	var without []string
	set := func(u under, unit pricing.Unit, value json.RawMessage) error {
		n, err := litellmRate(value, 1)
		if err == nil {
			if rates[u] == nil {
				rates[u] = map[pricing.Unit]money.Nanos{}
			}
			rates[u][unit] = n
		}
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(entry)) {
		value := entry[key]
		if string(value) == "null" {
			continue
		}
		var err error
		parts := litellmKey.FindStringSubmatch(key)
		if parts == nil {
			continue
		}
		unit, isRate := litellmUnits[parts[1]]
		tool, isTool := litellmTools[key]
		region := litellmRegion.FindStringSubmatch(key)
		switch {
		case isRate && key == "input_cost_per_token_cache_hit" && entry["cache_read_input_token_cost"] != nil:
		case isRate:
			u := under{tier: strings.Replace(parts[3], "batches", "batch", 1)}
			if parts[2] != "" {
				k, _ := strconv.ParseInt(parts[2], 10, 64)
				u.over = k * 1000
			}
			err = set(u, unit, value)
		case isTool:
			tools[tool.tool], err = litellmRate(value, tool.per)
		case key == "search_context_cost_per_query":
			err = litellmSearch(value, tools)
		case key == "tiered_pricing":
			var list []map[string]json.RawMessage
			if err = json.Unmarshal(value, &list); err != nil {
				break
			}
			for _, tier := range list {
				var bounds []float64 // of tokens, not of money
				if err = json.Unmarshal(tier["range"], &bounds); err != nil || len(bounds) != 2 {
					return nil, nil, errors.New("tiered_pricing without a range of two numbers")
				}
				for name, value := range tier {
					if unit, ok := litellmUnits[name]; ok && err == nil {
						err = set(under{over: int64(bounds[0])}, unit, value)
					}
				}
			}
		case key == "off_peak_pricing":
			var more []pricing.Variant
			more, err = litellmOffPeak(value)
			variants = append(variants, more...)
		case region != nil:
			var r pricing.Ratio
			r, err = litellmRatio(value)
			variants = append(variants, pricing.Variant{Region: region[1], Multiplier: r})
		case key == "provider_specific_entry":
			var of map[string]json.RawMessage
			if json.Unmarshal(value, &of) != nil {
				break
			}
			if v, ok := of["us"]; ok {
				var r pricing.Ratio
				r, err = litellmRatio(v)
				variants = append(variants, pricing.Variant{Region: "us", Multiplier: r})
			}
			if v, ok := of["fast"]; ok && err == nil {
				var r pricing.Ratio
				r, err = litellmRatio(v)
				variants = append(variants, pricing.Variant{ServiceTier: "fast", Multiplier: r})
			}
		case strings.Contains(key, "cost") || strings.Contains(key, "multiplier"):
			if n, e := litellmRate(value, 1); e != nil || n != 0 {
				without = append(without, key)
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	base := rates[under{}]
	if len(base) == 0 && len(tools) == 0 {
		if len(without) > 0 {
			return nil, nil, fmt.Errorf("it is priced by %s, which no usage counts", strings.Join(without, ", "))
		}
		return nil, nil, errNoPrices
	}
	delete(rates, under{})
	// A service tier's own rates for long contexts go before its others, and those before the long context's.
	order := slices.SortedFunc(maps.Keys(rates), func(a, b under) int {
		rank := func(u under) int {
			switch {
			case u.over == 0:
				return 0
			case u.tier == "":
				return 1
			}
			return 2
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.over, b.over), cmp.Compare(a.tier, b.tier))
	})
	var own []pricing.Variant
	for _, u := range order {
		own = append(own, pricing.Variant{ServiceTier: u.tier, OverInput: u.over, Rates: rates[u]})
	}
	p := pricing.New(model, time.Time{}, Currency, base)
	if len(tools) > 0 {
		p.Tools = tools
	}
	p.Source, p.Provider = LiteLLM, provider
	var source string
	if json.Unmarshal(entry["source"], &source) == nil && source != "" {
		p.Source = source[:min(len(source), 400)] + "; " + LiteLLM
	}
	return p, without, p.SetVariants(append(own, variants...))
}

func litellmRate(value json.RawMessage, per int64) (money.Nanos, error) {
	var n json.Number
	if err := decode(value, &n); err != nil {
		return 0, fmt.Errorf("%.40s is not a number", value)
	}
	return rate(n, per)
}

// litellmSearch reads the price of a web search by how much context it brings; the medium is the usual.
func litellmSearch(value json.RawMessage, tools map[string]money.Nanos) error {
	var by map[string]json.RawMessage
	if err := json.Unmarshal(value, &by); err != nil {
		return err
	}
	for size, tool := range map[string]string{"low": "web_search_low", "medium": "web_search", "high": "web_search_high"} {
		v, ok := by["search_context_size_"+size]
		if !ok || string(v) == "null" {
			continue
		}
		n, err := litellmRate(v, 1)
		if err != nil {
			return err
		}
		tools[tool] = n
	}
	for _, tool := range []string{"web_search_low", "web_search_high"} {
		if usual, ok := tools["web_search"]; ok && tools[tool] == usual {
			delete(tools, tool)
		}
	}
	return nil
}

// litellmRatio reads a multiplier as the decimal that it is.
func litellmRatio(value json.RawMessage) (pricing.Ratio, error) {
	n, err := litellmRate(value, 1_000_000) // nanos per million: a billion is 1
	if err != nil {
		return pricing.Ratio{}, err
	}
	return pricing.NewRatio(uint64(n), uint64(money.Unit)), nil
}

func litellmOffPeak(value json.RawMessage) ([]pricing.Variant, error) {
	var of map[string]json.RawMessage
	if err := json.Unmarshal(value, &of); err != nil {
		return nil, err
	}
	rates := map[pricing.Unit]money.Nanos{}
	for key, v := range of {
		if unit, ok := litellmUnits[key]; ok {
			n, err := litellmRate(v, 1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			rates[unit] = n
		}
	}
	var windows []struct {
		Hours    json.RawMessage `json:"hours_utc"`
		Weekdays []int           `json:"weekdays"` // ISO: Monday is 1
	}
	if err := json.Unmarshal(of["windows"], &windows); err != nil || len(windows) == 0 {
		return nil, errors.New("no windows that can be read")
	}
	var variants []pricing.Variant
	for _, w := range windows {
		var hours []string
		if json.Unmarshal(w.Hours, &hours) != nil {
			var one string
			if err := json.Unmarshal(w.Hours, &one); err != nil {
				return nil, err
			}
			hours = []string{one}
		}
		var days pricing.Weekdays
		for _, d := range w.Weekdays {
			if d < 1 || d > 7 {
				return nil, fmt.Errorf("weekday %d is not 1 to 7", d)
			}
			days |= 1 << (d % 7)
		}
		for _, h := range hours {
			from, to, _ := strings.Cut(h, "-")
			v := pricing.Variant{Days: days, Rates: rates}
			var err, err2 error
			v.From, err = clock(from)
			v.To, err2 = clock(to)
			if err := errors.Join(err, err2); err != nil {
				return nil, fmt.Errorf("hours_utc %q: %w", h, err)
			}
			variants = append(variants, v)
		}
	}
	return variants, nil
}

func clock(s string) (time.Duration, error) {
	t, err := time.Parse("15:04", s)
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err
}
