package usage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Payload is a provider's usage object, read: what each vendor includes in its counts is told apart.
type Payload struct {
	Usage       Usage  // of the model that answered
	Provider    string // by the id that prices are found by, such as `google` for Vertex AI
	API         string // whose format it has
	Model       string // as the response names it; empty where only the usage object is given
	ServiceTier string // such as standard, batch, flex or priority; empty where not said
	Region      string // as the response names it, such as `us`; empty where not said
	Others      []Part // what other models used within the call, and is billed at their price
	Partial     bool   // of a stream that broke off: what had been counted until then
	Raw         []byte // the usage object as it came; of a stream, all of it

	fields *node
}

// Part is what another model used within a call, such as an advisor that the model asked.
type Part struct {
	Field string // where it stands in the payload
	Model string
	Usage Usage
}

// ErrFormat is wrapped by the errors of usage that has not the format that it should have.
var ErrFormat = errors.New("unknown usage format")

// FormatError says what was looked for and what was found.
type FormatError struct {
	Provider, API string
	Missing       string   // the fields that the API has; empty where the API is not known
	Seen          []string // the fields that the payload has
	Known         []string // the formats that are known
	Broken        bool     // a stream that ended before any usage
}

func (e *FormatError) Error() string {
	switch {
	case e.Broken:
		return fmt.Sprintf("%v: the stream ended before its usage came: settle with counts of your own (it has %s)", ErrFormat, some(e.Seen))
	case e.Missing != "":
		return fmt.Sprintf("%v: usage of %s has %s, the payload has %s; known: %s", ErrFormat, e.named(), e.Missing, some(e.Seen), strings.Join(e.Known, ", "))
	case e.API != "":
		return fmt.Sprintf("%v: there is no api %q; known: %s", ErrFormat, e.API, strings.Join(e.Known, ", "))
	}
	return fmt.Sprintf("%v: the payload has %s, and no format that is known has these; known: %s", ErrFormat, some(e.Seen), strings.Join(e.Known, ", "))
}

func (e *FormatError) named() string {
	if e.Provider == "" {
		return e.API
	}
	return e.Provider + " " + e.API
}

// Unwrap gives ErrFormat.
func (e *FormatError) Unwrap() error { return ErrFormat }

func some(fields []string) string {
	if len(fields) == 0 {
		return "no fields"
	}
	more := ""
	if len(fields) > 12 {
		more = fmt.Sprintf(" and %d more", len(fields)-12)
		fields = fields[:12]
	}
	short := make([]string, len(fields))
	for i, f := range fields {
		short[i] = strings.ToValidUTF8(f[:min(len(f), 64)], "")
	}
	return strings.Join(short, ", ") + more
}

// FieldError says what is wrong with a field of a payload.
type FieldError struct {
	Field   string // such as `usage.prompt_tokens`; empty for the whole
	Problem string
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("%v: the payload %s", ErrInvalid, e.Problem)
	}
	return fmt.Sprintf("%v: %s %s", ErrInvalid, e.Field, e.Problem)
}

// Unwrap gives ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

func invalid(field, problem string, args ...any) error {
	return &FieldError{field, fmt.Sprintf(problem, args...)}
}

// Read reads the usage of a provider's API: the usage object, the response that holds it, or the events of a stream
// (server-sent events, lines of JSON, or a list), also of one that broke off. Without an API, the format is told by the
// fields. The payload keeps raw. Errors: *FormatError, *FieldError, which wraps ErrInvalid.
func Read(provider, api string, raw []byte) (*Payload, error) {
	raw = bytes.TrimSpace(bytes.TrimPrefix(raw, []byte("\ufeff")))
	p := &Payload{Raw: raw}
	v := vendorOf(provider)
	p.Provider = v.id
	f, err := v.format(api)
	if err != nil {
		return nil, err
	}
	body, usage, path, err := p.open(raw)
	if err != nil {
		return nil, err
	}
	p.fields = usage
	if f == nil {
		if f = detect(v, usage); f == nil {
			return nil, p.unknown("", "")
		}
	}
	p.API = f.name
	if f.in != nil && !f.in(usage) {
		return nil, p.unknown(f.name, f.missing)
	}
	o := object{usage, path, &err}
	p.context(body, o)
	f.read(v, o, p)
	if err != nil {
		return nil, err
	}
	if err := p.Usage.Validate(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Payload) unknown(api, missing string) error {
	return &FormatError{Provider: p.Provider, API: api, Missing: missing, Seen: p.fields.keys(), Known: formatNames(), Broken: p.Partial}
}

// Unknown names the fields of the usage object that have no meaning here.
func (p *Payload) Unknown() []string { return p.fields.unread("", nil) }

// elsewhere are fields by which other APIs count what must be paid.
var elsewhere = []string{
	"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
	"inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens",
}

// Strict refuses a payload with counts that its API does not have: it comes from another, and would be settled too low.
// It also refuses what another model used, which has a price of its own. Error: *FieldError.
func (p *Payload) Strict() error {
	for i := range p.fields.kids {
		if k := &p.fields.kids[i]; !k.read && slices.Contains(elsewhere, k.key) && !k.is('n') && string(k.raw) != "0" {
			return invalid(k.key, "is %.40s, and the api %s has no such field: name the api that the usage comes from", k.raw, p.API)
		}
	}
	for _, o := range p.Others {
		return invalid(o.Field, "was used by %s, which has another price: settle without it, and record it as usage of that model", o.Model)
	}
	return nil
}

// context reads what a response says beside the counts.
func (p *Payload) context(body *node, o object) {
	for _, at := range [...]*node{body, body.find("response"), body.at("response", "body"), body.find("message"), body.find("result"), body.at("result", "message")} {
		for _, key := range [...]string{"model", "modelVersion", "model_version", "modelId"} {
			if p.Model == "" {
				p.Model = at.find(key).text()
			}
		}
		for _, key := range [...]string{"service_tier", "serviceTier"} {
			if p.ServiceTier != "" {
				break
			}
			if n := at.find(key); n.is('{') {
				p.ServiceTier = tier(n.find("type").text()) // Bedrock
			} else {
				p.ServiceTier = tier(n.text())
			}
		}
	}
	for _, key := range [...]string{"service_tier", "serviceTier", "trafficType", "traffic_type"} {
		if t := tier(o.str(key)); t != "" {
			p.ServiceTier = t
		}
	}
	// Anthropic's fast mode has rates of its own, as a service tier has.
	if speed := o.str("speed"); speed != "" && speed != "standard" {
		p.ServiceTier = tier(speed)
	}
	if r := strings.ToLower(o.str("inference_geo")); r != "not_available" && r != "global" {
		p.Region = r
	}
}

// tier gives a vendor's service tier the name that prices know it by.
func tier(name string) string {
	name = strings.ToLower(name)
	switch name {
	case "default", "on_demand", "auto", "traffic_type_unspecified", "service_tier_unspecified", "unspecified":
		return "standard"
	case "on_demand_flex":
		return "flex"
	case "on_demand_priority":
		return "priority"
	case "provisioned_throughput":
		return "provisioned"
	}
	return name
}
