// Command seed makes the shipped price list from a genai-prices data.json: go run ./seed FROM TO.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// main providers; resellers of others' models are left out.
var providers = []string{"anthropic", "aws", "azure", "cohere", "deepseek", "google", "groq", "mistral", "moonshotai", "openai", "perplexity", "voyageai", "x-ai", "zhipuai"}

// keep is what finding and pricing a model needs.
var keep = []string{"id", "match", "prices"}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	var kept []map[string]any
	for _, p := range list {
		var id string
		if err := json.Unmarshal(p["id"], &id); err != nil || !slices.Contains(providers, id) {
			continue
		}
		var all []map[string]json.RawMessage
		if err := json.Unmarshal(p["models"], &all); err != nil {
			return err
		}
		var models []map[string]json.RawMessage
		for _, m := range all {
			if string(m["deprecated"]) == "true" || string(m["prices"]) == "{}" {
				continue
			}
			less := map[string]json.RawMessage{}
			for _, k := range keep {
				less[k] = m[k]
			}
			models = append(models, less)
		}
		out := map[string]any{"models": models}
		for _, k := range []string{"id", "pricing_urls", "provider_match", "model_match", "fallback_model_providers"} {
			if v, ok := p[k]; ok {
				out[k] = v
			}
		}
		kept = append(kept, out)
	}
	out, err := json.MarshalIndent(map[string]any{
		"date":   info.ModTime().UTC().Format(time.DateOnly),
		"source": "pydantic/genai-prices, prices/data.json, Copyright (c) Pydantic Services Inc., MIT licence (seed/LICENSE)", "providers": kept,
	}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(to, append(out, '\n'), 0o644)
}
