// Package usage says what a call used, in units that do not overlap.
package usage

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Usage is what one call used. Every token is counted in one field only; ContextOverheadTokens and RetrievalHops are
// for reports and are not priced.
type Usage struct {
	InputTokens           int64 // neither read from nor written to a cache; without audio and image
	CacheReadTokens       int64
	CacheWrite5mTokens    int64
	CacheWrite1hTokens    int64
	OutputTokens          int64 // without reasoning, audio and image
	ReasoningTokens       int64
	AudioInputTokens      int64
	AudioOutputTokens     int64
	AudioCacheReadTokens  int64 // audio input read from a cache
	ImageInputTokens      int64
	ImageOutputTokens     int64
	ContextOverheadTokens int64
	RetrievalHops         int64
	EmbeddingTokens       int64
	VectorQueries         int64
	ToolCalls             map[string]int64
	GPUMilliseconds       int64  // 0: derived from the tokens where the price says how
	Accelerator           string // of the GPU time; empty where not said, and in sums over several
	StorageBytes          int64
	EgressBytes           int64
}

// The largest counts that are believed.
const (
	MaxTokens = 1_000_000_000_000
	MaxCalls  = 1_000_000_000
	MaxBytes  = 1_000_000_000_000_000

	maxAccelerator = 64 // characters
)

// ErrInvalid is wrapped by every error of Validate.
var ErrInvalid = errors.New("invalid usage")

// Validate refuses negative and absurd counts.
func (u *Usage) Validate() error {
	if !u.within() {
		bad := *u // so that what is valid need not be on the heap
		for _, f := range bad.counts() {
			if *f.n < 0 || *f.n > f.most {
				return fmt.Errorf("%w: %s is %d, it must be 0 to %d", ErrInvalid, f.name, *f.n, f.most)
			}
		}
	}
	if len(u.Accelerator) > maxAccelerator && utf8.RuneCountInString(u.Accelerator) > maxAccelerator {
		return fmt.Errorf("%w: accelerator has %d characters, at most %d are allowed", ErrInvalid, utf8.RuneCountInString(u.Accelerator), maxAccelerator)
	}
	for tool, n := range u.ToolCalls {
		if n < 0 || n > MaxCalls {
			return fmt.Errorf("%w: tool_calls[%s] is %d, it must be 0 to %d", ErrInvalid, tool, n, MaxCalls)
		}
	}
	if in := u.AllInput(); u.ContextOverheadTokens > in {
		return fmt.Errorf("%w: context_overhead_tokens is %d, more than the %d input tokens that it is a share of", ErrInvalid, u.ContextOverheadTokens, in)
	}
	return nil
}

// AllInput is the sum of the input classes.
func (u *Usage) AllInput() int64 {
	return u.InputTokens + u.CacheReadTokens + u.CacheWrite5mTokens + u.CacheWrite1hTokens + u.AudioInputTokens +
		u.AudioCacheReadTokens + u.ImageInputTokens
}

// AllOutput is the sum of the output classes.
func (u *Usage) AllOutput() int64 {
	return u.OutputTokens + u.ReasoningTokens + u.AudioOutputTokens + u.ImageOutputTokens
}

// Outcome says how the user's task ended.
type Outcome int32

// Outcomes, numbered as in the API.
const (
	OutcomeUnknown Outcome = iota
	OutcomeSuccess
	OutcomeFailure
)
