package preflight

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
)

// aHold makes a hold out of a seed, with the claim that its token must give back. text goes where callers may write what
// they want.
func aHold(seed uint64, text string, depth int) (h *ledger.Hold, want *ledger.Claim) {
	random := rand.New(rand.NewPCG(seed, 1))
	owner := make([]byte, ownerSize)
	for i := range owner {
		owner[i] = byte(random.Uint32())
	}
	piece := func() string {
		from := random.IntN(len(text) + 1)
		return text[from : from+random.IntN(len(text)-from+1)]
	}
	milli := func() time.Time { return time.UnixMilli(random.Int64N(1 << 45)) }
	c := ledger.Call{
		Feature: "f" + piece(), Tier: piece(), Model: piece(), User: "u" + piece(), Cohort: "c" + piece(), Agent: "a" + piece(), Run: "r" + piece(),
		PromptPattern: piece(), Task: piece(), Wanted: piece(), ServiceTier: piece(), Region: piece(), Effect: routing.Effect(random.IntN(5)), Leased: random.IntN(2) == 0, Time: milli(),
	}
	if random.IntN(2) == 0 {
		c.Signals = usage.CallSignals{
			Flags: usage.SignalFlags(random.IntN(256)), RepeatTokens: random.Int64(), LateTokens: random.Int64N(3), RunGrowth: random.Int64(), Untrimmed: random.Int64(),
		}
	}
	h = &ledger.Hold{Seq: random.Uint64(), Amount: money.Nanos(random.Int64()), Expires: milli(), Call: c}
	want = &ledger.Claim{Owner: hex.EncodeToString(owner), Seq: h.Seq, Amount: h.Amount, Expires: h.Expires, Call: c, Path: []ledger.AccountID{}}
	l := ledger.New(want.Owner)
	for i := range depth {
		id := ledger.AccountID{Budget: "b" + strings.Repeat("x", i), Start: random.Int64() - 1<<62, End: random.Int64() - 1<<62}
		switch kind := random.IntN(keyOverflow + 1); kind {
		case keyNone:
		case keyOverflow:
			id.Overflow = c.Feature
		default:
			id.Key = [...]string{"", c.User, c.Cohort, c.Agent, c.Run}[kind]
		}
		h.Path = append(h.Path, l.Open(ledger.Opened{ID: id}, ledger.Terms{}, time.Time{}))
		want.Path = append(want.Path, id)
	}
	return h, want
}

var secret = []byte("0123456789abcdef0123456789abcdef")

// What is sealed opens as it was; hostile bytes never panic and never open, nor does a token with any one bit changed.
func FuzzToken(f *testing.F) {
	s, seeds := newSealer(secret), map[string]string{}
	for seed := range uint64(20) {
		h, want := aHold(seed, "some text of a caller", int(seed)%(charter.MaxDepth+1))
		token := s.seal(want.Owner, h, h.Expires)
		seeds[token] = want.Owner
		f.Add(seed, "some text of a caller", byte(seed), []byte(token))
	}
	f.Add(uint64(0), "", byte(0), []byte(nil))
	f.Add(uint64(1), "\x00\xff", byte(16), []byte{tokenVersion})
	f.Fuzz(func(t *testing.T, seed uint64, text string, depth byte, hostile []byte) {
		h, want := aHold(seed, text, int(depth)%(charter.MaxDepth+1))
		token := s.seal(want.Owner, h, h.Expires)
		got, err := s.open(token)
		if len(token) > maxToken {
			if !errors.Is(err, ledger.ErrUnknownHold) {
				t.Fatalf("%d bytes open: %v", len(token), err)
			}
			return
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("opens as\n%+v (%v), sealed\n%+v", got, err, want)
		}
		unknown(t, newSealer([]byte("another ledger's secret")), token)

		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		for _, bit := range []int{int(seed % uint64(8*len(raw))), 8*len(raw) - 1 - int(depth)%(8*macSize)} {
			raw[bit/8] ^= 1 << (bit % 8)
			unknown(t, s, base64.RawURLEncoding.EncodeToString(raw))
			raw[bit/8] ^= 1 << (bit % 8)
		}
		// Bytes that this ledger did not sign: as they come, as the bytes of a token, and in place of its body.
		if c, err := s.open(string(hostile)); err == nil && c.Owner != seeds[string(hostile)] {
			t.Fatalf("%q opens: %+v", hostile, c)
		}
		unknown(t, s, base64.RawURLEncoding.EncodeToString(hostile))
		unknown(t, s, base64.RawURLEncoding.EncodeToString(append(append([]byte{tokenVersion}, hostile...), raw[len(raw)-macSize:]...)))

		// A body of any bytes under a good signature must not panic either: another version may have signed it.
		body := append([]byte{tokenVersion}, hostile...)
		_, _ = s.open(base64.RawURLEncoding.EncodeToString(s.scratches.Get().(*scratch).sum(body, body)))
	})
}

// unknown checks that a token does not open.
func unknown(t *testing.T, s *sealer, token string) {
	t.Helper()
	if c, err := s.open(token); !errors.Is(err, ledger.ErrUnknownHold) || c != nil {
		t.Fatalf("%q opens: %+v (%v)", token, c, err)
	}
}

// Every bit of a token is signed.
func TestEveryBitOfATokenCounts(t *testing.T) {
	s := newSealer(secret)
	for seed := range uint64(3) {
		h, want := aHold(seed, "words", 4)
		token := s.seal(want.Owner, h, h.Expires)
		for bit := range 8 * len(token) {
			flipped := []byte(token)
			flipped[bit/8] ^= 1 << (bit % 8)
			unknown(t, s, string(flipped))
		}
		unknown(t, s, token+"\n")
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(raw) {
			raw[bit/8] ^= 1 << (bit % 8)
			unknown(t, s, base64.RawURLEncoding.EncodeToString(raw))
			raw[bit/8] ^= 1 << (bit % 8)
		}
		for n := range raw {
			unknown(t, s, base64.RawURLEncoding.EncodeToString(raw[:n]))
		}
	}
}

// The largest hold that the API lets a call make has a token that it takes back: ids of 128 bytes, a path of 16.
func TestTheLargestTokenOpens(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	c := ledger.Call{
		Feature: long(63), Tier: long(63), Model: long(128), User: long(128), Cohort: long(128), Agent: long(128), Run: long(128),
		PromptPattern: long(128), Time: time.UnixMilli(1 << 45),
		Signals: usage.CallSignals{Flags: 255, RepeatTokens: 1 << 62, LateTokens: 1 << 62, RunGrowth: 1 << 62, Untrimmed: 1 << 62},
	}
	h := &ledger.Hold{Seq: 1<<64 - 1, Amount: 1<<63 - 1, Expires: time.UnixMilli(1 << 45), Call: c}
	l := ledger.New("")
	for i := range charter.MaxDepth {
		id := ledger.AccountID{Budget: string(rune('a'+i)) + long(62), Key: c.User, Start: -1 << 62, End: 1 << 62}
		h.Path = append(h.Path, l.Open(ledger.Opened{ID: id}, ledger.Terms{}, time.Time{}))
	}
	s := newSealer(secret)
	token := s.seal(strings.Repeat("ab", ownerSize), h, h.Expires)
	if got, err := s.open(token); err != nil || got.Path[charter.MaxDepth-1] != h.Path[charter.MaxDepth-1].ID {
		t.Errorf("a token of %d bytes, of at most %d: %v", len(token), maxToken, err)
	}
}
