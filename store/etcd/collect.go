package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
)

// Limits of one transaction that collects, within etcd's defaults of 128 operations and 1.5 MiB.
const (
	collectOps    = 110 // batches and chunks
	collectChunks = 64  // of 8 KiB
)

const markBytes = 2

func tailKey(owner string) string { return key("jt", owner) }

func chunkKey(owner string, n uint64) string { return key("bm", owner, fmt.Sprintf("%016x", n)) }

// collecting is what a Ledger knows of journals for their collection. Under Ledger.mu.
type collecting struct {
	kept  []keptBatch      // of the own journal, ascending
	bytes int64            // sum of kept
	tails map[string]int64 // mod revisions of `jt/{owner}` of journals that were loaded
	tidying
}

type keptBatch struct {
	n    uint64
	size int64
	time time.Time
}

// appended notes a batch of the own journal that is committed.
func (l *Ledger) appended(b *ledger.Batch, size int) {
	if b.Owner != l.owner {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.kept) == 0 || l.kept[len(l.kept)-1].n < b.N {
		l.kept = append(l.kept, keptBatch{b.N, int64(size), b.Time})
		l.bytes += int64(size)
	}
}

// due counts the batches of the own journal to collect.
func (l *Ledger) due(c store.Collection) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.bytes
	for i, b := range l.kept {
		if b.n >= c.Below || !b.time.Before(c.Before) && left <= c.Keep {
			return i
		}
		left -= b.size
	}
	return len(l.kept)
}

// dropped notes that the batches of a journal before next are collected.
func (l *Ledger) dropped(owner string, next uint64) {
	if owner != l.owner {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i := 0
	for ; i < len(l.kept) && l.kept[i].n < next; i++ {
		l.bytes -= l.kept[i].size
	}
	l.kept = slices.Delete(l.kept, 0, i)
}

// Lag implements store.Ledger.
func (l *Ledger) Lag() (batches int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.kept), l.bytes
}

// tailIs remembers the revision of a journal's tail as the one that Append goes on from.
func (l *Ledger) tailIs(owner string, rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tails == nil {
		l.tails = map[string]int64{}
	}
	l.tails[owner] = rev
}

// readTail reads where the collected part of a journal ends.
func readTail(kvs []*mvccpb.KeyValue) (tail *storev1.JournalTail, rev int64, err error) {
	tail = new(storev1.JournalTail)
	if len(kvs) == 1 {
		rev, err = kvs[0].ModRevision, read(kvs[0], tail)
	}
	return tail, rev, err
}

func (l *Ledger) tailRevision(owner string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tails[owner]
}

// appendConflict finds out what a conflict of Append means: an earlier attempt has landed, and is ours only if the bytes
// are; or another process has written under this number; or nothing was written.
func (l *Ledger) appendConflict(ctx context.Context, b *ledger.Batch, data, hash []byte) (int64, []byte, error) {
	resp, err := l.txn(ctx, nil, clientv3.OpGet(batchKey(b.Owner, b.N)), clientv3.OpGet(tailKey(b.Owner)))
	if err != nil {
		return 0, nil, err
	}
	found := resp.Responses[0].GetResponseRange().Kvs
	tail, rev, err := readTail(resp.Responses[1].GetResponseRange().Kvs)
	switch {
	case err != nil:
		return 0, nil, err
	case len(found) == 1 && (bytes.Equal(found[0].Value, data) || !guard.BatchBytes):
		l.appended(b, len(data))
		return found[0].ModRevision, hash, nil
	case len(found) == 1, tail.GetNext() > b.N:
		return 0, nil, store.ErrTaken
	case b.Owner != l.owner && rev != l.tailRevision(b.Owner): // batches before this one were collected
		l.tailIs(b.Owner, rev)
		return 0, nil, store.ErrConflict
	}
	return 0, nil, l.recorded(ctx, b, store.ErrConflict)
}

// Collect implements store.Ledger. After a lost answer the next one reads again what is there: a transaction that has
// landed has taken its batches away, and one that still travels fails on the chunks or the tail.
func (l *Ledger) Collect(ctx context.Context, out store.Outbox, c store.Collection) (store.Collected, error) {
	limit := collectOps
	if c.Owner == l.owner {
		if limit = min(limit, l.due(c)); limit == 0 {
			return store.Collected{}, nil
		}
	}
	j, err := l.readJournal(ctx, c, limit)
	if err != nil {
		return store.Collected{}, err
	}
	l.dropped(c.Owner, j.tail.GetNext())
	done := store.Collected{Next: j.tail.GetNext()}
	if len(j.batches) == 0 {
		return done, nil
	}
	// gofail: var beforeHandOver struct{}
	if err := out.Put(ctx, j.batches); err != nil {
		return done, fmt.Errorf("the outbox does not take settlements: %w", err)
	}
	// gofail: var afterHandOver struct{}
	if err := l.move(ctx, c.Owner, j); err != nil {
		return done, err
	}
	// gofail: var afterMove struct{}
	done.Next, done.More = j.tail.GetNext(), j.more
	l.dropped(c.Owner, done.Next)
	return done, nil
}

