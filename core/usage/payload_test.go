package usage

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// What each vendor includes in what.
func TestPayloads(t *testing.T) {
	for _, c := range []struct {
		name, provider, api, payload string
		want                         Usage
	}{
		{"openai chat: cached, audio and reasoning are parts", "openai", "chat",
			`{"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":60,"audio_tokens":10},"completion_tokens_details":{"reasoning_tokens":20,"audio_tokens":5,"accepted_prediction_tokens":3,"rejected_prediction_tokens":2}}}`,
			Usage{InputTokens: 30, CacheReadTokens: 60, AudioInputTokens: 10, OutputTokens: 25, ReasoningTokens: 20, AudioOutputTokens: 5}},
		{"openai chat: audio that must be cached", "openai", "",
			`{"prompt_tokens":100,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":95,"audio_tokens":10}}`,
			Usage{CacheReadTokens: 90, AudioCacheReadTokens: 5, AudioInputTokens: 5, OutputTokens: 1}},
		{"openai chat: cache writes are a part", "openai", "chat",
			`{"prompt_tokens":4020,"completion_tokens":4,"prompt_tokens_details":{"cache_write_tokens":4012,"cached_tokens":0}}`,
			Usage{InputTokens: 8, CacheWrite5mTokens: 4012, OutputTokens: 4}},
		{"openai chat: null details, counts with a point", "OpenAI", "chat",
			`{"usage":{"prompt_tokens":12.0,"completion_tokens":3,"prompt_tokens_details":null,"completion_tokens_details":null}}`,
			Usage{InputTokens: 12, OutputTokens: 3}},
		{"openai responses", "openai", "responses",
			`{"model":"gpt-5","usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":40},"output_tokens":30,"output_tokens_details":{"reasoning_tokens":10},"total_tokens":130}}`,
			Usage{InputTokens: 60, CacheReadTokens: 40, OutputTokens: 20, ReasoningTokens: 10}},
		{"openai realtime", "openai", "realtime",
			`{"type":"response.done","response":{"usage":{"total_tokens":275,"input_tokens":127,"output_tokens":148,"input_token_details":{"cached_tokens":64,"text_tokens":119,"audio_tokens":8,"cached_tokens_details":{"text_tokens":60,"audio_tokens":4}},"output_token_details":{"text_tokens":36,"audio_tokens":112}}}}`,
			Usage{InputTokens: 59, CacheReadTokens: 60, AudioCacheReadTokens: 4, AudioInputTokens: 4, OutputTokens: 36, AudioOutputTokens: 112}},
		{"openai images", "openai", "images",
			`{"usage":{"total_tokens":100,"input_tokens":50,"output_tokens":50,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}`,
			Usage{InputTokens: 10, ImageInputTokens: 40, ImageOutputTokens: 50}},
		{"openai embeddings", "openai", "embeddings", `{"usage":{"prompt_tokens":8,"total_tokens":8}}`, Usage{InputTokens: 8}},
		{"voyage embeddings", "voyage", "", `{"usage":{"total_tokens":10}}`, Usage{InputTokens: 10}},
		{"openai batch line", "openai", "", `{"custom_id":"a","response":{"status_code":200,"body":{"model":"gpt-4o","usage":{"prompt_tokens":5,"completion_tokens":6}}}}`,
			Usage{InputTokens: 5, OutputTokens: 6}},
		{"anthropic: caches beside, thinking inside", "anthropic", "default",
			`{"usage":{"input_tokens":10,"cache_read_input_tokens":1000,"cache_creation_input_tokens":300,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":50,"output_tokens_details":{"thinking_tokens":20},"server_tool_use":{"web_search_requests":2,"web_fetch_requests":3},"service_tier":"batch","inference_geo":"us"}}`,
			Usage{InputTokens: 10, CacheReadTokens: 1000, CacheWrite5mTokens: 100, CacheWrite1hTokens: 200, OutputTokens: 30, ReasoningTokens: 20, ToolCalls: map[string]int64{"web_search": 2}, RetrievalHops: 3}},
		{"anthropic: writes without their time to live", "azure", "anthropic", `{"input_tokens":1,"output_tokens":2,"cache_creation_input_tokens":7}`,
			Usage{InputTokens: 1, CacheWrite5mTokens: 7, OutputTokens: 2}},
		{"anthropic's openai api: cached_tokens beside its details", "anthropic", "chat", `{"prompt_tokens":10,"completion_tokens":5,"cached_tokens":4}`,
			Usage{InputTokens: 6, CacheReadTokens: 4, OutputTokens: 5}},
		{"gemini: cached inside, thoughts and tool results beside", "google", "default",
			`{"usageMetadata":{"promptTokenCount":100,"cachedContentTokenCount":30,"candidatesTokenCount":20,"thoughtsTokenCount":40,"toolUsePromptTokenCount":15,"totalTokenCount":175,"promptTokensDetails":[{"modality":"TEXT","tokenCount":50},{"modality":"AUDIO","tokenCount":25},{"modality":"IMAGE","tokenCount":20},{"modality":"VIDEO","tokenCount":5}],"cacheTokensDetails":[{"modality":"AUDIO","tokenCount":10},{"modality":"IMAGE","tokenCount":20}],"toolUsePromptTokensDetails":[{"modality":"TEXT","tokenCount":15}],"candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":12}]}}`,
			Usage{InputTokens: 70, CacheReadTokens: 20, AudioCacheReadTokens: 10, AudioInputTokens: 15, OutputTokens: 8, ImageOutputTokens: 12, ReasoningTokens: 40}},
		{"gemini of an SDK", "vertex_ai", "generateContent", `{"usage_metadata":{"prompt_token_count":5,"candidates_token_count":7,"total_token_count":12,"traffic_type":"ON_DEMAND_FLEX"}}`,
			Usage{InputTokens: 5, OutputTokens: 7}},
		{"gemini live", "gemini", "live", `{"usageMetadata":{"promptTokenCount":10,"responseTokenCount":8,"responseTokensDetails":[{"modality":"AUDIO","tokenCount":8}]}}`,
			Usage{InputTokens: 10, AudioOutputTokens: 8}},
		{"converse", "bedrock", "converse",
			`{"usage":{"inputTokens":3,"outputTokens":288,"totalTokens":2365,"cacheReadInputTokens":10,"cacheWriteInputTokens":2074,"cacheReadInputTokenCount":10,"cacheWriteInputTokenCount":2074,"cacheDetails":[{"inputTokens":2000,"ttl":"1h"},{"inputTokens":74,"ttl":"5m"}]}}`,
			Usage{InputTokens: 3, CacheReadTokens: 10, CacheWrite5mTokens: 74, CacheWrite1hTokens: 2000, OutputTokens: 288}},
		{"nova through InvokeModel", "aws", "invoke", `{"usage":{"inputTokens":5,"outputTokens":6,"cacheReadInputTokenCount":2,"cacheWriteInputTokenCount":1}}`,
			Usage{InputTokens: 5, OutputTokens: 6, CacheReadTokens: 2, CacheWrite5mTokens: 1}},
		{"claude through InvokeModel", "aws", "invoke-model", `{"usage":{"input_tokens":5,"output_tokens":6}}`, Usage{InputTokens: 5, OutputTokens: 6}},
		{"titan through InvokeModel", "aws", "invoke", `{"inputTextTokenCount":5,"results":[{"tokenCount":3,"outputText":"a"},{"tokenCount":4}]}`, Usage{InputTokens: 5, OutputTokens: 7}},
		{"llama through InvokeModel", "aws", "invoke", `{"generation":"hi","prompt_token_count":5,"generation_token_count":3,"stop_reason":"stop"}`, Usage{InputTokens: 5, OutputTokens: 3}},
		{"mistral through InvokeModel", "aws", "invoke", `{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}`, Usage{InputTokens: 5, OutputTokens: 3}},
		{"headers of InvokeModel", "aws", "headers", `{"X-Amzn-Bedrock-Input-Token-Count":"12","X-Amzn-Bedrock-Output-Token-Count":"7","X-Amzn-Bedrock-Cache-Read-Input-Token-Count":"3"}`,
			Usage{InputTokens: 12, OutputTokens: 7, CacheReadTokens: 3}},
		{"cohere v2", "cohere", "default", `{"usage":{"billed_units":{"input_tokens":9,"output_tokens":4},"tokens":{"input_tokens":70,"output_tokens":6},"cached_tokens":60}}`, Usage{InputTokens: 9, OutputTokens: 4}},
		{"cohere v2, what the model saw", "cohere", "tokens", `{"usage":{"billed_units":{"input_tokens":9,"output_tokens":4},"tokens":{"input_tokens":70,"output_tokens":6},"cached_tokens":60}}`,
			Usage{InputTokens: 10, CacheReadTokens: 60, OutputTokens: 6}},
		{"cohere v1", "cohere", "", `{"meta":{"billed_units":{"input_tokens":9.0,"output_tokens":4}}}`, Usage{InputTokens: 9, OutputTokens: 4}},
		{"cohere rerank", "cohere", "rerank", `{"meta":{"billed_units":{"search_units":2}}}`, Usage{ToolCalls: map[string]int64{"search_unit": 2}}},
		{"deepseek", "deepseek", "chat", `{"prompt_tokens":100,"completion_tokens":5,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}`,
			Usage{InputTokens: 36, CacheReadTokens: 64, OutputTokens: 5}},
		{"moonshot", "moonshot", "chat", `{"prompt_tokens":100,"completion_tokens":5,"cached_tokens":64}`, Usage{InputTokens: 36, CacheReadTokens: 64, OutputTokens: 5}},
		{"xai: reasoning beside", "xai", "chat", `{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"completion_tokens_details":{"reasoning_tokens":94}}`,
			Usage{InputTokens: 32, OutputTokens: 9, ReasoningTokens: 94}},
		{"xai's older api", "x-ai", "default", `{"prompt_tokens":32,"completion_tokens":9,"cached_prompt_text_tokens":2,"reasoning_tokens":4}`,
			Usage{InputTokens: 30, CacheReadTokens: 2, OutputTokens: 9, ReasoningTokens: 4}},
		{"perplexity: citations and reasoning beside", "perplexity", "default", `{"prompt_tokens":33,"completion_tokens":7163,"total_tokens":7196,"citation_tokens":20016,"num_search_queries":18,"reasoning_tokens":73995}`,
			Usage{InputTokens: 33, OutputTokens: 27179, ReasoningTokens: 73995, ToolCalls: map[string]int64{"web_search": 18}}},
		{"a server that counts reasoning beside, as its total says", "vllm", "chat", `{"prompt_tokens":10,"completion_tokens":5,"total_tokens":35,"completion_tokens_details":{"reasoning_tokens":20}}`,
			Usage{InputTokens: 10, OutputTokens: 5, ReasoningTokens: 20}},
		{"cerebras bills cached tokens as input", "cerebras", "chat", `{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8}}`, Usage{InputTokens: 10, OutputTokens: 5}},
		{"vllm", "vllm", "", `{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":8}}}`, Usage{InputTokens: 2, CacheReadTokens: 8, OutputTokens: 5}},
		{"groq's last chunk", "groq", "", `{"x_groq":{"id":"r","usage":{"queue_time":0.1,"prompt_tokens":10,"completion_tokens":5,"total_time":0.2}}}`, Usage{InputTokens: 10, OutputTokens: 5}},
		{"ollama", "ollama", "", `{"model":"llama3","done":true,"prompt_eval_count":26,"eval_count":298,"eval_duration":4709213000}`, Usage{InputTokens: 26, OutputTokens: 298}},
		{"a provider of one's own", "our-cluster", "chat", `{"prompt_tokens":1,"completion_tokens":2}`, Usage{InputTokens: 1, OutputTokens: 2}},
		{"no provider", "", "", `{"usage":{"input_tokens":3,"output_tokens":2}}`, Usage{InputTokens: 3, OutputTokens: 2}},
	} {
		p, err := Read(c.provider, c.api, []byte(c.payload))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !reflect.DeepEqual(p.Usage, c.want) || p.Partial {
			t.Errorf("%s: %+v, want %+v", c.name, p.Usage, c.want)
		}
	}
}

