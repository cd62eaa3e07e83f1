package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/archive"
)

func TestJournal(t *testing.T) {
	used, err := proto.Marshal(&pb.Usage{InputTokens: 5})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	accounts := []*storev1.Account{{Budget: "chat", Key: "ada/\x1b"}, {Budget: "org"}, {Budget: "chat", Overflow: "chat"}}
	entry := func(seq uint64, feature string, minutes int, amount int64) *storev1.Entry {
		return &storev1.Entry{
			Seq: seq, Kind: storev1.EntryKind_ENTRY_KIND_SETTLE, Feature: feature, Amount: amount, Held: 2_000_000_000, Path: []uint32{0, 1},
			TimeMs: at.Add(time.Duration(minutes) * time.Minute).UnixMilli(), CallMs: at.UnixMilli(), Usage: used, Tier: "economy", Model: "small",
			Outcome: int32(pb.Outcome_OUTCOME_SUCCESS), Effect: int32(pb.Effect_EFFECT_DOWNGRADE),
		}
	}
	late := entry(2, "chat", 1, 3_000_000_000)
	late.Late, late.Forced, late.Path = true, late.Amount, []uint32{2}
	release := &storev1.Entry{Seq: 3, Kind: storev1.EntryKind_ENTRY_KIND_RELEASE, Feature: "search", Held: 5, TimeMs: at.Add(2 * time.Minute).UnixMilli(), Path: []uint32{1}}
	batch := func(n uint64, entries ...*storev1.Entry) store.OutboxBatch {
		data, err := proto.Marshal(&storev1.Batch{Accounts: accounts, Entries: entries})
		if err != nil {
			t.Fatal(err)
		}
		return store.OutboxBatch{Owner: "6f1c", N: n, Data: data}
	}
	dir, empty := filepath.Join(t.TempDir(), "archive"), t.TempDir()
	a, err := archive.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	first := batch(41, entry(1, "chat", 0, 1_000_000_000), late)
	for _, put := range [][]store.OutboxBatch{{first}, {first, batch(42, release)}} {
		if err := a.Put(t.Context(), put); err != nil {
			t.Fatal(err)
		}
	}

	c := cli{t, []string{"--archive-dir", dir}}
	out := c.ok("journal")
	c.contains(out, "2026-11-23 12:00:00.000Z  settle", "settle (late)", "release", "chat/keys/ada/\\x1b", "chat/overflow/chat",
		"3 entries, 4.0000 settled, of which forced 3.0000")
	if lines := strings.Count(out, "\n"); lines != 6 {
		t.Errorf("%d lines:\n%s", lines, out)
	}
	for _, s := range []struct {
		want string
		args []string
	}{
		{"1,2", []string{"--feature", "chat"}},
		{"2,3", []string{"--since", "2026-11-23T12:01:00Z"}},
		{"1", []string{"--until", "2026-11-23T13:01:00+01:00"}},
		{"2", []string{"--since", "2026-11-23T12:00:00.5Z", "--until", "2026-11-23T12:02:00Z"}},
		{"", []string{"--feature", "nothing"}},
	} {
		var holds []string
		for line := range strings.Lines(c.ok(append([]string{"journal", "-o", "json"}, s.args...)...)) {
			var l journalLine
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			holds = append(holds, string(rune('0'+l.Hold)))
			if l.Hold == 1 && (l.AmountNanos != 1_000_000_000 || l.Journal != "jr/6f1c/41" || l.Kind != "settle" || l.Outcome != "success" || l.Effect != "downgrade" ||
				!l.Time.Equal(at) || strings.ReplaceAll(string(l.Usage), " ", "") != `{"input_tokens":"5"}` || strings.Join(l.Budgets, ",") != "budgets/chat/keys/ada/\x1b,budgets/org") {
				t.Errorf("%s", line)
			}
		}
		if got := strings.Join(holds, ","); got != s.want {
			t.Errorf("%v shows holds %s, want %s", s.args, got, s.want)
		}
	}
	c.contains(c.ok("journal", "--feature", "nothing"), "no such settlement")
	c.fails(exitUsage, []string{"--since", "yesterday"}, "journal", "--since", "yesterday")
	c.fails(exitUsage, []string{"xml", "table, json"}, "journal", "-o", "xml")
	cli{t, nil}.fails(exitFailed, []string{empty, "no archive", "--archive-dir"}, "journal", "--archive-dir", empty)
}
