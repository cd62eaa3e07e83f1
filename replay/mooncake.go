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
	HashIDs      []int64      `json:"hash_ids"`
}

func readMooncake(file string, r io.Reader) Rows {
	var c clock
	cache := prefixCache{used: make(map[int64]time.Duration)}
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
		return row, nil
	})
}

// prefixCache knows when each prompt block was last used.
type prefixCache struct {
	used  map[int64]time.Duration
	sweep int // the size at which to drop what has expired
}

// use counts the leading blocks that are in the cache, and puts all of them there.
func (c *prefixCache) use(blocks []int64, now time.Duration) (cached int64) {
	leading := true
	for _, b := range blocks {
		last, ok := c.used[b]
		if leading = leading && ok && now-last <= CacheTTL; leading {
			cached++
		}
	}
	for _, b := range blocks {
		c.used[b] = now
	}
	if len(c.used) > c.sweep {
		for b, last := range c.used {
			if now-last > CacheTTL {
				delete(c.used, b)
			}
		}
		c.sweep = 2*len(c.used) + 1024
	}
	return cached
}