const claudeStream = `event: message_start
data: {"type":"message_start","message":{"model":"claude-sonnet-4-5","stop_reason":null,"usage":{"input_tokens":25,"cache_read_input_tokens":5,"output_tokens":1,"service_tier":"priority"}}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi } \" there"}}

`
const claudeEnd = `event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}

event: message_stop
data: {"type":"message_stop"}
`

func TestStreams(t *testing.T) {
	chunk := `data: {"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}` + "\n\n"
	for _, c := range []struct {
		name, provider, stream string
		want                   Usage
		model                  string
		partial                bool
	}{
		{"anthropic", "anthropic", claudeStream + claudeEnd, Usage{InputTokens: 25, CacheReadTokens: 5, OutputTokens: 15}, "claude-sonnet-4-5", false},
		{"anthropic, interrupted", "anthropic", claudeStream, Usage{InputTokens: 25, CacheReadTokens: 5, OutputTokens: 1}, "claude-sonnet-4-5", true},
		{"anthropic, cut within an event", "anthropic", claudeStream + claudeEnd[:40], Usage{InputTokens: 25, CacheReadTokens: 5, OutputTokens: 1}, "claude-sonnet-4-5", true},
		{"openai", "openai", chunk + `data: {"model":"gpt-4o","choices":[],"usage":{"prompt_tokens":8,"completion_tokens":2}}` + "\n\ndata: [DONE]\n", Usage{InputTokens: 8, OutputTokens: 2}, "gpt-4o", false},
		{"vllm, which counts as it goes, interrupted", "vllm", strings.Replace(chunk, `"usage":null`, `"usage":{"prompt_tokens":8,"completion_tokens":1}`, 1), Usage{InputTokens: 8, OutputTokens: 1}, "gpt-4o", true},
		{"responses", "openai", "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-5\",\"usage\":null}}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5\",\"usage\":{\"input_tokens\":3,\"input_tokens_details\":{\"cached_tokens\":1},\"output_tokens\":4}}}\n",
			Usage{InputTokens: 2, CacheReadTokens: 1, OutputTokens: 4}, "gpt-5", false},
		{"gemini as SSE", "google", `data: {"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":4,"totalTokenCount":4},"modelVersion":"gemini-2.5-flash"}` + "\r\n\r\n" +
			`data: {"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":9,"thoughtsTokenCount":2}}` + "\r\n\r\n", Usage{InputTokens: 4, OutputTokens: 9, ReasoningTokens: 2}, "gemini-2.5-flash", false},
		{"gemini as a list that broke off", "google", `[{"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":1}},` + "\n" + `{"candidates":[{"fini`, Usage{InputTokens: 4, OutputTokens: 1}, "", true},
		{"gemini as a list", "google", `[{"usageMetadata":{"promptTokenCount":4}}, {"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":9}}]`, Usage{InputTokens: 4, OutputTokens: 9}, "", false},
		{"converse", "aws", `{"messageStart":{"role":"assistant"}}` + "\n" + `{"messageStop":{"stopReason":"end_turn"}}` + "\n" + `{"metadata":{"usage":{"inputTokens":4,"outputTokens":9,"totalTokens":13},"metrics":{"latencyMs":5}}}`, Usage{InputTokens: 4, OutputTokens: 9}, "", false},
		{"claude on bedrock has metrics too", "aws", strings.Replace(claudeStream+claudeEnd, `{"type":"message_stop"}`, `{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":25,"outputTokenCount":15}}`, 1),
			Usage{InputTokens: 25, CacheReadTokens: 5, OutputTokens: 15}, "claude-sonnet-4-5", false},
		{"llama on bedrock", "aws", `{"generation":"a","prompt_token_count":5,"generation_token_count":1,"stop_reason":null}` + "\n" + `{"generation":"b","prompt_token_count":null,"generation_token_count":2,"stop_reason":"stop"}`, Usage{InputTokens: 5, OutputTokens: 2}, "", false},
		{"cohere", "cohere", `data: {"type":"content-delta","delta":{"message":{}}}` + "\n" + `data: {"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":1,"output_tokens":2}}}}`, Usage{InputTokens: 1, OutputTokens: 2}, "", false},
		{"ollama", "ollama", `{"model":"m","done":false}` + "\n" + `{"model":"m","done":true,"prompt_eval_count":1,"eval_count":2}`, Usage{InputTokens: 1, OutputTokens: 2}, "m", false},
	} {
		p, err := Read(c.provider, "", []byte(c.stream))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !reflect.DeepEqual(p.Usage, c.want) || p.Partial != c.partial || p.Model != c.model {
			t.Errorf("%s: %+v of %q, partial %v; want %+v", c.name, p.Usage, p.Model, p.Partial, c.want)
		}
	}
	_, err := Read("openai", "chat", []byte(chunk))
	if f, ok := errors.AsType[*FormatError](err); !ok || !f.Broken {
		t.Errorf("a stream without usage gives %v", err)
	}
}

