package replay

import (
	"math/bits"
	"time"
)

// Latencies counts durations in flat memory: percentiles are exact to 1 in 128. The zero value is empty. It is not safe
// for concurrent use.
type Latencies struct {
	buckets [64 * steps]int64
	count   int64
	longest time.Duration
}

// steps is how many buckets each power of two of nanoseconds has.
const steps = 128

// Add counts one duration.
func (l *Latencies) Add(d time.Duration) {
	d = max(d, 0)
	l.buckets[bucketOf(uint64(d))]++
	l.count++
	l.longest = max(l.longest, d)
}

// Merge counts what other has counted.
func (l *Latencies) Merge(other *Latencies) {
	for i, n := range other.buckets {
		l.buckets[i] += n
	}
	l.count += other.count
	l.longest = max(l.longest, other.longest)
}

// Count is how many durations were counted.
func (l *Latencies) Count() int64 { return l.count }

// Percentile gives the duration that permille of all durations do not exceed; 0 when there are none.
func (l *Latencies) Percentile(permille int64) time.Duration {
	rank := max(1, (l.count*permille+999)/1000)
	var seen int64
	for i, n := range l.buckets {
		if seen += n; seen >= rank {
			return min(ceiling(i), l.longest)
		}
	}
	return 0
}

// bucketOf chooses by the leading 8 bits; durations of fewer bits have a bucket for each nanosecond.
func bucketOf(ns uint64) int {
	shift := max(0, bits.Len64(ns)-8)
	return shift*steps + int(ns>>shift)
}

// ceiling is the longest duration of a bucket.
func ceiling(bucket int) time.Duration {
	shift := max(0, bucket/steps-1)
	return time.Duration(uint64(bucket-shift*steps+1)<<shift - 1)
}
