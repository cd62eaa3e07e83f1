// Package prices reads published price lists: pydantic/genai-prices, LiteLLM's cost map, and the one in this binary.
package prices

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/pricing"
)

// Currency is what both lists are in.
const Currency = "USD"

// MaxFile is the largest price list that is read, in bytes.
const MaxFile = 64 << 20

// A Book is a price list. It is safe for concurrent use.
type Book struct {
	Source    string   // where it comes from, for people
	Info      SeedInfo // of the shipped list
	Providers []*Provider
	Skipped   []Skip // what the list has that no price can say

	mu    sync.Mutex
	found map[[2]string]*Model
}

// Provider sells models.
type Provider struct {
	ID       string
	Match    Match    // of other names of the provider
	Models   []*Model // the first that matches is meant
	Fallback []string // providers whose models it sells too

	modelMatch Match             // of models that are the provider's where none is named
	byName     map[string]*Model // where every match is of a name
}

// Model is a model with its prices.
type Model struct {
	Provider, ID string
	Match        Match
	Prices       []*pricing.Price // the oldest first; without a published date the zero time
}

// Skip is an entry that is left out.
type Skip struct{ Provider, Model, Why string }

// NotFoundError says that a price list does not have a provider or model.
type NotFoundError struct {
	Source, Provider, Model string
	NoProvider              bool
}

func (e *NotFoundError) Error() string {
	switch {
	case e.NoProvider && e.Provider == "":
		return fmt.Sprintf("%s: no provider is known for model %q: name the provider", e.Source, e.Model)
	case e.NoProvider:
		return fmt.Sprintf("%s: provider %q is unknown", e.Source, e.Provider)
	}
	return fmt.Sprintf("%s: provider %q has no model %q", e.Source, e.Provider, e.Model)
}

// Load reads a price list in genai-prices' or LiteLLM's format. An empty format is either: they are told apart.
func Load(file, format string) (*Book, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > MaxFile {
		return nil, fmt.Errorf("%s has %d bytes, a price list has at most %d", file, info.Size(), MaxFile)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Parse(file, format, data)
}

// Formats of price lists.
const (
	GenAI   = "genai-prices"
	LiteLLM = "litellm"
)

// Parse reads a price list in a format, or in either where none is given.
func Parse(source, format string, data []byte) (*Book, error) {
	if format == "" {
		format = LiteLLM
		if start := bytes.TrimLeft(data, " \t\r\n\ufeff"); len(start) > 0 && start[0] == '[' {
			format = GenAI
		}
	}
	var b *Book
	var err error
	switch format {
	case GenAI:
		b, err = readGenAI(data)
	case LiteLLM:
		b, err = readLiteLLM(data)
	default:
		err = fmt.Errorf("unknown format %q: use %s or %s", format, GenAI, LiteLLM)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	b.Source = source
	return b, nil
}

// Find gives the price of a model at a time under standard terms. Names are as in requests and answers:
// `claude-sonnet-4-5-20250929`. An empty provider is found by the model. Errors: *NotFoundError, *pricing.UnpricedError.
func (b *Book) Find(provider, model string, at time.Time) (*pricing.Price, error) {
	return b.For(provider, model, pricing.Terms{Time: at})
}

// For is Find under some terms.
func (b *Book) For(provider, model string, t pricing.Terms) (*pricing.Price, error) {
	m, err := b.Model(provider, model)
	if err != nil {
		return nil, err
	}
	for _, p := range slices.Backward(m.Prices) {
		if !p.Effective.After(t.Time) {
			return p.For(t)
		}
	}
	return nil, &pricing.UnpricedError{Model: m.ID}
}

const maxFound = 10_000

// Model finds the entry of a model. Error: *NotFoundError.
func (b *Book) Model(provider, model string) (*Model, error) {
	key := [2]string{provider, model}
	b.mu.Lock()
	m := b.found[key]
	b.mu.Unlock()
	if m != nil {
		return m, nil
	}
	m, err := b.find(strings.ToLower(strings.TrimSpace(provider)), strings.TrimSpace(model))
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.found == nil || len(b.found) >= maxFound {
		b.found = map[[2]string]*Model{}
	}
	b.found[key] = m
	return m, nil
}

func (b *Book) find(provider, model string) (*Model, error) {
	sellers := b.sellers(provider, model)
	if provider == "" { // the entry of that very name, if there is one
		for _, p := range sellers {
			if m := p.model(model); m != nil && m.ID == model {
				return m, nil
			}
		}
	}
	for _, p := range sellers {
		if m := p.model(model); m != nil {
			return m, nil
		}
	}
	for _, p := range sellers {
		for _, id := range p.Fallback {
			for _, other := range b.Providers {
				if other.ID != id {
					continue
				}
				if m := other.model(model); m != nil {
					return m, nil
				}
			}
		}
	}
	return nil, &NotFoundError{b.Source, provider, model, len(sellers) == 0}
}

// sellers are the providers that a name means, the one with that id first.
func (b *Book) sellers(provider, model string) []*Provider {
	var list []*Provider
	for _, p := range b.Providers {
		switch {
		case provider == "":
			if p.byName != nil && p.model(model) != nil || p.modelMatch.Holds(model) {
				list = append(list, p)
			}
		case p.ID == provider:
			list = slices.Insert(list, 0, p)
		case p.Match.Holds(provider):
			list = append(list, p)
		}
	}
	return list
}

func (p *Provider) model(name string) *Model {
	if p.byName != nil {
		return cmp.Or(p.byName[name], p.byName[strings.ToLower(name)])
	}
	for _, m := range p.Models {
		if m.Match.Holds(name) {
			return m
		}
	}
	return nil
}
