package replay

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func mix(t *testing.T, s string) Mix {
	t.Helper()
	m, err := ParseMix(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMixesPartRowsAlike(t *testing.T) {
	percent := int64(92)
	o := Options{RunID: "run", Features: mix(t, "a=3,b"), Cohorts: mix(t, "free,pro"), Tiers: mix(t, "premium=2,economy"), SuccessPercent: &percent}
	sent := func(concurrency int) map[string]proto.Message {
		o.Concurrency = concurrency
		g := newGate()
		if _, err := Run(t.Context(), o, g, numbered(2000), nil); err != nil {
			t.Fatal(err)
		}
		return g.bodies
	}
	one, many := sent(1), sent(16)
	if len(one) != 4000 || !maps.EqualFunc(one, many, proto.Equal) {
		t.Errorf("%d and %d requests, which are not the same", len(one), len(many))
	}
	counts := map[string]int{}
	for _, m := range one {
		switch m := m.(type) {
		case *pb.ReserveRequest:
			counts["feature "+m.Call.Feature]++
			counts["cohort "+m.Call.Cohort]++
			counts["tier "+m.Call.Tier]++
			counts["both "+m.Call.Feature+m.Call.Cohort]++
		case *pb.SettleRequest:
			counts[m.Outcome.String()]++
		}
	}
	for name, want := range map[string]int{
		"feature a": 1500, "feature b": 500, "cohort free": 1000, "cohort pro": 1000, "tier premium": 1333, "tier economy": 667,
		"both afree": 750, "both bpro": 250, "OUTCOME_SUCCESS": 1840, "OUTCOME_FAILURE": 160,
	} {
		if got := counts[name]; got < want-90 || got > want+90 {
			t.Errorf("%s: %d rows, want about %d", name, got, want)
		}
	}
	row, feature := o.mixed(Row{Cohort: "own", Model: "m", Outcome: OutcomeFailure}, 7)
	if row.Cohort != "own" || row.Tier != "" || row.Outcome != OutcomeFailure || feature == "" {
		t.Errorf("a row that says it itself: %+v", row)
	}
}

func TestMixesAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"a,,b": "empty name", "a,a": "twice", "a=0": "weight of a", "a=x": "weight of a", "=3": "empty name",
		strings.Join(slices.Repeat([]string{"x"}, 1), ",") + "=1000001": "weight of x",
	} {
		if _, err := ParseMix(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	high := int64(101)
	for _, o := range []Options{
		{Feature: "a", Features: mix(t, "b")}, {}, {Feature: "a", Tier: "x", Tiers: mix(t, "y")}, {Feature: "a", Cohort: "x", Cohorts: mix(t, "y")},
		{Feature: "a", SuccessPercent: &high}, {Feature: "a", CacheTTL: -1},
	} {
		o.RunID = "run"
		if o.Check() == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// What a replay says of prompt caches is what a second program says that has each model's whole past.
func TestPromptCachesOfModels(t *testing.T) {
	var rows []Row
	at := time.Duration(0)
	for i := range 3000 {
		at += time.Duration(i%7) * time.Second
		conversation, length := uint64(i%40), 3+i%11
		r := Row{At: at, InputTokens: int64(length*512 - i%100), OutputTokens: 1, PrefixBlock: 512}
		for n := range length {
			r.Prefix = append(r.Prefix, uint64(n)<<32|conversation*uint64(min(n, 1)))
		}
		rows = append(rows, r)
	}
	for _, ttl := range []time.Duration{time.Minute, 5 * time.Minute, time.Hour} {
		g := newGate()
		g.reserve = func(_ int, r *pb.ReserveRequest) (*pb.ReserveResponse, error) {
			switch n := r.Call.Estimate.InputTokens % 5; n {
			case 0:
				return refuse(pb.Effect_EFFECT_DENY), nil
			case 1:
				return allow("premium", "gpt-5"), nil
			}
			return allow("economy", "claude-haiku-4-5"), nil
		}
		o := Options{Feature: "f", RunID: "run", Concurrency: 16, CacheTTL: ttl, Recorded: time.Unix(1_800_000_000, 0),
			CacheWrites: func(model string) bool { return model == "claude-haiku-4-5" }}
		if _, err := Run(t.Context(), o, g, rowsOf(rows...), nil); err != nil {
			t.Fatal(err)
		}
		type past struct {
			at     time.Duration
			prefix []uint64
		}
		sent := map[string][]past{}
		for i, r := range rows {
			settled, _ := g.bodies[fmt.Sprintf("run-%d-s", i+1)].(*pb.SettleRequest)
			reserved := g.bodies[fmt.Sprintf("run-%d", i+1)].(*pb.ReserveRequest)
			if !slices.Equal(reserved.Call.PrefixHashes, r.Prefix) || !reserved.Call.RecordedTime.AsTime().Equal(o.Recorded.Add(r.At)) || reserved.Call.Estimate.CachedInputTokens != 0 {
				t.Fatalf("row %d: reserved %v", i+1, reserved)
			}
			model, least := "claude-haiku-4-5", int64(4096)
			switch r.InputTokens % 5 {
			case 0:
				if settled != nil {
					t.Fatalf("row %d was refused", i+1)
				}
				continue
			case 1:
				model, least = "gpt-5", 1024
			}
			var read int64
			if r.InputTokens >= least {
				last := make([]time.Duration, len(r.Prefix)) // of each block
				for n := range last {
					last[n] = -2 * time.Hour
				}
				for _, p := range sent[model] {
					for n := 0; n < min(len(p.prefix), len(r.Prefix)) && p.prefix[n] == r.Prefix[n]; n++ {
						last[n] = p.at
					}
				}
				blocks := 0
				for blocks < len(last) && r.At-last[blocks] <= ttl {
					blocks++
				}
				if read = min(int64(blocks)*512, r.InputTokens); read < least {
					read = 0
				}
				sent[model] = append(sent[model], past{r.At, r.Prefix})
			}
			want := &pb.Usage{InputTokens: r.InputTokens - read, CacheReadTokens: read, OutputTokens: 1}
			if model == "claude-haiku-4-5" && r.InputTokens >= least {
				want.InputTokens, want.CacheWrite_5MTokens = 0, r.InputTokens-read
				if ttl > 5*time.Minute {
					want.CacheWrite_5MTokens, want.CacheWrite_1HTokens = 0, r.InputTokens-read
				}
			}
			if !proto.Equal(settled.Usage, want) {
				t.Fatalf("ttl %s, row %d: used %v, want %v", ttl, i+1, settled.Usage, want)
			}
		}
	}
}
