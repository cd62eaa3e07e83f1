package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/etcd"
)

// outbox keeps what is put, and can do something else first.
type outbox struct {
	got    []store.OutboxBatch
	before func() error
}

func (o *outbox) Put(_ context.Context, batches []store.OutboxBatch) error {
	if o.before != nil {
		if err := o.before(); err != nil {
			return err
		}
	}
	o.got = append(o.got, batches...)
	return nil
}

// numbers lists what was put, as `owner/n`.
func (o *outbox) numbers() []string {
	var list []string
	for _, b := range o.got {
		list = append(list, fmt.Sprintf("%s/%d", b.Owner, b.N))
	}
	return list
}

func numbered(owner string, from, to uint64) []string {
	var list []string
	for n := from; n < to; n++ {
		list = append(list, fmt.Sprintf("%s/%d", owner, n))
	}
	return list
}

// all is the collection of all that is sealed by the tests.
func all(owner string) store.Collection {
	return store.Collection{Owner: owner, Below: 1 << 63, Before: sealed.Add(time.Minute)}
}

func collect(t *testing.T, l *etcd.Ledger, out store.Outbox, c store.Collection) store.Collected {
	t.Helper()
	for next := uint64(0); ; {
		done, err := l.Collect(t.Context(), out, c)
		if err != nil {
			t.Fatalf("collect: %v", err)
		}
		if next = max(next, done.Next); !done.More {
			return store.Collected{Next: next}
		}
	}
}

