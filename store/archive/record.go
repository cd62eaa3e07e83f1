package archive

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/chartergate/chartergate/store"
)

// A segment is the magic line, then records. A record is the length and the CRC-32C of its body, 4 bytes each,
// little-endian, and the body: the length of the owner's name as a uvarint, the name, the batch's number as a uvarint, and
// the batch.
const (
	magic      = "chartergate journal 1\n"
	headerSize = 8
	// maxBody bounds a record: a batch is some 100 KiB at most.
	maxBody = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errIncomplete says that bytes are no whole record.
var errIncomplete = errors.New("no whole record")

func appendRecord(dst []byte, b store.OutboxBatch) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, headerSize)...)
	dst = binary.AppendUvarint(dst, uint64(len(b.Owner)))
	dst = append(dst, b.Owner...)
	dst = binary.AppendUvarint(dst, b.N)
	dst = append(dst, b.Data...)
	body := dst[at+headerSize:]
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(body)))
	binary.LittleEndian.PutUint32(dst[at+4:], crc32.Checksum(body, castagnoli))
	return dst
}

// bodySize reads a header. Error: errIncomplete.
func bodySize(header []byte) (int, error) {
	n := binary.LittleEndian.Uint32(header)
	if n == 0 || n > maxBody {
		return 0, errIncomplete
	}
	return int(n), nil
}

// parseBody reads a body. Error: errIncomplete.
func parseBody(header, body []byte) (b store.OutboxBatch, err error) {
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(header[4:]) {
		return b, errIncomplete
	}
	size, n := binary.Uvarint(body)
	if n <= 0 || size > uint64(len(body)-n) {
		return b, errIncomplete
	}
	b.Owner, body = string(body[n:n+int(size)]), body[n+int(size):]
	if b.N, n = binary.Uvarint(body); n <= 0 {
		return b, errIncomplete
	}
	b.Data = body[n:]
	return b, nil
}