func TestPayloadContext(t *testing.T) {
	p, err := Read("anthropic", "messages", []byte(claudeStream))
	if err != nil || p.ServiceTier != "priority" {
		t.Errorf("tier %q (%v)", p.ServiceTier, err)
	}
	p, err = Read("bedrock", "", []byte(`{"serviceTier":{"type":"flex"},"usage":{"inputTokens":1,"outputTokens":1}}`))
	if err != nil || p.ServiceTier != "flex" || p.Provider != "aws" || p.API != "converse" {
		t.Errorf("%+v (%v)", p, err)
	}
	p, err = Read("vertex", "", []byte(`{"modelVersion":"m","usageMetadata":{"promptTokenCount":1,"trafficType":"ON_DEMAND_PRIORITY","newCount":5,"nested":{"a":1}}}`))
	if err != nil || p.ServiceTier != "priority" || p.Provider != "google" || p.Model != "m" || !slices.Equal(p.Unknown(), []string{"newCount", "nested"}) {
		t.Errorf("%+v (%v) does not know %v", p, err, p.Unknown())
	}
	p, err = Read("anthropic", "", []byte(`{"model":"claude-sonnet-5","usage":{"input_tokens":10,"output_tokens":5,"speed":"fast","inference_geo":"us","iterations":[{"type":"message","input_tokens":10,"output_tokens":5},{"type":"advisor_message","model":"claude-opus-4-8","input_tokens":7,"output_tokens":1}]}}`))
	if err != nil || p.ServiceTier != "fast" || p.Region != "us" || len(p.Others) != 1 || p.Others[0].Model != "claude-opus-4-8" || p.Others[0].Usage.InputTokens != 7 || p.Usage.InputTokens != 10 {
		t.Errorf("%+v (%v)", p, err)
	} else if err := p.Strict(); err == nil || !strings.Contains(err.Error(), "usage.iterations[1] was used by claude-opus-4-8") {
		t.Errorf("strict: %v", err)
	}
	p, err = Read("openai", "embeddings", []byte(`{"prompt_tokens":5,"completion_tokens":3}`))
	if err != nil || p.Usage.InputTokens != 5 {
		t.Errorf("%+v (%v)", p, err)
	} else if err := p.Strict(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "completion_tokens is 3") {
		t.Errorf("strict: %v", err)
	}
}

func TestPayloadsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		provider, api, payload string
		kind                   error
		says                   string
	}{
		{"openai", "chat", `{"usage":{"prompt_tokens":-5,"completion_tokens":1}}`, ErrInvalid, "usage.prompt_tokens is -5, a count is not negative"},
		{"openai", "chat", `{"usage":{"prompt_tokens":5.5,"completion_tokens":1}}`, ErrInvalid, "usage.prompt_tokens is 5.5, a count is a whole number"},
		{"openai", "chat", `{"usage":{"prompt_tokens":99999999999999999999,"completion_tokens":1}}`, ErrInvalid, "more than the 1000000000000 that are believed"},
		{"openai", "chat", `{"usage":{"prompt_tokens":"12","completion_tokens":1}}`, ErrInvalid, "usage.prompt_tokens is a string, not a count"},
		{"openai", "chat", `{"usage":{"prompt_tokens":10,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":11}}}`, ErrInvalid, "usage.prompt_tokens_details.cached_tokens is 11, more than the 10 of prompt_tokens"},
		{"openai", "chat", `{"usage":{"prompt_tokens":10,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":6,"cache_write_tokens":5}}}`, ErrInvalid, "cached_tokens is 6, with the 5 of cache_write_tokens more than the 10"},
		{"openai", "chat", `{"prompt_tokens":10,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}`, ErrInvalid, "completion_tokens_details.reasoning_tokens is 2, more than the 1 of completion_tokens"},
		{"openai", "chat", `{"prompt_tokens":10,"completion_tokens":1,"prompt_tokens_details":[]}`, ErrInvalid, "prompt_tokens_details is a list, not an object"},
		{"anthropic", "", `{"input_tokens":1,"output_tokens":1,"cache_creation_input_tokens":5,"cache_creation":{"ephemeral_1h_input_tokens":6}}`, ErrInvalid, "cache_creation_input_tokens is 5, less than the 0 tokens for 5 minutes and the 6 for 1 hour"},
		{"google", "", `{"usageMetadata":{"promptTokenCount":5,"cachedContentTokenCount":6}}`, ErrInvalid, "usageMetadata.cachedContentTokenCount is 6, more than the 5 of promptTokenCount"},
		{"google", "", `{"usageMetadata":{"promptTokenCount":5,"promptTokensDetails":[{"modality":"TEXT","tokenCount":6}]}}`, ErrInvalid, "usageMetadata.promptTokensDetails adds up to 6, more than promptTokenCount, which is 5"},
		{"google", "", `{"usageMetadata":{"promptTokenCount":5,"promptTokensDetails":[{"modality":"TEXT","tokenCount":-6}]}}`, ErrInvalid, "usageMetadata.promptTokensDetails[0].tokenCount is -6"},
		{"cohere", "tokens", `{"usage":{"tokens":{"input_tokens":5},"cached_tokens":6}}`, ErrInvalid, "usage.cached_tokens is 6, more than the 5 of tokens.input_tokens"},
		{"openai", "chat", `{"input_tokens":5,"output_tokens":3}`, ErrFormat, "usage of openai chat has prompt_tokens and completion_tokens, the payload has input_tokens, output_tokens; known: anthropic, billed-units"},
		{"openai", "telepathy", `{"input_tokens":5}`, ErrFormat, `there is no api "telepathy"; known: `},
		{"", "", `{"wisdom":5,"joy":3}`, ErrFormat, "the payload has wisdom, joy, and no format"},
		{"openai", "", `{"usage":{"type":"duration","seconds":12}}`, ErrFormat, "the payload has type, seconds"},
		{"openai", "", ``, ErrInvalid, "the payload is empty"},
		{"openai", "", `null`, ErrInvalid, "the payload is null, not an object"},
		{"openai", "", `{"usage":`, ErrInvalid, "the payload is not JSON: unexpected end of JSON input"},
		{"openai", "", strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), ErrInvalid, "nests more than 64 deep"},
	} {
		p, err := Read(c.provider, c.api, []byte(c.payload))
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.80s: %v (%+v), want %q", c.payload, err, p, c.says)
		}
	}
}