func mark(t *testing.T, l *etcd.Ledger, owner string, seq uint64) ledger.Mark {
	t.Helper()
	m, err := l.Mark(t.Context(), owner, seq)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func journalKeys(t *testing.T, client *clientv3.Client, owner string) int64 {
	t.Helper()
	resp, err := client.Get(t.Context(), etcd.Prefix+"jr/"+owner+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Count
}

// What is collected is in the outbox as it was stored, its holds have marks, and the journal goes on where it was.
func TestLedgerCollect(t *testing.T) {
	client := withDefaultLimits(t)
	l, owner := claimed(t, client)
	a := account("acme")
	const batches, each = 250, 20 // more than two transactions, and more than one chunk
	adjust(t, l, newAccount(a, owner, 1<<40, 0))
	var prev []byte
	var stored [][]byte
	for n := range uint64(batches) {
		b := batch(owner, n, nil)
		b.PrevHash, b.Time = prev, sealed.Add(time.Duration(n)*time.Second)
		for i := range uint64(each) {
			e := settled(n*each+i+1, money.Nanos(n+i), a)[0]
			switch i % 4 {
			case 1:
				e.Kind, e.Amount = ledger.KindRelease, 0
			case 2:
				e.Kind = ledger.KindExpiryCharge
			case 3:
				e.Late = true
			}
			b.Entries = append(b.Entries, e)
		}
		b.Entries = append(b.Entries, &ledger.Entry{Kind: ledger.KindUsage, Amount: 5, Path: []ledger.AccountID{a}, Time: sealed})
		_, prev = mustAppend(t, l, b)
		resp, err := client.Get(t.Context(), fmt.Sprintf("%sjr/%s/%016x", etcd.Prefix, owner, n))
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, resp.Kvs[0].Value)
	}
	count, bytes := l.Lag()
	if count != batches || bytes < batches*100 {
		t.Errorf("the lag is %d batches of %d bytes", count, bytes)
	}

	out := &outbox{}
	if done := collect(t, l, out, store.Collection{Owner: owner, Below: 1 << 63, Before: sealed, Keep: 1 << 40}); done.Next != 0 || len(out.got) != 0 {
		t.Errorf("nothing is due, and collected is %+v", done)
	}
	if done := collect(t, l, out, store.Collection{Owner: owner, Below: 7, Before: sealed.Add(time.Hour), Keep: 1 << 40}); done.Next != 7 {
		t.Errorf("below 7: %+v", done)
	}
	if done := collect(t, l, out, store.Collection{Owner: owner, Below: 1 << 63, Before: sealed.Add(20 * time.Second), Keep: 1 << 40}); done.Next != 20 {
		t.Errorf("the batches of 20 seconds: %+v", done)
	}
	if done := collect(t, l, out, store.Collection{Owner: owner, Below: 1 << 63, Before: sealed, Keep: bytes / 2}); done.Next < 120 || done.Next > 130 {
		t.Errorf("down to half of the bytes: %+v", done)
	} else if kept, size := l.Lag(); uint64(kept) != batches-done.Next || size > bytes/2 || int64(kept) != journalKeys(t, client, owner) {
		t.Errorf("%d batches of %d bytes are kept, of %d; etcd has %d", kept, size, bytes, journalKeys(t, client, owner))
	}
	seen := mark(t, l, owner, each*50+1)
	if done := collect(t, l, out, store.Collection{Owner: owner, Below: 1 << 63, Before: sealed.Add(time.Hour)}); done.Next != batches {
		t.Errorf("the rest: %+v", done)
	}
	if again := mark(t, l, owner, each*50+1); again != seen {
		t.Errorf("a mark was %x, and is %x after the chunk was written again", seen, again)
	}
	if got := out.numbers(); !slices.Equal(got, numbered(owner, 0, batches)) {
		t.Errorf("the outbox has %v", got)
	}
	for n, b := range out.got {
		if !slices.Equal(b.Data, stored[n]) {
			t.Fatalf("batch %d is not as it was stored", n)
		}
		var r storev1.Batch
		if err := proto.Unmarshal(b.Data, &r); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.GetEntries() {
			want := ledger.NewMark(e.GetSeq(), ledger.Kind(e.GetKind()), money.Nanos(e.GetAmount()), e.GetLate())
			if e.GetSeq() != 0 && mark(t, l, owner, e.GetSeq()) != want {
				t.Fatalf("hold %d has mark %x, want %x", e.GetSeq(), mark(t, l, owner, e.GetSeq()), want)
			}
		}
	}
	for _, seq := range []uint64{0, batches*each + 1, 1 << 40} {
		if m := mark(t, l, owner, seq); m != 0 {
			t.Errorf("hold %d has mark %x, and was never settled", seq, m)
		}
	}
	if kept, size := l.Lag(); kept != 0 || size != 0 || journalKeys(t, client, owner) != 0 {
		t.Errorf("%d batches of %d bytes are kept; etcd has %d", kept, size, journalKeys(t, client, owner))
	}
	next, hash, list, err := l.Journal(t.Context(), owner)
	if err != nil || next != batches || !slices.Equal(hash, prev) || len(list) != 0 {
		t.Errorf("the journal goes on at %d after %x with %v, error %v; want %d after %x", next, hash, list, err, batches, prev)
	}
	mustAppend(t, l, batch(owner, batches, settled(1<<20, 5, a)))
	if next, _, list, err := l.Journal(t.Context(), owner); err != nil || next != batches+1 || len(list) != 1 {
		t.Errorf("one more batch: the journal goes on at %d, has %v, error %v", next, list, err)
	}
}

// A batch that touches more chunks than fit into one transaction is collected all the same.
func TestLedgerCollectAcrossManyChunks(t *testing.T) {
	l, owner := claimed(t, withDefaultLimits(t))
	wide := batch(owner, 1, nil)
	for i := range uint64(ledger.MaxBatchEntries) {
		wide.Entries = append(wide.Entries, settled(i*ledger.ChunkSize+i+1, money.Nanos(i), account("acme"))...)
	}
	mustAppend(t, l, batch(owner, 0, settled(2, 5, account("acme"))))
	mustAppend(t, l, wide)
	mustAppend(t, l, batch(owner, 2, settled(3, 5, account("acme"))))
	out := &outbox{}
	if done := collect(t, l, out, all(owner)); done.Next != 3 {
		t.Errorf("collected %+v", done)
	}
	for _, e := range wide.Entries {
		if m := mark(t, l, owner, e.Seq); m != ledger.MarkOf(e) {
			t.Fatalf("hold %d has mark %x, want %x", e.Seq, m, ledger.MarkOf(e))
		}
	}
	if got := out.numbers(); !slices.Equal(got, numbered(owner, 0, 3)) {
		t.Errorf("the outbox has %v", got)
	}
}

// A collection whose outcome is unknown is made once, and its first try changes nothing any more.
func TestLedgerCollectUnknownOutcome(t *testing.T) {
	n, client, l, owner := overNetwork(t)
	for i, f := range []fate{replyLost, requestLate} {
		first := uint64(i) * 3
		for k := range uint64(3) {
			mustAppend(t, l, batch(owner, first+k, settled(first+k+1, 40, account("a"))))
		}
		out := &outbox{before: func() error { n.failCommit(f); return nil }}
		if _, err := l.Collect(t.Context(), out, all(owner)); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("fate %d: error %v, want ErrUnavailable", f, err)
		}
		out.before = nil
		if kept, _ := l.Lag(); kept != 3 {
			t.Errorf("fate %d: the lag is %d before it is known", f, kept)
		}
		if done := collect(t, l, out, all(owner)); done.Next != first+3 {
			t.Errorf("fate %d: collected %+v, want up to %d", f, done, first+3)
		}
		if f == requestLate {
			n.arrive(t, client)
		}
		if kept, _ := l.Lag(); kept != 0 || journalKeys(t, client, owner) != 0 {
			t.Errorf("fate %d: the lag is %d, etcd has %d batches", f, kept, journalKeys(t, client, owner))
		}
		for k := range uint64(3) {
			if !mark(t, l, owner, first+k+1).Fits(first+k+1, 40) {
				t.Errorf("fate %d: hold %d has no mark", f, first+k+1)
			}
		}
		if got := slices.Compact(slices.Sorted(slices.Values(out.numbers()))); !slices.Equal(got, numbered(owner, first, first+3)) {
			t.Errorf("fate %d: the outbox has %v", f, got)
		}
	}
}

