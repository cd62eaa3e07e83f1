package preflight

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"strings"
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
)

// sealer makes and reads hold tokens: all that any server needs to settle a hold, signed so that it cannot be changed.
// A token is base64url of: version, owner, seq, amount, call time, expiry, effect, signals if any, strings, path, HMAC-SHA256/128.
type sealer struct{ scratches sync.Pool }

// scratch is what one sealing or opening works on, used again.
type scratch struct {
	mac        hash.Hash
	digest     [sha256.Size]byte
	body, text []byte
}

const (
	tokenVersion = 1
	moreVersion  = 2 // task, wanted model, service tier and region after the other strings
	macSize      = 16
	ownerSize    = 16
	maxToken     = 4096
	leasedFlag   = 1 << 7 // beside the effect: the hold is a slice
	signalsFlag  = 1 << 6 // the call's signals follow
)

// encoding is strict: a hold has one token.
var encoding = base64.RawURLEncoding.Strict()

func newSealer(secret []byte) *sealer {
	return &sealer{sync.Pool{New: func() any { return &scratch{mac: hmac.New(sha256.New, secret)} }}}
}

// sum appends the MAC of data to dst.
func (b *scratch) sum(dst, data []byte) []byte {
	b.mac.Reset()
	b.mac.Write(data)
	return append(dst, b.mac.Sum(b.digest[:0])[:macSize]...)
}

// Where a path's key comes from, so that it is not written twice.
const (
	keyNone = iota
	keyUser
	keyCohort
	keyAgent
	keyRun
	keyOverflow
)

func (s *sealer) seal(owner string, h *ledger.Hold, expires time.Time) string {
	w := s.scratches.Get().(*scratch)
	defer s.scratches.Put(w)
	version := byte(tokenVersion)
	if h.Call.Task != "" || h.Call.Wanted != "" || h.Call.ServiceTier != "" || h.Call.Region != "" {
		version = moreVersion
	}
	b := append(w.body[:0], version)
	b, _ = hex.AppendDecode(b, []byte(owner))
	b = binary.AppendUvarint(b, h.Seq)
	b = binary.AppendUvarint(b, uint64(h.Amount))
	b = binary.AppendUvarint(b, uint64(h.Call.Time.UnixMilli()))
	b = binary.AppendUvarint(b, uint64(expires.UnixMilli()))
	effect := byte(h.Call.Effect)
	if h.Call.Leased {
		effect |= leasedFlag
	}
	c := &h.Call
	if c.Signals != (usage.CallSignals{}) {
		effect |= signalsFlag
	}
	b = append(b, effect)
	if effect&signalsFlag != 0 {
		b = append(b, byte(c.Signals.Flags))
		for _, n := range [...]int64{c.Signals.RepeatTokens, c.Signals.LateTokens, c.Signals.RunGrowth, c.Signals.Untrimmed} {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	for _, str := range [...]string{c.Feature, c.Tier, c.Model, c.User, c.Cohort, c.Agent, c.Run, c.PromptPattern} {
		b = appendString(b, str)
	}
	if version == moreVersion {
		for _, str := range [...]string{c.Task, c.Wanted, c.ServiceTier, c.Region} {
			b = appendString(b, str)
		}
	}
	b = append(b, byte(len(h.Path)))
	for _, a := range h.Path {
		b = append(appendString(b, a.ID.Budget), source(&a.ID, c))
		b = binary.AppendVarint(b, a.ID.Start)
		b = binary.AppendVarint(b, a.ID.End)
	}
	w.body = w.sum(b, b)
	w.text = encoding.AppendEncode(w.text[:0], w.body)
	return string(w.text)
}

// source says where the key of an account is found again: any string of the call that equals it will do.
func source(id *ledger.AccountID, c *ledger.Call) byte {
	switch {
	case id.Overflow != "":
		return keyOverflow
	case id.Key == "":
		return keyNone
	case id.Key == c.User:
		return keyUser
	case id.Key == c.Cohort:
		return keyCohort
	case id.Key == c.Agent:
		return keyAgent
	}
	return keyRun
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// open reads a token. Error: ledger.ErrUnknownHold for anything that this ledger did not sign.
func (s *sealer) open(token string) (*ledger.Claim, error) {
	if len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // which base64 skips
		return nil, ledger.ErrUnknownHold
	}
	data, err := encoding.DecodeString(token)
	if err != nil || len(data) < 1+ownerSize+macSize || data[0] != tokenVersion && data[0] != moreVersion {
		return nil, ledger.ErrUnknownHold
	}
	body, mac := data[:len(data)-macSize], data[len(data)-macSize:]
	w := s.scratches.Get().(*scratch)
	defer s.scratches.Put(w)
	var want [macSize]byte
	if !hmac.Equal(w.sum(want[:0], body), mac) {
		return nil, ledger.ErrUnknownHold
	}
	r := reader{b: body[1+ownerSize:]}
	c := &ledger.Claim{Owner: hex.EncodeToString(body[1 : 1+ownerSize])}
	c.Seq = r.uvarint()
	c.Amount = money.Nanos(r.uvarint())
	c.Call.Time = time.UnixMilli(int64(r.uvarint()))
	c.Expires = time.UnixMilli(int64(r.uvarint()))
	effect := r.byte()
	c.Call.Effect, c.Call.Leased = routing.Effect(effect&^(leasedFlag|signalsFlag)), effect&leasedFlag != 0
	if effect&signalsFlag != 0 {
		c.Call.Signals.Flags = usage.SignalFlags(r.byte())
		for _, n := range [...]*int64{&c.Call.Signals.RepeatTokens, &c.Call.Signals.LateTokens, &c.Call.Signals.RunGrowth, &c.Call.Signals.Untrimmed} {
			*n = int64(r.uvarint())
		}
	}
	for _, str := range [...]*string{&c.Call.Feature, &c.Call.Tier, &c.Call.Model, &c.Call.User, &c.Call.Cohort, &c.Call.Agent, &c.Call.Run, &c.Call.PromptPattern} {
		*str = r.string()
	}
	if data[0] == moreVersion {
		for _, str := range [...]*string{&c.Call.Task, &c.Call.Wanted, &c.Call.ServiceTier, &c.Call.Region} {
			*str = r.string()
		}
	}
	n := int(r.byte())
	if n > charter.MaxDepth {
		return nil, ledger.ErrUnknownHold
	}
	c.Path = make([]ledger.AccountID, n)
	for i := range c.Path {
		id := &c.Path[i]
		id.Budget = r.string()
		switch r.byte() {
		case keyUser:
			id.Key = c.Call.User
		case keyCohort:
			id.Key = c.Call.Cohort
		case keyAgent:
			id.Key = c.Call.Agent
		case keyRun:
			id.Key = c.Call.Run
		case keyOverflow:
			id.Overflow = c.Call.Feature
		}
		id.Start, id.End = r.varint(), r.varint()
	}
	if r.bad {
		return nil, ledger.ErrUnknownHold
	}
	return c, nil
}

// reader reads what seal wrote; bad once something is cut off.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return v * r.skip(n)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	return v * int64(r.skip(n))
}

// skip moves on by n bytes; 0 if it cannot, else 1.
func (r *reader) skip(n int) uint64 {
	if n <= 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return 1
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	v := string(r.b[:n])
	r.b = r.b[n:]
	return v
}
