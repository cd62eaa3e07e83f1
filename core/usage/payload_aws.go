package usage

import "strings"

// What is in what, at Bedrock's Converse (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html)
// and in what Nova answers InvokeModel with:
//
//	inputTokens            input that is neither read from nor written to the cache
//	cacheReadInputTokens   beside inputTokens
//	cacheWriteInputTokens  beside inputTokens; cacheDetails tells how much of it by time to live
//	outputTokens           all output
func readConverse(_ *vendor, o object, p *Payload) {
	u := &p.Usage
	u.InputTokens, u.OutputTokens = o.count("inputTokens"), o.count("outputTokens")
	u.CacheReadTokens = o.count("cacheReadInputTokens", "cacheReadInputTokenCount")
	written := o.count("cacheWriteInputTokens", "cacheWriteInputTokenCount")
	for _, d := range o.list("cacheDetails") {
		switch n, ttl := d.count("inputTokens"), d.str("ttl"); ttl {
		case "1h":
			u.CacheWrite1hTokens += n
		default:
			u.CacheWrite5mTokens += n
		}
	}
	o.ttls(u, "cacheWriteInputTokens", written)
	o.count("totalTokens")
	p.tool("web_search", o.object("serverToolUsage").count("webSearchRequests", "web_search_requests"))
}

// readMetrics reads amazon-bedrock-invocationMetrics, of the last event of InvokeModelWithResponseStream.
func readMetrics(_ *vendor, o object, p *Payload) {
	p.Usage = Usage{
		InputTokens: o.count("inputTokenCount"), OutputTokens: o.count("outputTokenCount"),
		CacheReadTokens:    o.count("cacheReadInputTokenCount"),
		CacheWrite5mTokens: o.count("cacheWriteInputTokenCount"),
	}
}

const bedrockHeader = "x-amzn-bedrock-"

func hasHeaders(n *node) bool {
	for i := range n.kids {
		if strings.EqualFold(n.kids[i].key, bedrockHeader+"input-token-count") || strings.EqualFold(n.kids[i].key, bedrockHeader+"output-token-count") {
			return true
		}
	}
	return false
}

// readHeaders reads the headers of InvokeModel's response as an object: their counts are strings.
func readHeaders(_ *vendor, o object, p *Payload) {
	counts := map[string]*int64{
		"input-token-count": &p.Usage.InputTokens, "output-token-count": &p.Usage.OutputTokens,
		"cache-read-input-token-count": &p.Usage.CacheReadTokens, "cache-write-input-token-count": &p.Usage.CacheWrite5mTokens,
	}
	for i := range o.kids {
		k := &o.kids[i]
		to := counts[strings.TrimPrefix(strings.ToLower(k.key), bedrockHeader)]
		if to == nil || k.is('n') {
			continue
		}
		k.read = true
		n := *k
		if text := k.text(); text != "" {
			n.raw = []byte(text)
		}
		*to = o.number(k.key, &n)
	}
}

// readTitan: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-text.html; embeddings have
// inputTextTokenCount alone.
func readTitan(_ *vendor, o object, p *Payload) {
	p.Usage.InputTokens = o.count("inputTextTokenCount")
	p.Usage.OutputTokens = o.count("totalOutputTextTokenCount")
	for _, r := range o.list("results") {
		p.Usage.OutputTokens += r.count("tokenCount")
	}
}

// readLlama: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-meta.html.
func readLlama(_ *vendor, o object, p *Payload) {
	p.Usage.InputTokens, p.Usage.OutputTokens = o.count("prompt_token_count"), o.count("generation_token_count")
}
