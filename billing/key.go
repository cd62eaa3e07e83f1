package billing

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/chartergate/chartergate/core/bill"
)

// keyHash makes the keys of lines.
type keyHash struct {
	buffer []byte
}

func (r *reader) columns(folded ...string) []int {
	var at []int
	for _, f := range folded {
		if i := r.table.column(f); i >= 0 {
			at = append(at, i)
		}
	}
	return at
}

func (k *keyHash) add(v string) {
	k.buffer = binary.AppendUvarint(k.buffer, uint64(len(v)))
	k.buffer = append(k.buffer, v...)
}

func (k *keyHash) write(record []string, identity []int, l *bill.Line) {
	k.buffer = k.buffer[:0]
	for n, i := range identity {
		switch v := record[i]; v {
		case "", "NULL", "null", `\N`: // so that a column that comes later changes no key while it is empty
		default:
			k.buffer = append(k.buffer, byte(n))
			k.add(v)
		}
	}
	if l.Resource == "" {
		k.add(l.Tags)
	}
	sum := sha256.Sum256(k.buffer)
	copy(l.Key[:], sum[:])
}
