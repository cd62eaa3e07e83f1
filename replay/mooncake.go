package replay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// A prompt's cached share in a Mooncake trace is the leading run of its hash_ids that stand in the cache, each for
// CacheBlockTokens tokens, at most the prompt.
const (
	// CacheBlockTokens is how many prompt tokens one hash id stands for.
	CacheBlockTokens = 512
	// CacheTTL is how long a block stays in the cache, in trace time, from its last use: the shortest cache life that
	// providers sell. The cache has no other bound.
	CacheTTL = 5 * time.Minute
)

type mooncakeRow struct {
	Timestamp    *json.Number `json:"timestamp"`
	InputLength  *int64       `json:"input_length"`
	OutputLength *int64       `json:"output_length"`
	HashIDs      []uint64     `json:"hash_ids"`
}

func readMooncake(file string, r io.Reader) Rows {
	var c clock
	cache := prefixCache{ttl: CacheTTL, used: make(map[uint64]time.Duration)}
	return readLines(file, r, func(line []byte) (Row, error) {
		var m mooncakeRow
		if err := decodeObject(line, &m, (*json.Decoder).DisallowUnknownFields); err != nil {
			return Row{}, err
		}
		if m.Timestamp == nil || m.InputLength == nil || m.OutputLength == nil {
			return Row{}, errors.New("timestamp, input_length and output_length are required")
		}
		ms, err := m.Timestamp.Float64()
		if err != nil {
			return Row{}, fmt.Errorf("timestamp: %w", err)
		}
		row := Row{InputTokens: *m.InputLength, OutputTokens: *m.OutputLength}
		row.At = c.since(time.UnixMicro(int64(ms * 1000)))
		row.CachedTokens = min(cache.use(m.HashIDs, row.At)*CacheBlockTokens, max(0, row.InputTokens))
		row.Prefix, row.PrefixBlock = m.HashIDs, CacheBlockTokens
		return row, nil
	})
}
