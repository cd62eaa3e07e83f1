package etcd

import (
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/ledger"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
)

// FuzzRecords reads hostile batches, chunks and request records: an error or a sound reading, never a panic.
func FuzzRecords(f *testing.F) {
	seed := func(m proto.Message) {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	seed(batchRecord(&ledger.Batch{Entries: []*ledger.Entry{
		{Seq: 1, Kind: ledger.KindSettle, Amount: 5, Path: []ledger.AccountID{{Budget: "a", Key: "k"}, {Budget: "b"}}},
		{Seq: 1 << 63, Kind: ledger.KindRelease}, {Kind: ledger.KindUsage, RequestID: "r"},
	}}))
	seed(&storev1.Batch{Entries: []*storev1.Entry{{Seq: 4096, Path: []uint32{7}, Usage: []byte{255}, Kind: 99, Amount: -1}}})
	seed(&storev1.Chunk{Marks: make([]byte, ledger.ChunkSize*markBytes), TimeMs: 1})
	seed(&storev1.Chunk{Marks: []byte{1}})
	seed(requestRecord(batchKey("owner", 7), 0, &ledger.Entry{Amount: 5, RequestID: "r"}))
	seed(&storev1.RequestIndex{Journal: "jr"})
	f.Fuzz(func(t *testing.T, data []byte) {
		kv := &mvccpb.KeyValue{Key: []byte(batchKey("owner", 7)), Value: data}
		j := &journalPart{marks: map[uint64]map[uint64]ledger.Mark{}}
		took, err := j.take(kv, store.Collection{Owner: "owner", Below: 8}, "owner")
		var b storev1.Batch
		if (err == nil) != (proto.Unmarshal(data, &b) == nil) || took != (err == nil) {
			t.Fatalf("taken %v, error %v", took, err)
		}
		for _, r := range b.GetEntries() {
			if m := j.marks[r.GetSeq()/ledger.ChunkSize][r.GetSeq()%ledger.ChunkSize]; r.GetSeq() == 0 && m != 0 {
				t.Errorf("an entry without a hold has mark %x", m)
			}
			if e, err := entry("owner", 7, &b, r); err == nil && (e.Seq != r.GetSeq() || len(e.Path) != len(r.GetPath())) {
				t.Errorf("%v is read as %+v", r, e)
			}
		}
		if c, err := readChunk(kv); err == nil && len(c.GetMarks()) != ledger.ChunkSize*markBytes {
			t.Errorf("a chunk of %d bytes", len(c.GetMarks()))
		}
		var r storev1.RequestIndex
		if proto.Unmarshal(data, &r) == nil {
			if e, err := requestEntry("r", &r); err == nil && (e.Batch == nil || e.Amount != e.Forced) {
				t.Errorf("%v is read as %+v", &r, e)
			}
		}
	})
}
