package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
)

// outbox is where a replica hands collected settlements to. What it took stays, whatever becomes of the replica.
type outbox struct{ r *replica }

var (
	errOutbox = errors.New("the outbox failed")
	errSlow   = errors.New("the outbox was slow")
)

// Put implements store.Outbox.
func (b outbox) Put(ctx context.Context, batches []store.OutboxBatch) error {
	w, p := b.r.w, b.r.p
	odds := func(n int) bool { return n > 0 && !w.healed && w.chance(n) }
	f := &w.faults
	if odds(f.lost) {
		w.count.OutboxFailed++
		return errOutbox
	}
	d := w.between(100*time.Microsecond, 5*time.Millisecond)
	if odds(f.slow) {
		d = w.between(5*time.Millisecond, 20*time.Second)
	}
	keep := func() {
		for _, x := range batches {
			w.oracle.kept(x)
		}
	}
	if w.chance(2) { // kept at once, however late the answer is
		keep()
		keep = func() {}
	}
	if err := p.wait(ctx, nil, d, errSlow); !errors.Is(err, errSlow) {
		return err
	}
	keep()
	if odds(f.mute) {
		w.count.OutboxFailed++
		return errOutbox
	}
	return nil
}

// Collect implements store.Ledger: in eager runs all that is committed is collected at once.
func (l *watched) Collect(ctx context.Context, out store.Outbox, c store.Collection) (store.Collected, error) {
	if l.r.w.eager {
		c.Before, c.Keep = epoch.AddDate(1, 0, 0), 0
	}
	return l.Ledger.Collect(ctx, out, c)
}

// journalBatch is a batch of a journal, wherever it is now.
type journalBatch struct {
	data      []byte
	entries   []*entry
	collected bool // it is in an outbox
}

type batchKey struct {
	owner string
	n     uint64
}

type chunkKey struct {
	owner string
	n     uint64
}

// kept takes a batch that an outbox keeps: one of a journal, with its bytes, any number of times.
func (o *oracle) kept(x store.OutboxBatch) {
	b := o.batches[batchKey{x.Owner, x.N}]
	switch {
	case b == nil || !bytes.Equal(b.data, x.Data):
		o.fail("outbox", "batch %d of %s is not the one that the journal had", x.N, x.Owner)
	case b.collected:
		o.w.count.CollectedAgain++
	default:
		o.w.count.Collected++
		b.collected = true
	}
}

// uncollected takes that a batch has left etcd.
func (o *oracle) uncollected(who string, n uint64) {
	b := o.batches[batchKey{who, n}]
	if b == nil || !b.collected {
		o.fail("I6", "batch %d of %s is deleted, and no outbox has it", n, who)
		return
	}
	w := o.owner(who)
	if n != w.collected {
		o.fail("journal", "batch %d of %s is deleted before batch %d", n, who, w.collected)
	}
	w.collected = n + 1
	if !w.live {
		o.w.count.CollectedOfOthers++
	}
	for _, e := range b.entries {
		e.collected = true
	}
}

const markBytes = 2

// chunk takes a record of marks: what is marked has ended so, and stays.
func (o *oracle) chunk(ch *change, rest string) {
	who, n := batchNumber(rest)
	if ch.now == nil {
		o.fail("marks", "%s is deleted", ch.key)
		return
	}
	key := chunkKey{who, n}
	was, now := o.chunks[key], decode(ch.now.Value, new(storev1.Chunk)).GetMarks()
	o.chunks[key] = now
	if len(now) != ledger.ChunkSize*markBytes {
		o.fail("marks", "%s has %d bytes", ch.key, len(now))
		return
	}
	for i := 0; i < len(now); i += markBytes {
		m, before := binary.LittleEndian.Uint16(now[i:]), uint16(0)
		if was != nil {
			before = binary.LittleEndian.Uint16(was[i:])
		}
		if m == before {
			continue
		}
		seq := n*ledger.ChunkSize + uint64(i/markBytes)
		h := o.holds[holdKey{who, seq}]
		switch {
		case before != 0:
			o.fail("marks", "the mark of hold %s/%d changes", who, seq)
		case h == nil || h.entry == nil:
			o.fail("marks", "hold %s/%d has a mark, and no entry", who, seq)
		case ledger.Mark(m) != markOf(h.entry):
			o.fail("marks", "the mark of hold %s/%d is %x, its entry is %v", who, seq, m, h.entry)
		}
		o.w.count.Marks++
	}
}

func markOf(e *entry) ledger.Mark {
	return ledger.NewMark(e.GetSeq(), ledger.Kind(e.GetKind()), money.Nanos(e.GetAmount()), e.GetLate())
}

// marked checks, when batches have left etcd, that each of their holds has its mark and that the tail follows.
func (o *oracle) marked(who string, n uint64) {
	b, w := o.batches[batchKey{who, n}], o.owner(who)
	for _, e := range b.entries {
		if e.GetSeq() == 0 {
			continue
		}
		marks := o.chunks[chunkKey{who, e.GetSeq() / ledger.ChunkSize}]
		at := e.GetSeq() % ledger.ChunkSize * markBytes
		if marks == nil || ledger.Mark(binary.LittleEndian.Uint16(marks[at:])) != markOf(e) {
			o.fail("I6", "batch %d of %s is deleted, and hold %d has no mark", n, who, e.GetSeq())
		}
	}
	if w.tail.GetNext() != w.collected {
		o.fail("journal", "the batches of %s before %d are deleted, its tail says %d", who, w.collected, w.tail.GetNext())
	}
}

// tail takes the record of where the collected part of a journal ends.
func (o *oracle) tail(ch *change, who string) {
	if ch.now == nil {
		o.fail("journal", "%s is deleted", ch.key)
		return
	}
	w := o.owner(who)
	was := w.tail
	w.tail = decode(ch.now.Value, new(storev1.JournalTail))
	if w.tail.GetNext() < was.GetNext() {
		o.fail("journal", "the tail of %s goes from %d back to %d", who, was.GetNext(), w.tail.GetNext())
	}
	if b := o.batches[batchKey{who, w.tail.GetNext() - 1}]; b != nil {
		if sum := sha256.Sum256(b.data); !bytes.Equal(sum[:], w.tail.GetPreviousHash()) {
			o.fail("journal", "the tail of %s has another hash than batch %d", who, w.tail.GetNext()-1)
		}
	}
}

// known says whether an answer may give this amount as the one at which a hold was settled: of an entry that was collected
// it may be that only the mark is known.
func (e *entry) known(first money.Nanos) bool {
	return e.GetAmount() == int64(first) || e.collected && first == ledger.AmountUnknown
}

// clash says that another amount has the same mark: once in 8,192 times a wrong amount is taken for the first.
func (e *entry) clash(amount money.Nanos) bool {
	return e.collected && e.GetKind() == storev1.EntryKind_ENTRY_KIND_SETTLE && int64(amount) != e.GetAmount() && markOf(e).Fits(e.GetSeq(), amount)
}
