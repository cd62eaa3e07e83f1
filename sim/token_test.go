package sim

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
)

// told is what a hold's token says: the oracle reads it for itself.
type told struct {
	owner   string
	seq     uint64
	amount  money.Nanos
	expires time.Time
	path    []ledger.AccountID
}

func readToken(token string) *told {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		panic(err)
	}
	version := b[0]
	t := &told{owner: hex.EncodeToString(b[1:17])}
	b = b[17:]
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return v
	}
	text := func() string {
		n := number()
		v := string(b[:n])
		b = b[n:]
		return v
	}
	one := func() byte {
		v := b[0]
		b = b[1:]
		return v
	}
	t.seq, t.amount = number(), money.Nanos(number())
	number() // the time of the call
	t.expires = time.UnixMilli(int64(number()))
	if one()&(1<<6) != 0 { // after the effect: signals
		one()
		_, _, _, _ = number(), number(), number(), number()
	}
	feature, _, _ := text(), text(), text()
	keys := [...]string{"", text(), text(), text(), text()} // user, cohort, agent, run
	text()                                                  // the prompt pattern
	if version == 2 {
		_, _, _, _ = text(), text(), text(), text() // task, wanted model, service tier, region
	}
	for range one() {
		id := ledger.AccountID{Budget: text()}
		if from := one(); int(from) < len(keys) {
			id.Key = keys[from]
		} else {
			id.Overflow = feature
		}
		start, n := binary.Varint(b)
		b = b[n:]
		end, n := binary.Varint(b)
		b = b[n:]
		id.Start, id.End = start, end
		t.path = append(t.path, id)
	}
	return t
}
