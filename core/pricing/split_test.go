package pricing

import (
	"testing"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

func TestSplitSaysWhereACostFalls(t *testing.T) {
	p := New("m", day, "USD", map[Unit]money.Nanos{
		Input: 1e6, Output: 10e6, Embedding: 2e6, VectorQuery: 3e6, GPUMillisecond: 3600000, StorageByte: 1e6, Request: 7e6,
		AudioInput: 4e6, AudioOutput: 5e6,
	})
	p.Tools, p.OverheadPPM = map[string]money.Nanos{"search": 100e6}, 100_000
	u := usage.Usage{
		InputTokens: 100, AudioCacheReadTokens: 10, ImageInputTokens: 10, OutputTokens: 3, ImageOutputTokens: 2, AudioOutputTokens: 1,
		EmbeddingTokens: 5, VectorQueries: 1, ToolCalls: map[string]int64{"search": 2}, GPUMilliseconds: 11, StorageBytes: 20,
		ContextOverheadTokens: 30,
	}
	total, c, err := p.Split(&u)
	want := usage.Cost{ // image at the input and output rate, cached audio at that of audio
		Input: 112, ContextOverhead: 38, Output: 55, Retrieval: 13, Tools: 200, Compute: 31, Other: 7 + 46,
	}
	if err != nil || c != want || total != 502 { // 456 and a tenth, half up
		t.Errorf("%d, %+v, %v; want %+v", total, c, err, want)
	}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = p.Split(&u) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAdditive(t *testing.T) {
	p := New("m", from(2026, 1, 1), "USD", map[Unit]money.Nanos{Input: 1_000_000, Output: 1})
	if !p.Additive(&usage.Usage{InputTokens: 1 << 40}) {
		t.Error("without thresholds")
	}
	for _, excess := range []bool{false, true} {
		if err := p.SetVariants([]Variant{{OverInput: 500, Excess: excess, Rates: map[Unit]money.Nanos{Input: 2_000_000}}}); err != nil {
			t.Fatal(err)
		}
		q, err := p.For(Terms{Time: from(2026, 1, 2)})
		if err != nil {
			t.Fatal(err)
		}
		if !q.Additive(&usage.Usage{InputTokens: 500}) || q.Additive(&usage.Usage{InputTokens: 400, CacheReadTokens: 101}) {
			t.Errorf("over 500, excess %v", excess)
		}
	}
}
