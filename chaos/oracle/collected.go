package oracle

import (
	"encoding/binary"
	"fmt"
)

// chunkHolds is how many holds have their mark in one chunk, 2 bytes each.
const chunkHolds = 4096

// CheckCollected checks that a hold whose batch has left etcd is marked as it ended, that no other hold is marked, and that
// exactly the batches below the tail of a journal have left (MARK).
func CheckCollected(r *Records, j *Journal) []Violation {
	var bad violations
	marked := 0
	for _, e := range j.Entries {
		_, here := r.Batches[fmt.Sprintf("%s/%d", e.Owner, e.Batch)]
		if next := r.Tails[e.Owner].GetNext(); here == (e.Batch < next) {
			bad.add("MARK", "%s is in etcd: %v, and the journal's tail begins at %d", e.At(), here, next)
		}
		if e.GetSeq() == 0 {
			continue
		}
		mark := r.mark(e.Owner, e.GetSeq())
		if mark != 0 {
			marked++
		}
		want := uint16(e.GetKind())
		if e.GetLate() {
			want |= 4
		}
		if here {
			want = 0
		}
		if mark&7 != want || mark == 0 && want != 0 {
			bad.add("MARK", "hold %s, ended as %s in %s, late %v, which is in etcd: %v, has mark %#x", e.Hold(), e.GetKind(), e.At(), e.GetLate(), here, mark)
		}
	}
	all := 0
	for _, c := range r.Collected {
		for i := 0; i+1 < len(c.GetMarks()); i += 2 {
			if binary.LittleEndian.Uint16(c.GetMarks()[i:]) != 0 {
				all++
			}
		}
	}
	if all != marked {
		bad.add("MARK", "%d holds are marked as ended, of which %d are in the journal", all, marked)
	}
	return bad
}

// mark is what etcd has of a hold whose batch was collected; 0: nothing.
func (r *Records) mark(owner string, seq uint64) uint16 {
	marks := r.Collected[fmt.Sprintf("%s/%016x", owner, seq/chunkHolds)].GetMarks()
	if at := 2 * (seq % chunkHolds); at+2 <= uint64(len(marks)) {
		return binary.LittleEndian.Uint16(marks[at:])
	}
	return 0
}
