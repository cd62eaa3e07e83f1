package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

type callFlags struct{ *pb.Call }

// addCallFlags adds the flags that describe a call.
func addCallFlags(cmd *cobra.Command) callFlags {
	c := callFlags{&pb.Call{Estimate: &pb.Estimate{ToolCalls: map[string]int64{}}, Labels: map[string]string{}}}
	f, e := cmd.Flags(), c.Estimate
	f.StringVar(&c.Feature, "feature", "", "the feature: the id of its charter (required)")
	f.StringVar(&c.TaskClass, "task-class", "", "kind of task, such as chat, extract or code")
	f.Int32Var(&c.Complexity, "complexity", 0, "how hard it is, 1 to 100; 0: not known")
	f.StringSliceVar(&c.RequiredCapabilities, "capability", nil, "what the model must be able to do; repeatable")
	addAttributionFlags(f, &c.User, &c.Cohort, &c.Agent, &c.Run, &c.Task, &c.PromptPattern)
	addTermsFlags(f, &c.ServiceTier, &c.Region)
	f.StringVar(&c.Model, "model", "", "model that is asked for; the answer may name another")
	f.StringVar(&c.Tier, "tier", "", "tier that is asked for; the answer may name another")
	f.StringToStringVar(&c.Labels, "label", c.Labels, "attribute for policies, NAME=VALUE; repeatable")
	f.Int64Var(&e.InputTokens, "input-tokens", 0, "input tokens, cached ones included")
	f.Int64Var(&e.CachedInputTokens, "cached-tokens", 0, "the part of them that should be read from a prompt cache")
	f.Int64Var(&e.CacheWrite_5MTokens, "cache-write-5m-tokens", 0, "the part of them that will be written to a 5-minute prompt cache (default: what the decision advises)")
	f.Int64Var(&e.CacheWrite_1HTokens, "cache-write-1h-tokens", 0, "the part of them that will be written to a 1-hour prompt cache")
	f.Int64Var(&e.MaxOutputTokens, "max-output-tokens", 0, "most output tokens; 0: the model's own maximum")
	f.Int64Var(&e.RetrievalHops, "retrieval-hops", 0, "retrieval hops, one vector query each unless --vector-queries says more")
	f.Int64Var(&e.EmbeddingTokens, "embedding-tokens", 0, "tokens to embed for retrieval")
	f.Int64Var(&e.VectorQueries, "vector-queries", 0, "vector-store queries")
	f.Int64Var(&e.GpuMilliseconds, "gpu-milliseconds", 0, "GPU time of a self-hosted model; 0: derived from the tokens")
	f.StringVar(&e.Accelerator, "accelerator", "", "what the GPU time is of, as the price names it, such as h100")
	f.Int64Var(&e.StorageBytes, "storage-bytes", 0, "bytes read from storage")
	f.Int64Var(&e.EgressBytes, "egress-bytes", 0, "bytes sent out of the provider's network")
	f.Var(counts(e.ToolCalls), "tool", "calls of a tool, NAME=N; repeatable")
	return c
}

var errNoFeature = usagef("--feature is required: the id of a charter; `chartergate get charters` lists them")

// addTermsFlags are what prices depend on besides the model and the time.
func addTermsFlags(f *pflag.FlagSet, tier, region *string) {
	f.StringVar(tier, "service-tier", "", "the provider's service tier, such as batch, flex or priority (default the standard one)")
	f.StringVar(region, "region", "", "the provider's region, where prices depend on it")
}

// addAttributionFlags adds the flags that say for whom and by what a call is made.
func addAttributionFlags(f *pflag.FlagSet, user, cohort, agent, run, task, promptPattern *string) {
	f.StringVar(user, "user", "", "who is served; an opaque id")
	f.StringVar(cohort, "cohort", "", "cohort of the user")
	f.StringVar(agent, "agent", "", "agent that makes the call")
	f.StringVar(run, "run", "", "agent run that the call belongs to")
	f.StringVar(task, "task", "", "user's task that the call is part of")
	f.StringVar(promptPattern, "prompt-pattern", "", "prompt template of the call")
}

type usageFlags struct {
	*pb.Usage
	flags *pflag.FlagSet
}

// addUsageFlags adds the flags that say what a call used.
func addUsageFlags(cmd *cobra.Command) usageFlags {
	f := pflag.NewFlagSet("usage", pflag.ContinueOnError)
	u := usageFlags{&pb.Usage{ToolCalls: map[string]int64{}}, f}
	f.Int64Var(&u.InputTokens, "input-tokens", 0, "input tokens neither read from nor written to a cache")
	f.Int64Var(&u.CacheReadTokens, "cache-read-tokens", 0, "input tokens read from a prompt cache")
	f.Int64Var(&u.CacheWrite_5MTokens, "cache-write-5m-tokens", 0, "input tokens written to a 5-minute cache")
	f.Int64Var(&u.CacheWrite_1HTokens, "cache-write-1h-tokens", 0, "input tokens written to a 1-hour cache")
	f.Int64Var(&u.OutputTokens, "output-tokens", 0, "output tokens without reasoning")
	f.Int64Var(&u.ReasoningTokens, "reasoning-tokens", 0, "hidden reasoning tokens")
	f.Int64Var(&u.AudioInputTokens, "audio-input-tokens", 0, "audio tokens in")
	f.Int64Var(&u.AudioOutputTokens, "audio-output-tokens", 0, "audio tokens out")
	f.Int64Var(&u.AudioCacheReadTokens, "audio-cache-read-tokens", 0, "audio input tokens read from a cache")
	f.Int64Var(&u.ImageInputTokens, "image-input-tokens", 0, "image tokens in")
	f.Int64Var(&u.ImageOutputTokens, "image-output-tokens", 0, "image tokens out")
	f.Int64Var(&u.ContextOverheadTokens, "context-overhead-tokens", 0, "the part of the input that is history, passages and system prompt; for reports")
	f.Int64Var(&u.RetrievalHops, "retrieval-hops", 0, "retrieval hops; for reports")
	f.Int64Var(&u.EmbeddingTokens, "embedding-tokens", 0, "tokens embedded for retrieval")
	f.Int64Var(&u.VectorQueries, "vector-queries", 0, "vector-store queries")
	f.Int64Var(&u.GpuMilliseconds, "gpu-milliseconds", 0, "GPU time of a self-hosted model; 0: derived from the tokens")
	f.StringVar(&u.Accelerator, "accelerator", "", "what the GPU time is of, as the price names it, such as h100")
	f.Int64Var(&u.StorageBytes, "storage-bytes", 0, "bytes read from storage")
	f.Int64Var(&u.EgressBytes, "egress-bytes", 0, "bytes sent out of the provider's network")
	f.Var(counts(u.ToolCalls), "tool", "calls of a tool, NAME=N; repeatable")
	cmd.Flags().AddFlagSet(f)
	return u
}

// counts is a flag of NAME=N pairs.
type counts map[string]int64

func (c counts) String() string { return "" }
func (c counts) Type() string   { return "NAME=N" }

// Set adds `web_search=2`, or several with commas.
func (c counts) Set(s string) error {
	for pair := range strings.SplitSeq(s, ",") {
		name, count, ok := strings.Cut(pair, "=")
		n, err := strconv.ParseInt(count, 10, 64)
		if !ok || err != nil || name == "" {
			return fmt.Errorf("%q is not NAME=N, such as web_search=2", pair)
		}
		c[name] += n
	}
	return nil
}
