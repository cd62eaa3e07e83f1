package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

// maxPayload is the largest payload that cost reads, in bytes.
const maxPayload = 16 << 20

func newCostCommand() *cobra.Command {
	var d costDefaults
	var file, batch, list, output, at string
	cmd := &cobra.Command{
		Use:   "cost --provider NAME --usage FILE",
		Short: "Price what a provider says that a call used, without a server",
		Long: `Price what a provider says that a call used, without a server: its usage object, its response, or the events of its
stream. What each vendor counts within what is told apart, so that each token is priced once.

With --batch, each line of a file is {"id", "provider", "api", "model", "at", "usage"}, and gets a line
{"id", "input_tokens", "output_tokens", "cache_read_tokens", "input_nanos", "output_nanos", "total_nanos", "error"} in the
same order: all input tokens, cached ones too, and all output tokens; the cost of each, rounded once, and of the whole,
with fees that are neither. The flags stand in for what a line leaves out. A line that cannot be priced has an error, the
others are priced. What has no rate in the list, such as a web search, is left out of the total and named in "unpriced".`,
		Example: `  chartergate cost --provider anthropic --usage response.json
  curl -s … | chartergate cost --provider openai --api responses --usage - -o json
  chartergate cost --batch calls.jsonl --prices genai-prices.json > costs.jsonl`,
		Args: noArgs,
	}
	f := cmd.Flags()
	f.StringVar(&d.provider, "provider", "", "who was called: openai, azure, anthropic, google, aws, mistral, cohere and others")
	f.StringVar(&d.api, "api", "", "which of its APIs: chat, responses, embeddings, anthropic, gemini, converse and others (default told by the fields)")
	f.StringVar(&d.model, "model", "", "model, as in requests or responses (default the payload's)")
	f.StringVar(&at, "at", "", "when the call was made, 2006-01-02 or 2006-01-02T15:04:05Z (default now)")
	f.StringVar(&list, "prices", "", "price list: genai-prices' or LiteLLM's JSON, or a manifest with price books (default the one in this binary)")
	f.StringVar(&file, "usage", "", "file with the payload; - is standard input")
	f.StringVar(&batch, "batch", "", "file with a call on each line, as JSON; - is standard input")
	f.StringVarP(&output, "output", "o", "table", strings.Join(outputs, ", "))
	completeFlag(cmd, "output", func() []string { return outputs })
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case (file == "") == (batch == ""):
			return usagef("give one of --usage and --batch")
		case !slices.Contains(outputs, output):
			return usagef("unknown output %q: use %s", output, strings.Join(outputs, ", "))
		}
		d.at = time.Now()
		if at != "" {
			var err error
			if d.at, err = parseAt(at); err != nil {
				return usagef("--at %v", err)
			}
		}
		prices, err := loadPrices(list)
		if err != nil {
			return err
		}
		c := &coster{list: prices}
		if batch != "" {
			return costBatch(cmd, c, d, batch)
		}
		raw, err := readLimited(cmd.InOrStdin(), file, maxPayload)
		if errors.Is(err, errTooLarge) {
			return fmt.Errorf("%s has more than 16 MiB: cut it down to its usage object", file)
		}
		if err != nil {
			return err
		}
		r, err := c.cost(d.provider, d.api, d.model, d.at, raw)
		if err != nil {
			return err
		}
		return r.print(cmd.OutOrStdout(), output)
	}
	return cmd
}

// costDefaults stand in for what a line of a batch leaves out.
type costDefaults struct {
	provider, api, model string
	at                   time.Time
}

// parseAt reads a time as people write it.
func parseAt(s string) (time.Time, error) {
	for _, layout := range [...]string{time.RFC3339, time.DateOnly, "2006-01-02T15:04:05", time.DateTime} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%.40q is not a time: write 2006-01-02 or 2006-01-02T15:04:05Z", s)
}

// coster prices payloads. It is safe for concurrent use.
type coster struct{ list *priceNames }

// costed is a priced payload.
type costed struct {
	payload              *usage.Payload
	price                *pricing.Price
	used                 usage.Usage // without what has no rate
	at                   time.Time
	input, output, total money.Nanos
	others               []otherCost
	unpriced             []string
}

