package usage

// MaxTools is the most tools that one usage names.
const MaxTools = 32

// count is one field of a usage with its largest value.
type count struct {
	name string
	n    *int64
	most int64
}

func (u *Usage) counts() [18]count {
	return [...]count{
		{"input_tokens", &u.InputTokens, MaxTokens},
		{"cache_read_tokens", &u.CacheReadTokens, MaxTokens},
		{"cache_write_5m_tokens", &u.CacheWrite5mTokens, MaxTokens},
		{"cache_write_1h_tokens", &u.CacheWrite1hTokens, MaxTokens},
		{"output_tokens", &u.OutputTokens, MaxTokens},
		{"reasoning_tokens", &u.ReasoningTokens, MaxTokens},
		{"audio_input_tokens", &u.AudioInputTokens, MaxTokens},
		{"audio_output_tokens", &u.AudioOutputTokens, MaxTokens},
		{"audio_cache_read_tokens", &u.AudioCacheReadTokens, MaxTokens},
		{"image_input_tokens", &u.ImageInputTokens, MaxTokens},
		{"image_output_tokens", &u.ImageOutputTokens, MaxTokens},
		{"context_overhead_tokens", &u.ContextOverheadTokens, MaxTokens},
		{"retrieval_hops", &u.RetrievalHops, MaxCalls},
		{"embedding_tokens", &u.EmbeddingTokens, MaxTokens},
		{"vector_queries", &u.VectorQueries, MaxCalls},
		{"gpu_milliseconds", &u.GPUMilliseconds, MaxTokens},
		{"storage_bytes", &u.StorageBytes, MaxBytes},
		{"egress_bytes", &u.EgressBytes, MaxBytes},
	}
}

// within says that every count but those of tools is in its bounds: what the loop over counts says, in a few
// nanoseconds.
func (u *Usage) within() bool {
	tokens := max(u.InputTokens, u.CacheReadTokens, u.CacheWrite5mTokens, u.CacheWrite1hTokens, u.OutputTokens, u.ReasoningTokens,
		u.AudioInputTokens, u.AudioOutputTokens, u.AudioCacheReadTokens, u.ImageInputTokens, u.ImageOutputTokens,
		u.ContextOverheadTokens, u.EmbeddingTokens, u.GPUMilliseconds)
	least := min(u.InputTokens, u.CacheReadTokens, u.CacheWrite5mTokens, u.CacheWrite1hTokens, u.OutputTokens, u.ReasoningTokens,
		u.AudioInputTokens, u.AudioOutputTokens, u.AudioCacheReadTokens, u.ImageInputTokens, u.ImageOutputTokens,
		u.ContextOverheadTokens, u.EmbeddingTokens, u.GPUMilliseconds, u.RetrievalHops, u.VectorQueries, u.StorageBytes, u.EgressBytes)
	return least >= 0 && tokens <= MaxTokens && max(u.RetrievalHops, u.VectorQueries) <= MaxCalls &&
		max(u.StorageBytes, u.EgressBytes) <= MaxBytes
}

// Add adds v, or changes nothing and says false where the sum would not be a valid usage. It allocates for tools that u
// does not name yet only. Both must be valid.
func (u *Usage) Add(v *Usage) bool {
	sum := Usage{
		InputTokens: u.InputTokens + v.InputTokens, CacheReadTokens: u.CacheReadTokens + v.CacheReadTokens,
		CacheWrite5mTokens: u.CacheWrite5mTokens + v.CacheWrite5mTokens, CacheWrite1hTokens: u.CacheWrite1hTokens + v.CacheWrite1hTokens,
		OutputTokens: u.OutputTokens + v.OutputTokens, ReasoningTokens: u.ReasoningTokens + v.ReasoningTokens,
		AudioInputTokens: u.AudioInputTokens + v.AudioInputTokens, AudioOutputTokens: u.AudioOutputTokens + v.AudioOutputTokens,
		AudioCacheReadTokens: u.AudioCacheReadTokens + v.AudioCacheReadTokens,
		ImageInputTokens:     u.ImageInputTokens + v.ImageInputTokens, ImageOutputTokens: u.ImageOutputTokens + v.ImageOutputTokens,
		ContextOverheadTokens: u.ContextOverheadTokens + v.ContextOverheadTokens, RetrievalHops: u.RetrievalHops + v.RetrievalHops,
		EmbeddingTokens: u.EmbeddingTokens + v.EmbeddingTokens, VectorQueries: u.VectorQueries + v.VectorQueries, ToolCalls: u.ToolCalls,
		GPUMilliseconds: u.GPUMilliseconds + v.GPUMilliseconds, StorageBytes: u.StorageBytes + v.StorageBytes,
		EgressBytes: u.EgressBytes + v.EgressBytes, Accelerator: accelerator(u, v),
	}
	if !sum.within() {
		return false
	}
	tools := len(u.ToolCalls)
	for tool, n := range v.ToolCalls {
		known, ok := u.ToolCalls[tool]
		if !ok {
			tools++
		}
		if n > MaxCalls-known {
			return false
		}
	}
	if tools > MaxTools {
		return false
	}
	*u = sum
	for tool, n := range v.ToolCalls {
		if u.ToolCalls == nil {
			u.ToolCalls = make(map[string]int64, len(v.ToolCalls))
		}
		u.ToolCalls[tool] += n
	}
	return true
}

// accelerator is that of a sum: the one of both, but what has no compute has none.
func accelerator(u, v *Usage) string {
	computes := func(u *Usage) bool { return u.GPUMilliseconds+u.AllInput()+u.AllOutput() > 0 }
	switch {
	case u.Accelerator == v.Accelerator || !computes(v):
		return u.Accelerator
	case !computes(u):
		return v.Accelerator
	}
	return ""
}

// Minus is what u has more than v; no count is below 0.
func (u *Usage) Minus(v *Usage) Usage {
	d := *u
	to, from := d.counts(), v.counts()
	for i := range to {
		*to[i].n = max(0, *to[i].n-*from[i].n)
	}
	d.ToolCalls = nil
	for tool, n := range u.ToolCalls {
		if more := n - v.ToolCalls[tool]; more > 0 {
			if d.ToolCalls == nil {
				d.ToolCalls = map[string]int64{}
			}
			d.ToolCalls[tool] = more
		}
	}
	return d
}