// journalPart is the oldest batches of a journal, to be collected as one.
type journalPart struct {
	batches []store.OutboxBatch
	marks   map[uint64]map[uint64]ledger.Mark // by chunk and place in it
	tail    *storev1.JournalTail              // as it is; move makes it what it will be
	deletes []clientv3.Op
	cmps    []clientv3.Cmp // that nothing of it has changed, and that it is ours to collect
	more    bool
}

func (l *Ledger) readJournal(ctx context.Context, c store.Collection, limit int) (*journalPart, error) {
	tk, own, tail := key("tk", c.Owner), key("own", c.Owner), tailKey(c.Owner)
	resp, err := l.txn(ctx, nil, clientv3.OpGet(tail), clientv3.OpGet(own, clientv3.WithKeysOnly()), clientv3.OpGet(tk),
		clientv3.OpGet(key("jr", c.Owner)+"/", clientv3.WithPrefix(), clientv3.WithLimit(int64(limit))))
	if err != nil {
		return nil, err
	}
	part := func(i int) []*mvccpb.KeyValue { return resp.Responses[i].GetResponseRange().Kvs }
	j := &journalPart{marks: map[uint64]map[uint64]ledger.Mark{}}
	var rev int64
	if j.tail, rev, err = readTail(part(0)); err != nil {
		return nil, err
	}
	j.cmps = append(j.cmps, unchanged(tail, rev))
	if c.Owner != l.owner {
		ours := absent(tk)
		for _, kv := range part(2) {
			var t storev1.Takeover
			if err := read(kv, &t); err != nil {
				return nil, err
			}
			if t.GetSuccessor() != l.owner {
				return j, nil
			}
			ours = clientv3.Compare(clientv3.CreateRevision(tk), "=", kv.CreateRevision)
		}
		if len(part(1)) > 0 { // it lives
			return j, nil
		}
		j.cmps = append(j.cmps, absent(own), ours)
	}
	for _, kv := range part(3) {
		if fits, err := j.take(kv, c, l.owner); err != nil || !fits {
			return j, err
		}
	}
	j.more = resp.Responses[3].GetResponseRange().More || c.Owner == l.owner
	return j, nil
}

// take adds a batch; false when it and what follows is to stay for now.
func (j *journalPart) take(kv *mvccpb.KeyValue, c store.Collection, self string) (bool, error) {
	n, err := batchNumber(string(kv.Key))
	if err != nil {
		return false, fmt.Errorf("read %s: %w", kv.Key, err)
	}
	var b storev1.Batch
	if err := read(kv, &b); err != nil {
		return false, err
	}
	if n >= c.Below || c.Owner != self && !time.UnixMilli(b.GetTimeMs()).Before(c.Before) {
		return false, nil
	}
	fresh := map[uint64]bool{}
	for _, e := range b.GetEntries() {
		if at := e.GetSeq() / ledger.ChunkSize; e.GetSeq() != 0 && j.marks[at] == nil {
			fresh[at] = true
		}
	}
	chunks := len(j.marks) + len(fresh)
	if len(j.batches) > 0 && (chunks > collectChunks || chunks+len(j.batches) >= collectOps) {
		j.more = true
		return false, nil
	}
	for _, e := range b.GetEntries() {
		if seq := e.GetSeq(); seq != 0 {
			at := seq / ledger.ChunkSize
			if j.marks[at] == nil {
				j.marks[at] = map[uint64]ledger.Mark{}
			}
			j.marks[at][seq%ledger.ChunkSize] = ledger.NewMark(seq, ledger.Kind(e.GetKind()), money.Nanos(e.GetAmount()), e.GetLate())
		}
	}
	j.batches = append(j.batches, store.OutboxBatch{Owner: c.Owner, N: n, Data: kv.Value})
	j.cmps = append(j.cmps, unchanged(string(kv.Key), kv.ModRevision))
	j.deletes = append(j.deletes, clientv3.OpDelete(string(kv.Key)))
	return true, nil
}