// otherCost is what another model used within a call.
type otherCost struct {
	part usage.Part
	cost money.Nanos
}

var errNoModel = errors.New("the payload names no model: name it")

// cost prices a payload. What it read stands in the answer also where there is an error.
func (c *coster) cost(provider, api, model string, at time.Time, raw []byte) (*costed, error) {
	r := &costed{at: at}
	p, err := usage.Read(provider, api, raw)
	if err != nil {
		return r, err
	}
	r.payload, r.used = p, p.Usage
	if model = cmp.Or(model, p.Model); model == "" {
		return r, errNoModel
	}
	if r.price, err = c.find(r, model); err != nil {
		return r, err
	}
	if r.total, err = c.whole(r, r.price, &r.used, ""); err != nil {
		return r, err
	}
	if r.input, r.output, err = r.price.InOut(&r.used); err != nil {
		return r, err
	}
	for _, part := range p.Others {
		cost, err := c.other(r, part, model)
		if err != nil {
			r.unpriced = append(r.unpriced, part.Field+": "+err.Error())
			continue
		}
		r.others = append(r.others, otherCost{part, cost})
		if r.total, err = money.Add(r.total, cost); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (c *coster) other(r *costed, part usage.Part, model string) (money.Nanos, error) {
	price, err := c.find(r, cmp.Or(part.Model, model))
	if err != nil {
		return 0, err
	}
	return c.whole(r, price, &part.Usage, part.Field+": ")
}

// find gives the price of a model. A service tier that the list has no rates for costs what the standard tier costs, and
// is named.
func (c *coster) find(r *costed, model string) (*pricing.Price, error) {
	t := pricing.Terms{ServiceTier: r.payload.ServiceTier, Region: r.payload.Region, Time: r.at}
	price, err := c.list.find(r.payload.Provider, model, t)
	if e, ok := errors.AsType[*pricing.UnpricedError](err); ok && strings.HasPrefix(e.Unit, "service_tier/") {
		if !slices.Contains(r.unpriced, e.Unit) {
			r.unpriced = append(r.unpriced, e.Unit)
		}
		t.ServiceTier = ""
		price, err = c.list.find(r.payload.Provider, model, t)
	}
	return price, err
}

// whole is the whole cost, without the tools that have no rate; they are taken out of u and named.
func (c *coster) whole(r *costed, price *pricing.Price, u *usage.Usage, prefix string) (money.Nanos, error) {
	for {
		total, err := price.Cost(u)
		e, ok := errors.AsType[*pricing.UnpricedError](err)
		if !ok {
			return total, err
		}
		tool, ok := strings.CutPrefix(e.Unit, "tool_calls/")
		if !ok {
			return 0, err
		}
		r.unpriced = append(r.unpriced, prefix+e.Unit)
		tools := make(map[string]int64, len(u.ToolCalls))
		for name, n := range u.ToolCalls {
			if name != tool {
				tools[name] = n
			}
		}
		u.ToolCalls = tools
	}
}

// costAnswer is a priced payload for programs.
type costAnswer struct {
	Provider        string           `json:"provider"`
	API             string           `json:"api"`
	Model           string           `json:"model"`
	ServiceTier     string           `json:"service_tier,omitempty"`
	Region          string           `json:"region,omitempty"`
	At              string           `json:"at"`
	PriceSource     string           `json:"price_source,omitempty"`
	Effective       string           `json:"price_effective,omitempty"`
	Currency        string           `json:"currency"`
	InputTokens     int64            `json:"input_tokens"`
	OutputTokens    int64            `json:"output_tokens"`
	CacheReadTokens int64            `json:"cache_read_tokens"`
	InputNanos      int64            `json:"input_nanos"`
	OutputNanos     int64            `json:"output_nanos"`
	TotalNanos      int64            `json:"total_nanos"`
	Lines           []costLineAnswer `json:"lines"`
	Partial         bool             `json:"partial"`
	Unpriced        []string         `json:"unpriced,omitempty"`
	Unknown         []string         `json:"unknown_fields,omitempty"`
}

type costLineAnswer struct {
	Unit      string `json:"unit"`
	Quantity  int64  `json:"quantity"`
	RateNanos *int64 `json:"rate_nanos,omitempty"` // per million units, or per GPU-hour
	CostNanos int64  `json:"cost_nanos"`
}

func (r *costed) answer() (*costAnswer, error) {
	p := r.payload
	a := &costAnswer{
		Provider: p.Provider, API: p.API, Model: r.price.Model, ServiceTier: p.ServiceTier, Region: p.Region,
		At: r.at.UTC().Format(time.RFC3339), PriceSource: r.price.Source, Currency: r.price.Currency,
		InputTokens: r.used.AllInput(), OutputTokens: r.used.AllOutput(), CacheReadTokens: cacheRead(&r.used),
		InputNanos: int64(r.input), OutputNanos: int64(r.output), TotalNanos: int64(r.total),
		Partial: p.Partial, Unpriced: r.unpriced, Unknown: p.Unknown(),
	}
	if !r.price.Effective.IsZero() {
		a.Effective = r.price.Effective.UTC().Format(time.RFC3339)
	}
	_, lines, err := r.price.Lines(&r.used)
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		if l.Cost == 0 && l.Unit == pricing.Request.String() {
			continue
		}
		line := costLineAnswer{Unit: l.Unit, Quantity: l.Quantity, CostNanos: int64(l.Cost)}
		rate, ok := r.price.Tools[strings.TrimPrefix(l.Unit, "tool_calls/")]
		if unit, is := pricing.UnitByName(l.Unit); is {
			rate, ok = r.price.RateFor(&r.used, unit)
		}
		if ok {
			n := int64(rate)
			line.RateNanos = &n
		}
		a.Lines = append(a.Lines, line)
	}
	for _, o := range r.others {
		a.Lines = append(a.Lines, costLineAnswer{Unit: "tokens of " + cmp.Or(o.part.Model, "another turn") + " in " + o.part.Field,
			Quantity: o.part.Usage.AllInput() + o.part.Usage.AllOutput(), CostNanos: int64(o.cost)})
	}
	return a, nil
}

func cacheRead(u *usage.Usage) int64 { return u.CacheReadTokens + u.AudioCacheReadTokens }

func (r *costed) print(w io.Writer, output string) error {
	a, err := r.answer()
	if err != nil {
		return err
	}
	switch output {
	case "json":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(a)
	case "yaml":
		data, err := json.Marshal(a)
		if err != nil {
			return err
		}
		return writeAsYAML(w, data)
	}
	f := facts{{"model", a.Model + " of " + a.Provider + ", usage as of " + a.API}}
	f.add("terms", strings.Join(slices.DeleteFunc([]string{a.ServiceTier, a.Region, "at " + a.At}, func(s string) bool { return s == "" }), ", "))
	f.add("price", strings.Join(slices.DeleteFunc([]string{a.PriceSource, a.Effective}, func(s string) bool { return s == "" }), ", since "))
	if a.Partial {
		f.add("partial", "the stream broke off: what had been counted until then")
	}
	f.add("no rate for", strings.Join(a.Unpriced, ", "))
	f.add("not counted", strings.Join(a.Unknown, ", "))
	f.write(w)
	fmt.Fprintln(w)
	rows := [][4]string{{"UNIT", "QUANTITY", a.Currency + " PER MILLION", a.Currency}}
	for _, l := range a.Lines {
		rate := ""
		if l.RateNanos != nil {
			rate = money.Nanos(*l.RateNanos).String()
		}
		rows = append(rows, [4]string{visible(l.Unit), strconv.FormatInt(l.Quantity, 10), rate, money.Nanos(l.CostNanos).String()})
	}
	rows = append(rows, [4]string{"total", "", "", r.total.String()})
	var width [4]int
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		if _, err := fmt.Fprintf(w, "%-*s  %*s  %*s  %*s\n", width[0], row[0], width[1], row[1], width[2], row[2], width[3], row[3]); err != nil {
			return err
		}
	}
	return nil
}
