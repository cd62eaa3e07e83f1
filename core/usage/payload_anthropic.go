package usage

import "fmt"

// What is in what, at Anthropic (https://docs.claude.com/en/api/messages, …/build-with-claude/prompt-caching), the same
// on Bedrock, Vertex AI and Azure:
//
//	input_tokens                 input that is neither read from nor written to the cache
//	cache_read_input_tokens      beside input_tokens
//	cache_creation_input_tokens  beside input_tokens; cache_creation tells how much of it for 5 minutes and for 1 hour
//	output_tokens                all output; output_tokens_details.thinking_tokens is a part of it
//	server_tool_use              web searches are billed by their number; web fetches are free, and count as retrieval hops
//	iterations                   what the turns inside the call used. The counts above are the sum of those of type
//	                             `message`; a compaction is billed beside them, an advisor by the price of its own model
func readAnthropic(_ *vendor, o object, p *Payload) {
	p.Usage = anthropicCounts(o)
	tools := o.object("server_tool_use")
	p.tool("web_search", tools.count("web_search_requests"))
	p.Usage.RetrievalHops = tools.count("web_fetch_requests")
	p.tool("code_execution", tools.count("code_execution_requests"))
	for i, turn := range o.list("iterations") {
		kind := turn.str("type")
		model := turn.str("model")
		counts := anthropicCounts(turn)
		if kind != "message" && kind != "" {
			p.Others = append(p.Others, Part{fmt.Sprintf("%s[%d]", join(o.path, "iterations"), i), model, counts})
		}
	}
}

func anthropicCounts(o object) Usage {
	u := Usage{InputTokens: o.count("input_tokens"), CacheReadTokens: o.count("cache_read_input_tokens"), OutputTokens: o.count("output_tokens")}
	written := o.count("cache_creation_input_tokens")
	split := o.object("cache_creation")
	u.CacheWrite5mTokens, u.CacheWrite1hTokens = split.count("ephemeral_5m_input_tokens"), split.count("ephemeral_1h_input_tokens")
	o.ttls(&u, "cache_creation_input_tokens", written)
	u.ReasoningTokens = o.object("output_tokens_details").count("thinking_tokens", "reasoning_tokens")
	if u.ReasoningTokens > u.OutputTokens {
		o.object("output_tokens_details").within(o, "thinking_tokens", "", u.ReasoningTokens, 0, "output_tokens", u.OutputTokens)
	}
	u.OutputTokens -= u.ReasoningTokens
	return u
}

// ttls puts what a cache write says no time to live of to those for 5 minutes, the default.
func (o object) ttls(u *Usage, field string, written int64) {
	told := u.CacheWrite5mTokens + u.CacheWrite1hTokens
	if o.has(field) && told > written {
		o.fail(field, "is %d, less than the %d tokens for 5 minutes and the %d for 1 hour that are parts of it", written, u.CacheWrite5mTokens, u.CacheWrite1hTokens)
	}
	u.CacheWrite5mTokens += max(0, written-told)
}