// Whatever changes between reading and writing makes a collection write nothing; the next one goes on from there.
func TestLedgerCollectConflict(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	l, owner := claimed(t, client)
	n := uint64(0)
	full := errors.New("the disk is full")
	for name, meanwhile := range map[string]func() error{
		"nothing is put": func() error { return full },
		"another has collected a bit": func() error {
			_, err := l.Collect(t.Context(), &outbox{}, store.Collection{Owner: owner, Below: n - 2, Before: sealed.Add(time.Hour)})
			return err
		},
		"a batch is written again": func() error {
			k := fmt.Sprintf("%sjr/%s/%016x", etcd.Prefix, owner, n-1)
			resp, err := client.Get(t.Context(), k)
			if err == nil {
				_, err = client.Put(t.Context(), k, string(resp.Kvs[0].Value))
			}
			return err
		},
		"the tail is written": func() error {
			resp, err := client.Get(t.Context(), etcd.Prefix+"jt/"+owner)
			if err == nil && len(resp.Kvs) == 1 {
				_, err = client.Put(t.Context(), etcd.Prefix+"jt/"+owner, string(resp.Kvs[0].Value))
			} else if err == nil {
				_, err = client.Put(t.Context(), etcd.Prefix+"jt/"+owner, "")
			}
			return err
		},
	} {
		for range 3 {
			mustAppend(t, l, batch(owner, n, settled(n+1, 40, account("a"))))
			n++
		}
		var kept map[string]int64
		out := &outbox{before: func() error {
			err := meanwhile()
			kept = dump(t, client)
			return err
		}}
		if _, err := l.Collect(t.Context(), out, all(owner)); !errors.Is(err, store.ErrConflict) && !errors.Is(err, full) {
			t.Errorf("%s: error %v, want a conflict", name, err)
		}
		if now := dump(t, client); !reflect.DeepEqual(now, kept) {
			t.Errorf("%s: etcd holds %v, want %v", name, now, kept)
		}
		if done := collect(t, l, &outbox{}, all(owner)); done.Next != n || journalKeys(t, client, owner) != 0 {
			t.Errorf("%s: then collected %+v, want up to %d", name, done, n)
		}
		for seq := uint64(1); seq <= n; seq++ {
			if !mark(t, l, owner, seq).Fits(seq, 40) {
				t.Errorf("%s: hold %d has no mark", name, seq)
			}
		}
	}
}

