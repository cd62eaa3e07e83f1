package convert

import (
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// CallFromProto converts a call with its estimate; its complexity may come from the features of its prompt. It shares the call's labels, capabilities, tool calls
// and prefix hashes.
func CallFromProto(dst *routing.Call, p *chartergatev1.Call) error {
	estimate, err := EstimateFromProto(p.GetEstimate())
	if err != nil {
		return err
	}
	if n := len(p.GetPrefixHashes()); n > 0 && p.GetPrefixBlockTokens() == 0 {
		return &charter.InvalidError{
			Name: "call", Field: "prefix_block_tokens",
			Problem: fmt.Sprintf("is 0: say how many tokens each of the %d blocks of prefix_hashes has", n),
		}
	}
	*dst = routing.Call{
		Feature: p.GetFeature(), TaskClass: p.GetTaskClass(), Complexity: Complexity(p),
		Capabilities: p.GetRequiredCapabilities(), Estimate: estimate, User: p.GetUser(), Cohort: p.GetCohort(),
		Agent: p.GetAgent(), Run: p.GetRun(), PromptPattern: p.GetPromptPattern(), Task: p.GetTask(), Model: p.GetModel(), Tier: p.GetTier(),
		Labels: p.GetLabels(), ServiceTier: p.GetServiceTier(), Region: p.GetRegion(),
		LatencyTarget: time.Duration(p.GetLatencyTargetMilliseconds()) * time.Millisecond, Residency: p.GetResidency(),
		Prefix: usage.Prefix{Hashes: p.GetPrefixHashes(), BlockTokens: int64(p.GetPrefixBlockTokens())},
	}
	if p.GetRecordedTime() != nil {
		dst.Recorded = p.GetRecordedTime().AsTime()
	}
	return nil
}

// EstimateFromProto converts an estimate; nil is the estimate of nothing.
func EstimateFromProto(p *chartergatev1.Estimate) (routing.Estimate, error) {
	left := p.GetInputTokens() - p.GetCachedInputTokens()
	if left < 0 {
		return routing.Estimate{}, &charter.InvalidError{
			Name: "call", Field: "estimate.cached_input_tokens",
			Problem: fmt.Sprintf("is %d, more than the %d input_tokens that it is a part of", p.CachedInputTokens, p.InputTokens),
		}
	}
	for _, f := range [...]struct {
		name string
		n    int64
	}{{"cache_write_5m_tokens", p.GetCacheWrite_5MTokens()}, {"cache_write_1h_tokens", p.GetCacheWrite_1HTokens()}} {
		if left -= f.n; left < 0 {
			return routing.Estimate{}, &charter.InvalidError{
				Name: "call", Field: "estimate." + f.name,
				Problem: fmt.Sprintf("is %d, %d more than is left of the %d input_tokens that are read from and written to caches", f.n, -left, p.GetInputTokens()),
			}
		}
	}
	return routing.Estimate{
		InputTokens: p.GetInputTokens(), CachedInputTokens: p.GetCachedInputTokens(),
		CacheWrite5mTokens: p.GetCacheWrite_5MTokens(), CacheWrite1hTokens: p.GetCacheWrite_1HTokens(),
		MaxOutputTokens: p.GetMaxOutputTokens(), RetrievalHops: p.GetRetrievalHops(),
		EmbeddingTokens: p.GetEmbeddingTokens(), VectorQueries: p.GetVectorQueries(), ToolCalls: p.GetToolCalls(),
		GPUMilliseconds: p.GetGpuMilliseconds(), Accelerator: p.GetAccelerator(), StorageBytes: p.GetStorageBytes(), EgressBytes: p.GetEgressBytes(),
	}, nil
}

// UsageToProto converts a usage. It shares the usage's tool calls.
func UsageToProto(u *usage.Usage) *chartergatev1.Usage {
	return &chartergatev1.Usage{
		InputTokens: u.InputTokens, CacheReadTokens: u.CacheReadTokens, CacheWrite_5MTokens: u.CacheWrite5mTokens,
		CacheWrite_1HTokens: u.CacheWrite1hTokens, OutputTokens: u.OutputTokens, ReasoningTokens: u.ReasoningTokens,
		AudioInputTokens: u.AudioInputTokens, AudioOutputTokens: u.AudioOutputTokens,
		AudioCacheReadTokens: u.AudioCacheReadTokens, ImageInputTokens: u.ImageInputTokens, ImageOutputTokens: u.ImageOutputTokens,
		ContextOverheadTokens: u.ContextOverheadTokens, RetrievalHops: u.RetrievalHops,
		EmbeddingTokens: u.EmbeddingTokens, VectorQueries: u.VectorQueries, ToolCalls: u.ToolCalls,
		GpuMilliseconds: u.GPUMilliseconds, Accelerator: u.Accelerator, StorageBytes: u.StorageBytes, EgressBytes: u.EgressBytes,
	}
}

// UsedFromProto converts what a call used, which the client or the provider has counted. Errors: *usage.FormatError,
// usage.ErrInvalid, wrapped.
func UsedFromProto(p *chartergatev1.Usage, raw *chartergatev1.RawUsage) (usage.Usage, error) {
	if raw == nil {
		return UsageFromProto(p)
	}
	read, err := RawUsageFromProto(raw)
	if err != nil {
		return usage.Usage{}, err
	}
	return read.Usage, nil
}

// RawUsageFromProto reads what a provider says. Errors as UsedFromProto.
func RawUsageFromProto(raw *chartergatev1.RawUsage) (*usage.Payload, error) {
	read, err := usage.Read(raw.GetProvider(), raw.GetApi(), []byte(raw.GetJson()))
	if err == nil {
		err = read.Strict()
	}
	return read, err
}

// UsageFromProto converts a usage; nil is none. Its errors wrap usage.ErrInvalid.
func UsageFromProto(p *chartergatev1.Usage) (usage.Usage, error) {
	u := usage.Usage{
		InputTokens: p.GetInputTokens(), CacheReadTokens: p.GetCacheReadTokens(),
		CacheWrite5mTokens: p.GetCacheWrite_5MTokens(), CacheWrite1hTokens: p.GetCacheWrite_1HTokens(),
		OutputTokens: p.GetOutputTokens(), ReasoningTokens: p.GetReasoningTokens(),
		AudioInputTokens: p.GetAudioInputTokens(), AudioOutputTokens: p.GetAudioOutputTokens(),
		AudioCacheReadTokens: p.GetAudioCacheReadTokens(), ImageInputTokens: p.GetImageInputTokens(),
		ImageOutputTokens:     p.GetImageOutputTokens(),
		ContextOverheadTokens: p.GetContextOverheadTokens(), RetrievalHops: p.GetRetrievalHops(),
		EmbeddingTokens: p.GetEmbeddingTokens(), VectorQueries: p.GetVectorQueries(), ToolCalls: p.GetToolCalls(),
		GPUMilliseconds: p.GetGpuMilliseconds(), Accelerator: p.GetAccelerator(), StorageBytes: p.GetStorageBytes(), EgressBytes: p.GetEgressBytes(),
	}
	return u, u.Validate()
}