// Whatever comes, nothing panics and no class is negative; what is known to be parts and wholes adds up.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		claudeStream + claudeEnd, `{"usage":{"prompt_tokens":100,"completion_tokens":50,"prompt_tokens_details":{"cached_tokens":95,"audio_tokens":10,"image_tokens":9,"cache_write_tokens":1},"completion_tokens_details":{"reasoning_tokens":20}}}`,
		`{"usageMetadata":{"promptTokenCount":5,"cachedContentTokenCount":4,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":2}],"cacheTokensDetails":[{"modality":"AUDIO","tokenCount":2}]}}`,
		`[{"usageMetadata":{"promptTokenCount":4}}`, `{"usage":{"inputTokens":1,"outputTokens":2,"cacheDetails":[{"ttl":"1h","inputTokens":2}]}}`, "data: {}", `{"a":[[[]]],"b":"\u00e9\""}`, `{"meta":{"tokens":1}}`,
		`{"input_tokens":5,"output_tokens":3,"input_token_details":{"audio_tokens":3,"cached_tokens":4,"cached_tokens_details":{"audio_tokens":3}}}`,
	} {
		f.Add(s, uint8(0), uint8(0))
	}
	apis := append(formatNames(), "", "default", "invoke")
	f.Fuzz(func(t *testing.T, raw string, provider, api uint8) {
		p, err := Read(vendors[int(provider)%len(vendors)].id, apis[int(api)%len(apis)], []byte(raw))
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		for _, c := range p.Usage.counts() {
			if *c.n < 0 {
				t.Fatalf("%s is %d", c.name, *c.n)
			}
		}
		p.Unknown()
		_ = p.Strict()
		var n error
		o := object{p.fields, "", &n}
		switch in, out := p.Usage.AllInput(), p.Usage.AllOutput(); p.API {
		case "chat":
			if in != o.count("prompt_tokens") || out < o.count("completion_tokens") {
				t.Fatalf("%d and %d of %s", in, out, raw)
			}
		case "responses", "realtime", "images":
			if in != o.count("input_tokens") || out < o.count("output_tokens") {
				t.Fatalf("%d and %d of %s", in, out, raw)
			}
		case "gemini":
			prompt, tools := o.count("promptTokenCount", "prompt_token_count"), o.count("toolUsePromptTokenCount", "tool_use_prompt_token_count")
			if in != prompt+tools || out < o.count("candidatesTokenCount", "candidates_token_count", "responseTokenCount", "response_token_count") {
				t.Fatalf("%d and %d of %s", in, out, raw)
			}
		case "anthropic":
			if in-p.Usage.CacheReadTokens-p.Usage.CacheWrite1hTokens-p.Usage.CacheWrite5mTokens != o.count("input_tokens") || out != o.count("output_tokens") {
				t.Fatalf("%d and %d of %s", in, out, raw)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	raw := []byte(`{"model":"claude-sonnet-4-5","usage":{"input_tokens":10,"cache_read_input_tokens":1000,"cache_creation_input_tokens":300,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":50,"server_tool_use":{"web_search_requests":0,"web_fetch_requests":0},"service_tier":"standard"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read("anthropic", "default", raw); err != nil {
			b.Fatal(err)
		}
	}
}
