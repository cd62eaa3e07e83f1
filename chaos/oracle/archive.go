package oracle

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// Archive is the archives of servers: where batches go that leave etcd.
type Archive struct{ Dirs []string }

// Each gives the batches of the archives. A record that is not whole ends its directory where nothing comes after it, as a
// killed server leaves it.
func (a Archive) Each(batch func(owner string, n uint64, data []byte) error) error {
	for _, dir := range a.Dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.journal")) // in the order of their numbers
		if err != nil {
			return err
		}
		for i, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			rest, ok := bytes.CutPrefix(data, []byte("chartergate journal 1\n"))
			for ok && len(rest) > 0 {
				rest, ok, err = record(rest, batch)
				if err != nil {
					return err
				}
			}
			if !ok && i < len(files)-1 {
				return fmt.Errorf("%s is damaged", file)
			}
		}
	}
	return nil
}

// record reads one record: length and CRC-32C of the body, 4 bytes each, little-endian; in the body the owner after its
// length as a uvarint, the number as a uvarint, the batch.
func record(data []byte, batch func(owner string, n uint64, data []byte) error) (rest []byte, ok bool, err error) {
	if len(data) < 8 {
		return nil, false, nil
	}
	size, sum := binary.LittleEndian.Uint32(data), binary.LittleEndian.Uint32(data[4:])
	if uint64(len(data)-8) < uint64(size) {
		return nil, false, nil
	}
	body, rest := data[8:8+size], data[8+size:]
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return nil, false, nil
	}
	length, at := binary.Uvarint(body)
	owner := string(body[at : at+int(length)])
	n, more := binary.Uvarint(body[at+int(length):])
	return rest, true, batch(owner, n, body[at+int(length)+more:])
}
