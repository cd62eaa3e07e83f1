package oracle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// Violation is a promise that was broken.
type Violation struct {
	Check string // such as `I4`, an invariant of the ledger
	What  string
}

func (v Violation) String() string { return v.Check + ": " + v.What }

type violations []Violation

func (v *violations) add(check, format string, args ...any) {
	*v = append(*v, Violation{check, fmt.Sprintf(format, args...)})
}

// Source gives batches of the journal as they were written: etcd those that it still has, an archive those that were
// collected. A batch may be in both.
type Source interface {
	Each(batch func(owner string, n uint64, data []byte) error) error
}

// Each gives the batches that are in etcd.
func (r *Records) Each(batch func(owner string, n uint64, data []byte) error) error {
	for at, data := range r.Batches {
		owner, number, _ := strings.Cut(at, "/")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return err
		}
		if err := batch(owner, n, data); err != nil {
			return err
		}
	}
	return nil
}

// Entry is an entry of the journal with where it stands.
type Entry struct {
	*storev1.Entry
	Owner    string
	Batch    uint64
	Accounts []AccountKey
}

// Hold names the hold that the entry ends; empty for usage that had none.
func (e *Entry) Hold() string {
	if e.GetSeq() == 0 {
		return ""
	}
	return fmt.Sprintf("%s/%d", e.Owner, e.GetSeq())
}

// At is the name of the batch, as Settle answers it.
func (e *Entry) At() string { return fmt.Sprintf("jr/%s/%d", e.Owner, e.Batch) }

// Sum is what the journal says of an account.
type Sum struct{ Amount, Forced int64 }

// Journal is all that was ever journalled.
type Journal struct {
	Batches int
	Entries []*Entry
	ByHold  map[string]*Entry
	Sums    map[AccountKey]Sum
}

type rawBatch struct {
	n    uint64
	data []byte
}

// ReadJournal joins the sources and checks that each owner's journal is whole: numbered without a gap, each batch with
// the hash of the one before (JOURNAL), and that each hold is ended once (I4).
func ReadJournal(sources ...Source) (*Journal, []Violation, error) {
	owners, seen := map[string][]rawBatch{}, map[string][]byte{}
	var bad violations
	for _, s := range sources {
		err := s.Each(func(owner string, n uint64, data []byte) error {
			at := fmt.Sprintf("jr/%s/%d", owner, n)
			if first, ok := seen[at]; ok {
				if !bytes.Equal(first, data) {
					bad.add("JOURNAL", "%s has other bytes in another place", at)
				}
				return nil
			}
			seen[at] = data
			owners[owner] = append(owners[owner], rawBatch{n, data})
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	j := &Journal{Batches: len(seen), ByHold: map[string]*Entry{}, Sums: map[AccountKey]Sum{}}
	for owner, list := range owners {
		slices.SortFunc(list, func(a, b rawBatch) int { return cmp.Compare(a.n, b.n) })
		var hash []byte
		for i, raw := range list {
			b := new(storev1.Batch)
			if err := proto.Unmarshal(raw.data, b); err != nil {
				return nil, nil, fmt.Errorf("jr/%s/%d: %w", owner, raw.n, err)
			}
			if raw.n != uint64(i) {
				bad.add("JOURNAL", "jr/%s/%d is missing", owner, i)
			} else if !bytes.Equal(b.GetPreviousHash(), hash) {
				bad.add("JOURNAL", "jr/%s/%d does not follow the batch before it", owner, raw.n)
			}
			sum := sha256.Sum256(raw.data)
			hash = sum[:]
			if err := j.add(owner, raw.n, b, &bad); err != nil {
				return nil, nil, err
			}
		}
	}
	return j, bad, nil
}

func (j *Journal) add(owner string, n uint64, b *storev1.Batch, bad *violations) error {
	for _, r := range b.GetEntries() {
		e := &Entry{Entry: r, Owner: owner, Batch: n}
		for _, i := range r.GetPath() {
			if int(i) >= len(b.GetAccounts()) {
				return fmt.Errorf("an entry of %s names account %d of %d", e.At(), i, len(b.GetAccounts()))
			}
			key := KeyOf(b.GetAccounts()[i])
			e.Accounts = append(e.Accounts, key)
			s := j.Sums[key]
			j.Sums[key] = Sum{s.Amount + r.GetAmount(), s.Forced + r.GetForced()}
		}
		j.Entries = append(j.Entries, e)
		if hold := e.Hold(); hold != "" {
			if first := j.ByHold[hold]; first != nil {
				bad.add("I4", "hold %s is ended in %s as %s and again in %s as %s", hold, first.At(), first.GetKind(), e.At(), e.GetKind())
				continue
			}
			j.ByHold[hold] = e
		}
	}
	return nil
}
