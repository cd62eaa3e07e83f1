package usage

import (
	"slices"
	"strings"
)

// format is how one API counts.
type format struct {
	name    string
	aliases []string
	missing string           // what in looks for
	in      func(*node) bool // whether a usage object has its fields
	read    func(*vendor, object, *Payload)
}

func all(keys ...string) func(*node) bool {
	return func(n *node) bool {
		return !slices.ContainsFunc(keys, func(k string) bool { return n.find(k) == nil })
	}
}

func anyOf(keys ...string) func(*node) bool {
	return func(n *node) bool { return slices.ContainsFunc(keys, func(k string) bool { return n.find(k) != nil }) }
}

// formats are in the order in which an unnamed one is looked for: what has more of its own first.
var formats = []*format{
	{"llama", nil, "prompt_token_count and generation_token_count", all("prompt_token_count", "generation_token_count"), readLlama},
	{"gemini", []string{"generate-content", "generatecontent", "generate_content", "stream_generate_content", "vertex", "live"},
		"promptTokenCount or candidatesTokenCount", anyOf("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount", "cachedContentTokenCount", "responseTokenCount", "prompt_token_count", "candidates_token_count", "total_token_count"), readGemini},
	{"converse", []string{"converse_stream", "bedrock", "nova"}, "inputTokens and outputTokens", all("inputTokens", "outputTokens"), readConverse},
	{"invocation-metrics", []string{"invocation_metrics"}, "inputTokenCount and outputTokenCount", all("inputTokenCount", "outputTokenCount"), readMetrics},
	{"headers", []string{"bedrock-headers"}, "x-amzn-bedrock-input-token-count", hasHeaders, readHeaders},
	{"titan", nil, "inputTextTokenCount", anyOf("inputTextTokenCount"), readTitan},
	{"ollama", nil, "eval_count or prompt_eval_count", anyOf("eval_count", "prompt_eval_count"), readOllama},
	{"billed-units", []string{"billed_units"}, "billed_units", anyOf("billed_units"), readBilledUnits},
	{"tokens", nil, "tokens or cached_tokens", anyOf("tokens", "cached_tokens"), readCohereTokens},
	{"chat", []string{"chat.completions", "chat_completions", "chat-completions", "completion", "completions", "openai"},
		"prompt_tokens and completion_tokens", all("prompt_tokens", "completion_tokens"), readChat},
	{"realtime", []string{"transcription", "transcriptions", "audio", "speech"}, "input_tokens or output_tokens", anyOf("input_tokens", "output_tokens"), readRealtime},
	{"images", []string{"image", "image_generation"}, "input_tokens and output_tokens", all("input_tokens", "output_tokens"), readImages},
	{"anthropic", []string{"messages", "claude", "invoke_anthropic", "anthropic_messages"}, "input_tokens and output_tokens", all("input_tokens", "output_tokens"), readAnthropic},
	{"responses", []string{"response", "decisions", "systemone"}, "input_tokens and output_tokens", all("input_tokens", "output_tokens"), readResponses},
	{"embeddings", []string{"embedding", "embed", "rerank"}, "prompt_tokens or total_tokens", anyOf("prompt_tokens", "total_tokens"), readEmbeddings},
}

func formatNames() []string {
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = f.name
	}
	slices.Sort(names)
	return names
}

var byName = func() map[string]*format {
	m := map[string]*format{}
	for _, f := range formats {
		m[f.name] = f
		for _, a := range f.aliases {
			m[a] = f
		}
	}
	return m
}()

// Where a chat API says how many tokens were read from a cache, and whether reasoning is within completion_tokens.
type chatStyle struct {
	cached    string // a field of usage; empty: prompt_tokens_details.cached_tokens
	both      bool   // prompt_tokens_details too, and first
	uncached  bool   // what is cached is billed as any input
	reasoning int
}

const (
	within      = iota // completion_tokens has it, as at OpenAI
	besides            // completion_tokens_details.reasoning_tokens is added to completion_tokens
	besidesFlat        // usage.reasoning_tokens is added to completion_tokens, as is citation_tokens
)

// vendor is how a provider differs from the rest.
type vendor struct {
	id      string
	aliases []string
	apis    map[string]string // formats by the names that an API has at this provider; `default` where none is named
	chat    chatStyle
	flat    chatStyle // of the default API, where it is a chat API of its own
}

func defaults(format string) map[string]string { return map[string]string{"default": format} }

