package usage

// What is in what, at Cohere (https://docs.cohere.com/reference/chat, …/embed, …/rerank): billed_units are what is paid
// for, `tokens` what the model saw, with its template; cached_tokens are a part of tokens.input_tokens and have no part in
// billed_units. Rerank is billed by search_units, classify by classifications.
func readBilledUnits(_ *vendor, o object, p *Payload) {
	billed := o.object("billed_units")
	p.Usage.InputTokens, p.Usage.OutputTokens = billed.count("input_tokens"), billed.count("output_tokens")
	p.Usage.ImageInputTokens = billed.count("image_tokens")
	p.tool("search_unit", billed.count("search_units"))
	p.tool("classification", billed.count("classifications"))
}

// readCohereTokens reads what the model saw.
func readCohereTokens(_ *vendor, o object, p *Payload) {
	seen := o.object("tokens")
	input, cached := seen.count("input_tokens"), o.count("cached_tokens")
	if cached > input {
		o.within(o, "cached_tokens", "", cached, 0, "tokens.input_tokens", input)
	}
	p.Usage.InputTokens, p.Usage.CacheReadTokens = input-cached, cached
	p.Usage.OutputTokens = seen.count("output_tokens")
}
