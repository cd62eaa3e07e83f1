package server

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// The rules of the messages that every AI call sends, written out: protovalidate takes microseconds for them. A message
// that surelyValid accepts keeps all rules of the protos; any other is left to protovalidate, which knows better and
// says what is wrong. A property test holds the two together.

// Bounds of the protos, in bytes where the protos count characters: never wider.
const (
	maxID          = 128
	maxShortID     = 64
	maxFeature     = 63
	maxToken       = 4096
	maxTokens      = 1_000_000_000_000
	maxEstimate    = 1_000_000_000
	maxCalls       = 1_000_000
	maxUsageCalls  = 1_000_000_000
	maxBytes       = 1_000_000_000_000
	maxUsageBytes  = 1_000_000_000_000_000
	maxRawUsage    = 65_536
	maxPrefix      = 512
	maxPromptCount = 65_536
	maxBlockTokens = 65_536
	maxLatency     = 3_600_000
)

func surelyValid(m proto.Message) bool {
	switch m := m.(type) {
	case *chartergatev1.CheckRequest:
		return validCall(m.Call)
	case *chartergatev1.ReserveRequest:
		return validCall(m.Call) && (m.Ttl == nil || validTTL(m.Ttl)) && len(m.RequestId) <= maxShortID
	case *chartergatev1.SettleRequest:
		return between(m.Hold, 1, maxToken) && validUse(m.Usage, m.RawUsage) && len(m.Model) <= maxID && validOutcome(m.Outcome) &&
			len(m.RequestId) <= maxShortID
	case *chartergatev1.ReleaseRequest:
		return between(m.Hold, 1, maxToken) && len(m.RequestId) <= maxShortID
	case *chartergatev1.ExtendRequest:
		return between(m.Hold, 1, maxToken) && m.Ttl != nil && validTTL(m.Ttl) && len(m.RequestId) <= maxShortID
	case *chartergatev1.RecordUsageRequest:
		return between(m.Feature, 1, maxFeature) && between(m.Model, 1, maxID) && validUse(m.Usage, m.RawUsage) &&
			len(m.User) <= maxID && len(m.Cohort) <= maxID && len(m.Agent) <= maxID && len(m.Run) <= maxID &&
			len(m.PromptPattern) <= maxID && len(m.Task) <= maxID && validOutcome(m.Outcome) && between(m.RequestId, 1, maxShortID) &&
			len(m.ServiceTier) <= maxShortID && len(m.Region) <= maxShortID
	}
	return false
}

func between(s string, least, most int) bool { return least <= len(s) && len(s) <= most }

func in(n, most int64) bool { return 0 <= n && n <= most }

func validTTL(d *durationpb.Duration) bool {
	return d.Seconds >= 1 && d.Seconds < 86_400 && d.Nanos >= 0 && d.Nanos < 1e9
}

func validOutcome(o chartergatev1.Outcome) bool {
	return o >= chartergatev1.Outcome_OUTCOME_UNSPECIFIED && o <= chartergatev1.Outcome_OUTCOME_FAILURE
}

func validCounts(m map[string]int64, pairs int, most int64) bool {
	if len(m) > pairs {
		return false
	}
	for name, n := range m {
		if !between(name, 1, maxShortID) || !in(n, most) {
			return false
		}
	}
	return true
}

func validCall(c *chartergatev1.Call) bool {
	if c == nil || !between(c.Feature, 1, maxFeature) || len(c.TaskClass) > maxShortID || !in(int64(c.Complexity), 100) ||
		len(c.User) > maxID || len(c.Cohort) > maxID || len(c.Agent) > maxID || len(c.Run) > maxID ||
		len(c.PromptPattern) > maxID || len(c.Task) > maxID || len(c.Model) > maxID || len(c.Tier) > maxShortID ||
		len(c.ServiceTier) > maxShortID || len(c.Region) > maxShortID || len(c.Residency) > maxShortID ||
		!in(int64(c.LatencyTargetMilliseconds), maxLatency) || len(c.RequiredCapabilities) > 16 || len(c.Labels) > 16 {
		return false
	}
	for _, capability := range c.RequiredCapabilities {
		if !between(capability, 1, maxShortID) {
			return false
		}
	}
	for k, v := range c.Labels {
		if !between(k, 1, maxShortID) || len(v) > maxID {
			return false
		}
	}
	if len(c.PrefixHashes) > maxPrefix || !in(int64(c.PrefixBlockTokens), maxBlockTokens) || !validPrompt(c.PromptFeatures) {
		return false
	}
	e := c.Estimate
	return e != nil && in(e.InputTokens, maxEstimate) && in(e.CachedInputTokens, maxEstimate) && in(e.CacheWrite_5MTokens, maxEstimate) && in(e.CacheWrite_1HTokens, maxEstimate) &&
		in(e.MaxOutputTokens, maxEstimate) && in(e.RetrievalHops, maxCalls) && in(e.EmbeddingTokens, maxEstimate) &&
		in(e.VectorQueries, maxCalls) && validCounts(e.ToolCalls, 32, maxCalls) && in(e.GpuMilliseconds, maxEstimate) &&
		len(e.Accelerator) <= maxShortID && in(e.StorageBytes, maxBytes) && in(e.EgressBytes, maxBytes)
}

func validPrompt(f *chartergatev1.PromptFeatures) bool {
	if f == nil {
		return true
	}
	c := f.Cues
	if c == nil {
		c = new(chartergatev1.PromptCues)
	}
	for _, n := range [...]int32{
		f.Words, f.Sentences, f.Lines, f.CodeLines, f.Digits, f.MathSigns, f.Questions, f.Choices, f.Examples, f.Constraints,
		f.Names, f.Letters, f.OtherScripts, f.Accents, c.Classify, c.Extract, c.Translate, c.Summarize, c.Rewrite, c.Explain,
		c.Write, c.Compute, c.Implement, c.Debug, c.Design, c.Prove, c.Optimize, c.Reason, c.Fact, c.AdvancedMath,
		c.ExpertScience, c.Tools,
	} {
		if !in(int64(n), maxPromptCount) {
			return false
		}
	}
	return in(f.Bytes, maxBytes)
}

func validUse(u *chartergatev1.Usage, raw *chartergatev1.RawUsage) bool {
	if raw == nil {
		return validUsage(u)
	}
	return u == nil && len(raw.Provider) <= maxShortID && len(raw.Api) <= maxShortID && between(raw.Json, 1, maxRawUsage)
}

func validUsage(u *chartergatev1.Usage) bool {
	return u != nil && in(u.InputTokens, maxTokens) && in(u.CacheReadTokens, maxTokens) &&
		in(u.CacheWrite_5MTokens, maxTokens) && in(u.CacheWrite_1HTokens, maxTokens) && in(u.OutputTokens, maxTokens) &&
		in(u.ReasoningTokens, maxTokens) && in(u.AudioInputTokens, maxTokens) && in(u.AudioOutputTokens, maxTokens) &&
		in(u.AudioCacheReadTokens, maxTokens) && in(u.ImageInputTokens, maxTokens) && in(u.ImageOutputTokens, maxTokens) &&
		in(u.ContextOverheadTokens, maxTokens) && in(u.RetrievalHops, maxUsageCalls) && in(u.EmbeddingTokens, maxTokens) &&
		in(u.VectorQueries, maxUsageCalls) && validCounts(u.ToolCalls, 32, maxUsageCalls) &&
		in(u.GpuMilliseconds, maxTokens) && len(u.Accelerator) <= maxShortID && in(u.StorageBytes, maxUsageBytes) && in(u.EgressBytes, maxUsageBytes)
}