// Marks that somebody else writes between their reading and writing are not lost, nor what is written again tidied away.
func TestLedgerChunkIsCompared(t *testing.T) {
	n, client, l, owner := overNetwork(t)
	chunk := fmt.Sprintf("%sbm/%s/%016x", etcd.Prefix, owner, 0)
	record := &storev1.Chunk{Marks: make([]byte, 2*ledger.ChunkSize), TimeMs: 1}
	write := func(data []byte) {
		if _, err := client.Put(t.Context(), chunk, string(data)); err != nil {
			t.Error(err)
		}
	}
	record.Marks[2*5] = 1
	theirs, err := proto.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, batch(owner, 0, settled(7, 40, account("a"))))
	n.beforeCommit(func() { write(theirs) })
	if _, err := l.Collect(t.Context(), &outbox{}, all(owner)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the chunk was written: error %v, want ErrConflict", err)
	}
	collect(t, l, &outbox{}, all(owner))
	if mark(t, l, owner, 5) != 1 || !mark(t, l, owner, 7).Fits(7, 40) {
		t.Errorf("marks %x and %x, want both", mark(t, l, owner, 5), mark(t, l, owner, 7))
	}

	write(theirs) // long ago
	n.beforeCommit(func() { write(theirs) })
	for range 2 {
		if _, err = l.Tidy(t.Context()); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrConflict) || mark(t, l, owner, 5) != 1 {
		t.Errorf("tidied what was written meanwhile: error %v, mark %x", err, mark(t, l, owner, 5))
	}
	write([]byte("\x0a\x01x"))
	mustAppend(t, l, batch(owner, 1, settled(8, 40, account("a"))))
	if _, err := l.Collect(t.Context(), &outbox{}, all(owner)); err == nil || journalKeys(t, client, owner) != 1 {
		t.Errorf("a chunk that cannot be read: error %v, %d batches are left", err, journalKeys(t, client, owner))
	}
	if _, err := l.Mark(t.Context(), owner, 1); err == nil {
		t.Error("a mark of a chunk that cannot be read")
	}
}