// vendors have the ids of genai-prices. A provider that is not listed is read as OpenAI's.
var vendors = []*vendor{
	{id: "openai", aliases: []string{"open-ai", "openai-chat", "openai-responses"}},
	{id: "azure", aliases: []string{"azure-openai", "azureopenai", "azure-ai", "azure-foundry", "azure-ai-foundry", "microsoft"}},
	// https://docs.claude.com/en/api/openai-sdk: cached_tokens stands beside prompt_tokens
	{id: "anthropic", aliases: []string{"claude"}, apis: defaults("anthropic"), chat: chatStyle{cached: "cached_tokens"}},
	{id: "google", aliases: []string{"gemini", "vertex", "vertexai", "vertex-ai", "google-vertex", "google-vertexai", "google-gla", "google-genai", "google-ai", "google-ai-studio", "gcp", "gcp.gemini", "gcp.vertex-ai", "gcp.gen-ai"},
		apis: defaults("gemini")},
	{id: "aws", aliases: []string{"bedrock", "aws-bedrock", "amazon", "amazon-bedrock", "aws.bedrock", "bedrock-converse"},
		apis: map[string]string{"default": "converse", "invoke": "", "invoke-model": "", "invokemodel": ""}},
	{id: "cohere", apis: map[string]string{"default": "billed-units", "embeddings": "billed-units", "embed": "billed-units", "chat": "billed-units", "rerank": "billed-units"}},
	// https://docs.mistral.ai/api: as OpenAI; num_cached_tokens is of the engine and has no rate
	{id: "mistral", aliases: []string{"mistralai", "mistral-ai"}, apis: defaults("chat")},
	// https://api-docs.deepseek.com: prompt_tokens = prompt_cache_hit_tokens + prompt_cache_miss_tokens
	{id: "deepseek", chat: chatStyle{cached: "prompt_cache_hit_tokens", both: true}},
	{id: "groq", apis: defaults("chat")},
	// https://docs.x.ai/docs/guides/reasoning: completion_tokens has no reasoning, total_tokens has; the older API counts flat
	{id: "x-ai", aliases: []string{"xai", "grok"}, apis: defaults("chat"), chat: chatStyle{reasoning: besides},
		flat: chatStyle{cached: "cached_prompt_text_tokens", reasoning: besidesFlat}},
	// https://docs.perplexity.ai: citation_tokens and reasoning_tokens are billed beside completion_tokens; there is no cache
	{id: "perplexity", aliases: []string{"perplexity-ai", "pplx"}, apis: defaults("chat"), chat: chatStyle{uncached: true, reasoning: besidesFlat}},
	// https://inference-docs.cerebras.ai: cached tokens are billed as any input
	{id: "cerebras", chat: chatStyle{uncached: true}},
	// https://platform.moonshot.ai/docs/api/chat: cached_tokens stands beside prompt_tokens
	{id: "moonshotai", aliases: []string{"moonshot", "moonshot-ai", "kimi"}, chat: chatStyle{cached: "cached_tokens", both: true}},
	{id: "together", aliases: []string{"together-ai", "togetherai"}, chat: chatStyle{cached: "cached_tokens", both: true}},
	{id: "minimax", apis: defaults("anthropic")},
	// https://docs.databricks.com: Claude's cache reads stand beside prompt_tokens, and are part of them
	{id: "databricks", apis: defaults("chat"), chat: chatStyle{cached: "cache_read_input_tokens", both: true}},
	{id: "openrouter", aliases: []string{"open-router"}, apis: defaults("")},
	{id: "fireworks", aliases: []string{"fireworks-ai"}}, {id: "zhipuai", aliases: []string{"zhipu", "bigmodel"}},
	{id: "zai", aliases: []string{"z-ai", "z.ai"}}, {id: "voyageai", aliases: []string{"voyage", "voyage-ai"}, apis: defaults("embeddings")},
	{id: "ollama", apis: defaults("")}, {id: "arcee", apis: defaults("chat")}, {id: "cloudflare", apis: defaults("chat")},
	{id: "avian"}, {id: "doubleword"}, {id: "novita", aliases: []string{"novita-ai"}}, {id: "ovhcloud", aliases: []string{"ovh"}},
	{id: "modal"}, {id: "vllm"}, {id: "baseten"}, {id: "github-copilot"}, {id: "meta"},
}

var byVendor = func() map[string]*vendor {
	m := map[string]*vendor{}
	for _, v := range vendors {
		m[v.id] = v
		for _, a := range v.aliases {
			m[a] = v
		}
	}
	return m
}()

func vendorOf(provider string) *vendor {
	if v := byVendor[provider]; v != nil {
		return v
	}
	name := strings.ToLower(strings.TrimSpace(provider))
	if v := byVendor[name]; v != nil {
		return v
	}
	if v := byVendor[strings.ReplaceAll(name, "_", "-")]; v != nil {
		return v
	}
	return &vendor{id: name}
}

// format finds an API by its name; nil: the fields tell.
func (v *vendor) format(api string) (*format, error) {
	name := strings.ToLower(strings.TrimSpace(api))
	if v.flat != (chatStyle{}) && name == "default" {
		return &format{name: "default", missing: "prompt_tokens and completion_tokens", in: all("prompt_tokens", "completion_tokens"),
			read: func(v *vendor, o object, p *Payload) { readChat(&vendor{id: v.id, chat: v.flat}, o, p) }}, nil
	}
	for _, name := range [...]string{name, strings.ReplaceAll(name, "_", "-")} {
		if known, ok := v.apis[name]; ok {
			return byName[known], nil
		}
		if name == "" || name == "default" || name == "auto" {
			return nil, nil
		}
		if f := byName[name]; f != nil {
			return f, nil
		}
	}
	return nil, &FormatError{Provider: v.id, API: api, Known: formatNames()}
}

// detect tells the format by the fields.
func detect(v *vendor, n *node) *format {
	if f := byName[v.apis["default"]]; f != nil && f.in(n) {
		return f
	}
	for _, f := range formats {
		if !f.in(n) {
			continue
		}
		switch f.name {
		case "tokens":
			if !n.find("tokens").is('{') {
				continue
			}
		case "realtime":
			if n.find("input_token_details") == nil && n.find("output_token_details") == nil {
				continue
			}
		case "images":
			if n.at("input_tokens_details", "image_tokens") == nil {
				continue
			}
		case "anthropic":
			if v.id != "aws" && !anyOf("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "server_tool_use")(n) {
				continue
			}
		}
		return f
	}
	return nil
}
