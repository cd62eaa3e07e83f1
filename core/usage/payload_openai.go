package usage

// What is in what, at OpenAI (https://platform.openai.com/docs/api-reference/chat/object, …/responses/object,
// https://platform.openai.com/docs/guides/prompt-caching) and at the servers that follow it:
//
//	prompt_tokens (input_tokens)       all input; its details are parts of it: cached_tokens, cache_write_tokens,
//	                                   audio_tokens, image_tokens
//	completion_tokens (output_tokens)  all output; its details are parts of it: reasoning_tokens, audio_tokens,
//	                                   image_tokens, accepted_ and rejected_prediction_tokens (billed as output)
//
// A detail may overlap with cached_tokens: only as much as must, to fit.
type openAINames struct{ in, out, inDetails, outDetails string }

var (
	chatNames      = openAINames{"prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"}
	responsesNames = openAINames{"input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details"}
	realtimeNames  = openAINames{"input_tokens", "output_tokens", "input_token_details", "output_token_details"}
)

func readChat(v *vendor, o object, p *Payload)     { readOpenAI(v.chat, chatNames, o, p) }
func readRealtime(_ *vendor, o object, p *Payload) { readOpenAI(chatStyle{}, realtimeNames, o, p) }

func readResponses(v *vendor, o object, p *Payload) {
	readOpenAI(chatStyle{}, responsesNames, o, p)
	// Perplexity's: searches of its tools
	p.tool("web_search", o.object("tool_calls_details").object("search_web").count("invocation"))
}

// readImages: what the images API puts out without saying as what is images.
func readImages(_ *vendor, o object, p *Payload) {
	readOpenAI(chatStyle{}, responsesNames, o, p)
	if !o.has("output_tokens_details") {
		p.Usage.ImageOutputTokens, p.Usage.OutputTokens = p.Usage.OutputTokens, 0
	}
}

func readOpenAI(style chatStyle, names openAINames, o object, p *Payload) {
	u := &p.Usage
	input, output := o.count(names.in), o.count(names.out)
	in, out := o.object(names.inDetails), o.object(names.outDetails)
	o.count("total_tokens")

	// https://docs.perplexity.ai: cache_read_input_tokens in the details of its responses
	cached := in.count("cached_tokens", "cache_read_input_tokens")
	if style.cached != "" {
		if beside := o.count(style.cached); !style.both || cached == 0 {
			cached = beside
		}
	}
	if style.uncached {
		cached = 0
	}
	written := in.count("cache_write_tokens")
	if cached+written > input {
		in.within(o, "cached_tokens", "cache_write_tokens", cached, written, names.in, input)
	}
	audio, image := in.count("audio_tokens"), in.count("image_tokens")
	in.count("text_tokens")
	cachedDetails := in.object("cached_tokens_details")
	cachedAudio, cachedImage := cachedDetails.count("audio_tokens"), cachedDetails.count("image_tokens")
	cachedDetails.count("text_tokens")
	if audio+image > input {
		in.within(o, "audio_tokens", "image_tokens", audio, image, names.in, input)
	}
	if cachedAudio > min(audio, cached) || cachedImage > min(image, cached) || cachedAudio+cachedImage > cached {
		cachedDetails.fail("", "has %d audio and %d image tokens, of %d audio and %d image tokens and %d cached ones", cachedAudio, cachedImage, audio, image, cached)
	}
	// Cached audio and images are in two counts.
	audioFresh, imageFresh := audio-cachedAudio, image-cachedImage
	if over := cached + written + audioFresh + imageFresh - input; over > 0 {
		untold := cached - cachedAudio - cachedImage
		asImage := min(over, imageFresh, untold)
		asAudio := min(over-asImage, audioFresh, untold-asImage)
		imageFresh -= asImage
		audioFresh, cachedAudio = audioFresh-asAudio, cachedAudio+asAudio
		if asImage+asAudio < over {
			in.fail("audio_tokens", "is %d, with %d cached and %d written to the cache more than %s, which is %d", audio, cached, written, names.in, input)
			return
		}
	}
	u.AudioCacheReadTokens = cachedAudio
	u.CacheReadTokens = cached - cachedAudio
	u.CacheWrite5mTokens = written
	u.AudioInputTokens, u.ImageInputTokens = audioFresh, imageFresh
	u.InputTokens = input - cached - written - audioFresh - imageFresh

	reasoning := out.count("reasoning_tokens")
	switch style.reasoning {
	case besides:
		output += reasoning
	case besidesFlat:
		reasoning = o.count("reasoning_tokens")
		output += reasoning + o.count("citation_tokens")
		p.tool("web_search", o.count("num_search_queries"))
	default:
		if reasoning > output && o.count("total_tokens") == input+output+reasoning {
			output += reasoning // the total says that it stands beside the output
		}
	}
	audio, image = out.count("audio_tokens"), out.count("image_tokens")
	out.count("text_tokens", "accepted_prediction_tokens")
	out.count("rejected_prediction_tokens")
	if reasoning > output || reasoning+audio+image > output {
		out.within(o, "reasoning_tokens", "audio_tokens and image_tokens", reasoning, audio+image, names.out, output)
	}
	u.ReasoningTokens, u.AudioOutputTokens, u.ImageOutputTokens = reasoning, audio, image
	u.OutputTokens = output - reasoning - audio - image
}

// within says that two parts are more than their whole.
func (o object) within(whole object, a, b string, na, nb int64, name string, n int64) {
	path := o
	if o.node == nil {
		path = whole
	}
	if nb == 0 {
		path.fail(a, "is %d, more than the %d of %s that it is a part of", na, n, name)
		return
	}
	if na == 0 {
		path.fail(b, "is %d, more than the %d of %s that it is a part of", nb, n, name)
		return
	}
	path.fail(a, "is %d, with the %d of %s more than the %d of %s that both are a part of", na, nb, b, n, name)
}

func (p *Payload) tool(name string, n int64) {
	if n == 0 {
		return
	}
	if p.Usage.ToolCalls == nil {
		p.Usage.ToolCalls = map[string]int64{}
	}
	p.Usage.ToolCalls[name] += n
}

// readEmbeddings: all is input of the embedding model, https://platform.openai.com/docs/api-reference/embeddings. Voyage and
// Jina say total_tokens only, https://docs.voyageai.com/reference/embeddings-api.
func readEmbeddings(_ *vendor, o object, p *Payload) {
	p.Usage.InputTokens = o.count("prompt_tokens", "total_tokens")
}

// readOllama: https://github.com/ollama/ollama/blob/main/docs/api.md; prompt_eval_count is absent where all of it is cached.
func readOllama(_ *vendor, o object, p *Payload) {
	p.Usage.InputTokens, p.Usage.OutputTokens = o.count("prompt_eval_count"), o.count("eval_count")
}