// The journals of owners that are gone are collected by whoever looks after them, those of the closed by anybody, and
// nobody's who lives.
func TestLedgerCollectOfOthers(t *testing.T) {
	client := withDefaultLimits(t)
	a := account("a")
	first, gone := claimed(t, client)
	adjust(t, first, newAccount(a, gone, 100, 0))
	for n := range uint64(3) {
		mustAppend(t, first, batch(gone, n, settled(n+1, 40, a)))
	}
	resign(t, first)
	l, owner := claimed(t, client)
	mustAppend(t, l, batch(owner, 0, settled(1, 40, a)))
	if owners, err := l.Journals(t.Context()); err != nil || !slices.Equal(owners, []string{gone}) {
		t.Errorf("journals of %v, error %v; want %s", owners, err, gone)
	}
	put := func(k, v string) {
		t.Helper()
		if _, err := client.Put(t.Context(), etcd.Prefix+k, v); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(k string) {
		t.Helper()
		if _, err := client.Delete(t.Context(), etcd.Prefix+k); err != nil {
			t.Fatal(err)
		}
	}
	another, err := proto.Marshal(&storev1.Takeover{Successor: "another"})
	if err != nil {
		t.Fatal(err)
	}
	for name, hinder := range map[string][2]string{"it lives": {"own/" + gone, ""}, "another has taken it over": {"tk/" + gone, string(another)}} {
		put(hinder[0], hinder[1])
		out := &outbox{}
		if done, err := l.Collect(t.Context(), out, all(gone)); err != nil || len(out.got) != 0 || done.More || journalKeys(t, client, gone) != 3 {
			t.Errorf("%s: collected %+v, error %v, put %v", name, done, err, out.numbers())
		}
		remove(hinder[0])
		out.before = func() error { put(hinder[0], hinder[1]); return nil }
		if _, err := l.Collect(t.Context(), out, all(gone)); !errors.Is(err, store.ErrConflict) || journalKeys(t, client, gone) != 3 {
			t.Errorf("%s since it was read: error %v", name, err)
		}
		remove(hinder[0])
	}

	// Taken over, and settled on while it is collected.
	takeOver(t, l, gone, time.Hour)
	next, hash, list, err := l.Journal(t.Context(), gone)
	if err != nil || next != 3 || len(list) != 3 {
		t.Fatalf("its journal: %d, %v, error %v", next, list, err)
	}
	out := &outbox{}
	if done := collect(t, l, out, store.Collection{Owner: gone, Below: 2, Before: sealed.Add(time.Hour)}); done.Next != 2 {
		t.Errorf("collected %+v", done)
	}
	if done := collect(t, l, out, store.Collection{Owner: gone, Below: 3, Before: sealed}); done.Next != 2 {
		t.Errorf("what is too new is collected: %+v", done)
	}
	b := batch(gone, 3, settled(7, 0, a))
	b.PrevHash = hash
	mustAppend(t, l, b)
	if next, _, list, err := l.Journal(t.Context(), gone); err != nil || next != 4 || !slices.Equal(list, []ledger.Settled{{Seq: 3, Batch: 2}, {Seq: 7, Batch: 3}}) {
		t.Errorf("then its journal is %d, %v, error %v", next, list, err)
	}
	if done := collect(t, l, out, all(gone)); done.Next != 4 || !slices.Equal(out.numbers(), numbered(gone, 0, 4)) {
		t.Errorf("collected %+v, the outbox has %v", done, out.numbers())
	}
	mustAppend(t, l, batch(gone, 4, settled(8, 0, a)))
	// A request that was under way for long writes a batch again: it goes, and the journal goes on where it was.
	put(fmt.Sprintf("jr/%s/%016x", gone, 0), string(out.got[0].Data))
	if done := collect(t, l, out, store.Collection{Owner: gone, Below: 4, Before: sealed.Add(time.Hour)}); done.Next != 4 || journalKeys(t, client, gone) != 1 {
		t.Errorf("a batch that came again: collected %+v, %d are left", done, journalKeys(t, client, gone))
	}
	for seq, want := range map[uint64]bool{1: true, 3: true, 7: true, 8: false, 9: false} {
		if got := mark(t, l, gone, seq) != 0; got != want {
			t.Errorf("hold %d has a mark: %v", seq, got)
		}
	}
}

// The number of a batch that was collected is never used again, by whoever has read the journal before that.
func TestLedgerAppendToAJournalThatMovedOn(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	a := account("a")
	l, _ := claimed(t, client)
	other, _ := claimed(t, client)
	closeGone(t, l, "closed")
	for _, replica := range []*etcd.Ledger{l, other} { // both know its empty journal
		if next, _, _, err := replica.Journal(t.Context(), "closed"); err != nil || next != 0 {
			t.Fatalf("the journal goes on at %d, error %v", next, err)
		}
	}
	mustAppend(t, l, batch("closed", 0, settled(1, 5, a)))
	if done := collect(t, l, &outbox{}, all("closed")); done.Next != 1 {
		t.Fatalf("collected %+v", done)
	}
	mustAppend(t, l, batch("closed", 1, settled(2, 5, a)))
	kept := dump(t, client)
	for n := range uint64(2) { // collected; written by another
		if _, _, err := other.Append(t.Context(), batch("closed", n, settled(2, 6, a))); !errors.Is(err, store.ErrTaken) {
			t.Errorf("batch %d: error %v, want ErrTaken", n, err)
		}
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("etcd holds %v, want %v", now, kept)
	}
	if next, _, _, err := other.Journal(t.Context(), "closed"); err != nil || next != 2 {
		t.Fatalf("the journal goes on at %d, error %v", next, err)
	}
	mustAppend(t, other, batch("closed", 2, settled(3, 5, a)))
	// Others collect on: what this one knows is behind, and catches up.
	tail, err := client.Get(t.Context(), etcd.Prefix+"jt/closed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), etcd.Prefix+"jt/closed", string(tail.Kvs[0].Value)); err != nil {
		t.Fatal(err)
	}
	b := batch("closed", 3, settled(4, 5, a))
	if _, _, err := other.Append(t.Context(), b); !errors.Is(err, store.ErrConflict) {
		t.Errorf("behind: error %v, want ErrConflict", err)
	}
	mustAppend(t, other, b)
}

// What is kept for a time goes when that is over, and not before.
func TestLedgerTidy(t *testing.T) {
	client := withDefaultLimits(t)
	now := sealed
	l := etcd.NewLedger(etcd.LedgerConfig{KV: client, Lease: client, Now: func() time.Time { return now }})
	owner, err := l.Claim(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	a := account("a")
	const old, young = 250, 130
	for i := range uint64(old + young) {
		at := sealed
		if i >= old {
			at = sealed.Add(24 * time.Hour)
		}
		e := &ledger.Entry{Kind: ledger.KindUsage, Amount: 5, Path: []ledger.AccountID{a}, Time: at, RequestID: fmt.Sprintf("request-%d", i)}
		mustAppend(t, l, batch(owner, i, append(settled(i%40*ledger.ChunkSize+1, 5, a), e)))
	}
	for _, o := range []string{"closed", "quiet"} {
		closeGone(t, l, o)
		mustAppend(t, l, batch(o, 0, settled(1, 5, a)))
	}
	collect(t, l, &outbox{}, store.Collection{Owner: "quiet", Below: 9, Before: sealed.Add(time.Hour)})
	now = sealed.Add(48 * time.Hour) // the others are collected later
	collect(t, l, &outbox{}, all("closed"))
	collect(t, l, &outbox{}, store.Collection{Owner: owner, Below: 1 << 63, Before: now})

	count := func(prefix string) int64 {
		resp, err := client.Get(t.Context(), etcd.Prefix+prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		return resp.Count
	}
	tidy := func() {
		t.Helper()
		for range 100 {
			if done, err := l.Tidy(t.Context()); err != nil {
				t.Fatal(err)
			} else if done {
				return
			}
		}
		t.Fatal("a round does not end")
	}
	for _, c := range []struct {
		after                              time.Duration
		requests, chunks, closed, dead, jt int64
	}{
		{ledger.RetryFor, old + young, 42, 2, 2, 3},
		{ledger.RetryFor + time.Second, young, 42, 2, 2, 3},
		{ledger.RetryFor + 25*time.Hour, 0, 42, 2, 2, 3},
		{ledger.KeepFor + time.Second, 0, 41, 1, 1, 2}, // the quiet owner
		{ledger.KeepFor + 48*time.Hour, 0, 41, 1, 1, 2},
		{ledger.KeepFor + 48*time.Hour + time.Second, 0, 0, 0, 0, 1}, // the live owner's tail
	} {
		now = sealed.Add(c.after)
		tidy()
		got := [5]int64{count("rq/"), count("bm/"), count("cl/"), count("dead/"), count("jt/")}
		if want := [5]int64{c.requests, c.chunks, c.closed, c.dead, c.jt}; got != want {
			t.Errorf("after %s: %v request ids, chunks, closed, dead owners, tails are left; want %v", c.after, got, want)
		}
	}
	endSession(t, client, owner)
	mustPut := func(k string) {
		if _, err := client.Put(t.Context(), etcd.Prefix+k, ""); err != nil {
			t.Fatal(err)
		}
	}
	mustPut("cl/late")
	for range len("rq bm cl") {
		if _, err = l.Tidy(t.Context()); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrFenced) || count("cl/") != 1 {
		t.Errorf("tidied without a session: error %v, %d records", err, count("cl/"))
	}
}
