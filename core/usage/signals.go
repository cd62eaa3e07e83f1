package usage

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"sync"
	"time"
)

// Cache lives that providers sell, from the last use of a prefix.
const (
	ShortCache = 5 * time.Minute
	LongCache  = time.Hour
)

// Limits of a Prefix.
const (
	MaxPrefixBlocks = 512
	MaxBlockTokens  = 65_536
)

// Prefix is how a prompt begins, without the prompt: fingerprints of its consecutive blocks. Two prompts begin alike as
// far as their first fingerprints are the same.
type Prefix struct {
	Hashes      []uint64
	BlockTokens int64 // in each block; the last may have fewer
}

// MinCacheable is the fewest tokens that a provider caches of a prompt, by its own documentation; 0 where none is known.
//
//   - OpenAI, also on Azure: 1,024.
//   - Anthropic, also on Bedrock and Vertex: 4,096 for Opus from 4.5 on and Haiku 4.5, 2,048 for Sonnet 4.6 and older
//     Haikus, else 1,024.
//   - Gemini: 1,024 for Flash, 4,096 for Pro.
func MinCacheable(provider, model string) int64 {
	has := func(part string) bool { return strings.Contains(model, part) }
	switch {
	case has("claude") || provider == "anthropic":
		switch {
		case has("haiku-4") || has("opus-4-5") || has("opus-4-6") || has("opus-4.5") || has("opus-4.6"):
			return 4096
		case has("haiku") || has("sonnet-4-6") || has("sonnet-4.6"):
			return 2048
		}
		return 1024
	case has("gemini"):
		if has("pro") {
			return 4096
		}
		return 1024
	case has("gpt") || provider == "openai" || provider == "azure":
		return 1024
	}
	return 0
}

// CallSignals are the signals of one call.
type CallSignals struct {
	Flags        SignalFlags
	RepeatTokens int64
	LateTokens   int64
	RunGrowth    int64
	Untrimmed    int64 // input tokens of the estimate, where the decision said to trim the context; 0 where it did not
}

// SignalFlags say which counts of Signals a call adds one to.
type SignalFlags uint8

// Flags, numbered as in hold tokens and the journal.
const (
	Prefixed SignalFlags = 1 << iota
	Repeated
	LateRepeat
	StaleRepeat
	PrefixChanged
	ShortPrompt
	RunCall
)

// Add adds the signals of a call that used so many input tokens.
func (s *Signals) Add(c *CallSignals, input int64) {
	for _, f := range [...]struct {
		flag SignalFlags
		n    *int64
	}{
		{Prefixed, &s.Prefixed}, {Repeated, &s.Repeats}, {LateRepeat, &s.LateRepeats}, {StaleRepeat, &s.StaleRepeats},
		{PrefixChanged, &s.PrefixChanges}, {ShortPrompt, &s.ShortPrompts}, {RunCall, &s.RunCalls},
	} {
		if c.Flags&f.flag != 0 {
			*f.n++
		}
	}
	s.RepeatTokens += c.RepeatTokens
	s.LateTokens += c.LateTokens
	s.RunGrowth += c.RunGrowth
	if c.Untrimmed > 0 {
		s.TrimCalls++
		s.TrimmedTokens += max(0, c.Untrimmed-input)
	}
}

// SignalCall is what signals are taken from.
type SignalCall struct {
	Feature, PromptPattern, Run string
	Provider, Model             string // that serve the call
	InputTokens                 int64
	Prefix                      Prefix
	At                          time.Time
}

// What a Tracker remembers, least recently used out first within sets of 4: about 9 MiB in all, taken when the first
// call needs it.
const (
	TrackedBlocks   = 1 << 19 // prefix blocks: 268 million tokens in blocks of 512
	TrackedPatterns = 1 << 13 // features' prompt patterns
	TrackedRuns     = 1 << 15
)