// move sets the marks and deletes the batches: as one, but for a batch that touches more chunks than fit. Then it sets
// marks before: a hold may have its mark while its batch is still there, not the other way round.
func (l *Ledger) move(ctx context.Context, owner string, j *journalPart) error {
	chunks := make([]uint64, 0, len(j.marks))
	for n := range j.marks {
		chunks = append(chunks, n)
	}
	slices.Sort(chunks)
	for ; len(chunks) > collectChunks; chunks = chunks[collectChunks:] {
		cmps, ops, err := l.chunkOps(ctx, owner, chunks[:collectChunks], j.marks)
		if err != nil {
			return err
		}
		if _, err := l.fenced(ctx, append(cmps, j.cmps[:min(3, len(j.cmps))]...), ops...); err != nil {
			return err
		}
	}
	cmps, ops, err := l.chunkOps(ctx, owner, chunks, j.marks)
	if err != nil {
		return err
	}
	tail := &storev1.JournalTail{Next: j.tail.GetNext(), PreviousHash: j.tail.GetPreviousHash(), TimeMs: l.Now().UnixMilli()}
	if last := j.batches[len(j.batches)-1]; last.N >= tail.Next {
		sum := sha256.Sum256(last.Data)
		tail.Next, tail.PreviousHash = last.N+1, sum[:]
	}
	putTail, err := put(tailKey(owner), tail)
	if err != nil {
		return err
	}
	rev, err := l.fenced(ctx, append(cmps, j.cmps...), append(append(ops, j.deletes...), putTail)...)
	if err != nil {
		return err
	}
	j.tail = tail
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, loaded := l.tails[owner]; loaded {
		l.tails[owner] = rev
	}
	return nil
}

// chunkOps are the comparisons and writes that add marks to chunks.
func (l *Ledger) chunkOps(ctx context.Context, owner string, chunks []uint64, marks map[uint64]map[uint64]ledger.Mark) (cmps []clientv3.Cmp, ops []clientv3.Op, err error) {
	reads := make([]clientv3.Op, len(chunks))
	for i, n := range chunks {
		reads[i] = clientv3.OpGet(chunkKey(owner, n))
	}
	resp, err := l.txn(ctx, nil, reads...)
	if err != nil {
		return nil, nil, err
	}
	for i, n := range chunks {
		record := &storev1.Chunk{Marks: make([]byte, ledger.ChunkSize*markBytes)}
		var rev int64
		for _, kv := range resp.Responses[i].GetResponseRange().Kvs {
			if record, err = readChunk(kv); err != nil {
				return nil, nil, err
			}
			rev = kv.ModRevision
		}
		for at, m := range marks[n] {
			binary.LittleEndian.PutUint16(record.Marks[at*markBytes:], uint16(m))
		}
		record.TimeMs = l.Now().UnixMilli()
		op, err := put(chunkKey(owner, n), record)
		if err != nil {
			return nil, nil, err
		}
		cmps, ops = append(cmps, unchanged(chunkKey(owner, n), rev)), append(ops, op)
	}
	return cmps, ops, nil
}

func readChunk(kv *mvccpb.KeyValue) (*storev1.Chunk, error) {
	r := new(storev1.Chunk)
	if err := read(kv, r); err != nil {
		return nil, err
	}
	if len(r.GetMarks()) != ledger.ChunkSize*markBytes {
		return nil, fmt.Errorf("read %s: %d bytes of marks", kv.Key, len(r.GetMarks()))
	}
	return r, nil
}

// Mark implements store.Ledger.
func (l *Ledger) Mark(ctx context.Context, owner string, seq uint64) (ledger.Mark, error) {
	resp, err := l.get(ctx, chunkKey(owner, seq/ledger.ChunkSize))
	if err != nil {
		return 0, err
	}
	if len(resp.Kvs) == 0 {
		return 0, nil
	}
	r, err := readChunk(resp.Kvs[0])
	if err != nil {
		return 0, err
	}
	return ledger.Mark(binary.LittleEndian.Uint16(r.GetMarks()[seq%ledger.ChunkSize*markBytes:])), nil
}

// Journals implements store.Ledger.
func (l *Ledger) Journals(ctx context.Context) ([]string, error) {
	var owners []string
	from, end := key("jr")+"/", clientv3.GetPrefixRangeEnd(key("jr")+"/")
	for {
		resp, err := l.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly())
		if err != nil {
			return nil, err
		}
		if len(resp.Kvs) == 0 {
			return owners, nil
		}
		owner := ownerOf(resp.Kvs[0].Key)
		if owner != l.owner {
			owners = append(owners, owner)
		}
		from = key("jr", owner) + "0" // '0' follows '/'
	}
}
