package usage

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestSignalsOfCalls(t *testing.T) {
	const block = 512
	call := func(at time.Duration, input int64, hashes ...uint64) SignalCall {
		return SignalCall{
			Feature: "chat", PromptPattern: "v1", Provider: "openai", Model: "gpt-5", InputTokens: input,
			Prefix: Prefix{hashes, block}, At: start.Add(at),
		}
	}
	of := func(c SignalCall, change func(*SignalCall)) SignalCall { change(&c); return c }
	for _, test := range []struct {
		name  string
		calls []SignalCall
		want  CallSignals // of the last
	}{
		{"neither prefix nor run", []SignalCall{call(0, 5000)}, CallSignals{}},
		{"the first", []SignalCall{call(0, 2000, 1, 2, 3)}, CallSignals{Flags: Prefixed}},
		{"again", []SignalCall{call(0, 2000, 1, 2, 3), call(time.Minute, 3000, 1, 2, 3, 4)},
			CallSignals{Flags: Prefixed | Repeated, RepeatTokens: 1536}},
		{"no more than the prompt", []SignalCall{call(0, 1400, 1, 2, 3), call(time.Minute, 1400, 1, 2, 3)},
			CallSignals{Flags: Prefixed | Repeated, RepeatTokens: 1400}},
		{"at the last moment of 5 minutes", []SignalCall{call(0, 2000, 1, 2), call(5*time.Minute, 2000, 1, 2)},
			CallSignals{Flags: Prefixed | Repeated, RepeatTokens: 1024}},
		{"late", []SignalCall{call(0, 2000, 1, 2), call(5*time.Minute+time.Millisecond, 2000, 1, 2)},
			CallSignals{Flags: Prefixed | Repeated | LateRepeat, LateTokens: 1024}},
		{"each use counts anew", []SignalCall{call(0, 2000, 1, 2), call(4*time.Minute, 2000, 1, 2), call(8*time.Minute, 2000, 1, 2)},
			CallSignals{Flags: Prefixed | Repeated, RepeatTokens: 1024}},
		{"part of it late", []SignalCall{call(0, 2000, 1, 2, 3, 4), call(4*time.Minute, 2000, 1, 2), call(8*time.Minute, 2048, 1, 2, 3, 4)},
			CallSignals{Flags: Prefixed | Repeated, RepeatTokens: 1024, LateTokens: 1024}},
		{"stale", []SignalCall{call(0, 2000, 1, 2), call(time.Hour+time.Second, 2000, 1, 2)},
			CallSignals{Flags: Prefixed | Repeated | LateRepeat | StaleRepeat}},
		{"a repeat shorter than the provider caches", []SignalCall{call(0, 2000, 1, 2), call(0, 2000, 1, 3)},
			CallSignals{Flags: Prefixed | PrefixChanged}},
		{"changed at the top", []SignalCall{call(0, 2000, 1, 2, 3), call(0, 2000, 9, 2, 3)}, CallSignals{Flags: Prefixed | PrefixChanged}},
		{"another pattern's first", []SignalCall{call(0, 2000, 1, 2), of(call(0, 2000, 3, 4), func(c *SignalCall) { c.PromptPattern = "v2" })},
			CallSignals{Flags: Prefixed}},
		{"another feature's prefix", []SignalCall{call(0, 2000, 1, 2), of(call(0, 2000, 1, 2), func(c *SignalCall) { c.Feature = "code" })},
			CallSignals{Flags: Prefixed | Repeated, RepeatTokens: 1024}},
		{"another model's cache", []SignalCall{call(0, 2000, 1, 2), of(call(0, 2000, 1, 2), func(c *SignalCall) { c.Model = "gpt-5-mini" })},
			CallSignals{Flags: Prefixed | PrefixChanged}},
		{"short", []SignalCall{call(0, 1023, 1, 2), call(0, 1023, 1, 2)}, CallSignals{Flags: Prefixed | ShortPrompt}},
		{"short for the model", []SignalCall{
			of(call(0, 4000, 1, 2), func(c *SignalCall) { c.Provider, c.Model = "anthropic", "claude-haiku-4-5" })},
			CallSignals{Flags: Prefixed | ShortPrompt}},
		{"a run that grows", []SignalCall{
			{Feature: "chat", Run: "r", InputTokens: 100}, {Feature: "chat", Run: "s", InputTokens: 500}, {Feature: "chat", Run: "r", InputTokens: 350}},
			CallSignals{Flags: RunCall, RunGrowth: 250}},
		{"a run that shrinks", []SignalCall{{Feature: "chat", Run: "r", InputTokens: 100}, {Feature: "chat", Run: "r", InputTokens: 50}},
			CallSignals{Flags: RunCall}},
		{"the run of another feature", []SignalCall{{Feature: "chat", Run: "r", InputTokens: 100}, {Feature: "code", Run: "r", InputTokens: 150}},
			CallSignals{}},
	} {
		var tracker Tracker
		var got CallSignals
		for i := range test.calls {
			got = tracker.Take(&test.calls[i])
		}
		if got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestSumOfSignals(t *testing.T) {
	var s Signals
	s.Add(&CallSignals{255, 10, 20, 30, 100}, 60)
	s.Add(&CallSignals{Prefixed | RunCall, 1, 2, 3, 50}, 60)
	if want := (Signals{2, 1, 1, 1, 1, 1, 11, 22, 33, 2, 2, 40}); s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			t.Errorf("%s is not summed", v.Type().Field(i).Name)
		}
	}
}