// Tracker takes the signals of calls in the order in which one server sees them. Prefixes are compared within the model
// that serves a call, across features, as providers do. The zero value is ready; it is safe for concurrent use.
type Tracker struct {
	mu       sync.Mutex
	seed     maphash.Seed
	blocks   lru // value: when it was last sent, in Unix milliseconds
	patterns lru
	runs     lru // value: input tokens of its last call
}

// Take gives a call's signals and remembers the call. It does nothing for a call with neither prefix nor run. It takes
// about 20 ns a block, and allocates only the first time.
func (t *Tracker) Take(c *SignalCall) CallSignals {
	var s CallSignals
	if len(c.Prefix.Hashes) == 0 && c.Run == "" {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.blocks == nil {
		t.seed = maphash.MakeSeed()
		t.blocks, t.patterns, t.runs = make(lru, TrackedBlocks/ways), make(lru, TrackedPatterns/ways), make(lru, TrackedRuns/ways)
	}
	if c.Run != "" {
		if last, ok := t.runs.swap(t.pair(c.Feature, c.Run), c.InputTokens); ok {
			s.Flags |= RunCall
			s.RunGrowth = max(0, c.InputTokens-last)
		}
	}
	if len(c.Prefix.Hashes) > 0 {
		t.prefix(&s, c)
	}
	return s
}

func (t *Tracker) prefix(s *CallSignals, c *SignalCall) {
	s.Flags |= Prefixed
	now := c.At.UnixMilli()
	var short, long, ever int64 // leading blocks that were sent within each time
	blocks := int64(min(len(c.Prefix.Hashes), MaxPrefixBlocks))
	h := maphash.String(t.seed, c.Model)
	for i := range blocks {
		h = mix(h, c.Prefix.Hashes[i])
		last, ok := t.blocks.swap(h, now)
		if !ok {
			continue
		}
		age := time.Duration(now-last) * time.Millisecond
		if ever == i {
			ever++
		}
		if long == i && age <= LongCache {
			long++
		}
		if short == i && age <= ShortCache {
			short++
		}
	}
	least := max(1, MinCacheable(c.Provider, c.Model))
	tokens := func(blocks int64) int64 { // that a provider would read
		if n := min(blocks*c.Prefix.BlockTokens, c.InputTokens); n >= least {
			return n
		}
		return 0
	}
	_, known := t.patterns.swap(t.pair(c.Feature, c.PromptPattern), 0)
	s.RepeatTokens = tokens(short)
	s.LateTokens = tokens(long) - s.RepeatTokens
	switch {
	case c.InputTokens < least:
		s.Flags |= ShortPrompt
	case tokens(ever) == 0:
		if known {
			s.Flags |= PrefixChanged
		}
	default:
		s.Flags |= Repeated
		if s.RepeatTokens == 0 {
			s.Flags |= LateRepeat
			if s.LateTokens == 0 {
				s.Flags |= StaleRepeat
			}
		}
	}
}

func (t *Tracker) pair(a, b string) uint64 {
	return mix(maphash.String(t.seed, a), maphash.String(t.seed, b))
}

// mix folds b into a: the halves of a 128-bit product of the two.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xe7037ed1a0b428db)
	return hi ^ lo ^ a
}

// lru is a table of keys in sets; each set has its most recently used first.
type lru [][ways]struct {
	key   uint64 // 0: free
	value int64
}

const ways = 4

// swap sets the value of a key and gives the one before. The length of t is a power of two.
func (t lru) swap(key uint64, value int64) (before int64, ok bool) {
	key |= 1 // free slots have 0
	set := &t[(key>>1)&uint64(len(t)-1)]
	i := 0
	for i < ways-1 && set[i].key != key {
		i++
	}
	before, ok = set[i].value, set[i].key == key
	copy(set[1:i+1], set[:i])
	set[0].key, set[0].value = key, value
	if !ok {
		before = 0
	}
	return before, ok
}
