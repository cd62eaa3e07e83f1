package usage

// What is in what, at Gemini and Vertex AI (https://ai.google.dev/api/generate-content#UsageMetadata,
// https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerateContentResponse#UsageMetadata):
//
//	promptTokenCount         input, with what is read from a cache
//	cachedContentTokenCount  a part of promptTokenCount
//	toolUsePromptTokenCount  input beside promptTokenCount: what tools gave
//	candidatesTokenCount     output without thoughts (responseTokenCount in the Live API)
//	thoughtsTokenCount       output beside candidatesTokenCount
//	…TokensDetails           parts by modality; what has none is text. Documents are billed as images, video as text
func readGemini(_ *vendor, o object, p *Payload) {
	u := &p.Usage
	prompt := o.count("promptTokenCount", "prompt_token_count")
	cached := o.count("cachedContentTokenCount", "cached_content_token_count")
	tools := o.count("toolUsePromptTokenCount", "tool_use_prompt_token_count")
	output := o.count("candidatesTokenCount", "candidates_token_count", "responseTokenCount", "response_token_count")
	u.ReasoningTokens = o.count("thoughtsTokenCount", "thoughts_token_count")
	o.count("totalTokenCount", "total_token_count")

	in := o.modalities("promptTokenCount", prompt, "promptTokensDetails", "promptTokenDetails", "prompt_tokens_details")
	hit := o.modalities("cachedContentTokenCount", cached, "cacheTokensDetails", "cache_tokens_details")
	tool := o.modalities("toolUsePromptTokenCount", tools, "toolUsePromptTokensDetails", "tool_use_prompt_tokens_details")
	out := o.modalities("candidatesTokenCount", output, "candidatesTokensDetails", "candidates_tokens_details", "responseTokensDetails", "response_tokens_details")

	if cached > prompt {
		o.within(o, "cachedContentTokenCount", "", cached, 0, "promptTokenCount", prompt)
	}
	if in.audio == 0 { // not told apart: what is cached of it is
		in.audio = hit.audio
	}
	if hit.audio > in.audio {
		o.fail("cacheTokensDetails", "has %d audio tokens, more than the %d of the prompt", hit.audio, in.audio)
	}
	u.AudioCacheReadTokens = hit.audio
	u.CacheReadTokens = cached - hit.audio
	u.AudioInputTokens = in.audio - hit.audio + tool.audio
	// Where a prompt has fewer images than are cached, the vendor did not tell them apart.
	fresh := prompt - cached - (in.audio - hit.audio)
	if fresh < 0 {
		o.fail("promptTokensDetails", "has %d audio tokens, with %d cached ones more than promptTokenCount, which is %d", in.audio, cached, prompt)
		return
	}
	image := min(fresh, max(0, in.image-hit.image))
	u.ImageInputTokens = image + tool.image
	u.InputTokens = fresh - image + tools - tool.audio - tool.image
	u.AudioOutputTokens, u.ImageOutputTokens = out.audio, out.image
	u.OutputTokens = output - out.audio - out.image
}

type modalities struct{ audio, image int64 }

func (o object) modalities(field string, whole int64, keys ...string) (m modalities) {
	var sum int64
	for _, part := range o.list(keys...) {
		n := part.count("tokenCount", "token_count")
		switch part.str("modality") {
		case "AUDIO":
			m.audio += n
		case "IMAGE", "DOCUMENT":
			m.image += n
		}
		sum += n
	}
	if sum > whole {
		o.fail(keys[0], "adds up to %d, more than %s, which is %d", sum, field, whole)
	}
	return m
}