// The tracker says what a table without bounds would, as long as it remembers.
func TestTrackerAgreesWithAnUnboundedTable(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var tracker Tracker
	sent := map[string]time.Time{}
	at := start
	for n := range 5000 {
		at = at.Add(time.Duration(random.Int64N(int64(30 * time.Second))))
		c := SignalCall{Feature: "f", Model: "self-hosted", At: at, Prefix: Prefix{BlockTokens: 16}, InputTokens: 16 * 20}
		path := ""
		var repeat, late int64
		for i := range 20 {
			h := uint64(random.IntN(1 + i*3))
			c.Prefix.Hashes = append(c.Prefix.Hashes, h)
			path += string(rune('a' + h))
			last, ok := sent[path]
			if ok && repeat == int64(i) && at.Sub(last) <= ShortCache {
				repeat++
			}
			if ok && late == int64(i) && at.Sub(last) <= LongCache {
				late++
			}
			sent[path] = at
		}
		got := tracker.Take(&c)
		if got.RepeatTokens != 16*repeat || got.LateTokens != 16*(late-repeat) {
			t.Fatalf("call %d: %+v, want %d and %d blocks", n, got, repeat, late-repeat)
		}
	}
}

func TestTrackerForgetsTheLeastRecent(t *testing.T) {
	table := make(lru, 1)
	for k := range uint64(4) {
		table.swap(2*k+1, int64(k))
	}
	table.swap(1, 10)
	table.swap(9, 4) // key 3 was not used for longest
	for key, want := range map[uint64]int64{1: 10, 5: 2, 7: 3, 9: 4} {
		if v, ok := table.swap(key, want); !ok || v != want {
			t.Errorf("key %d: %d, %v", key, v, ok)
		}
	}
	if _, ok := table.swap(3, 0); ok {
		t.Error("the least recently used key is still there")
	}
}

func BenchmarkTake(b *testing.B) {
	hashes := make([]uint64, 25)
	c := SignalCall{Feature: "f", PromptPattern: "p", Model: "gpt-5", InputTokens: 12_800, Prefix: Prefix{hashes, 512}, At: start}
	var t Tracker
	t.Take(&c)
	b.ReportAllocs()
	for n := range b.N {
		for i := range hashes {
			hashes[i] = uint64(n/4) + uint64(i)<<32
		}
		t.Take(&c)
	}
}
