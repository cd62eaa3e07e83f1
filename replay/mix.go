package replay

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

// Mix parts rows among names by a hash of what each row is and its place in the trace: the same trace is parted alike
// every time, whatever the order and the speed in which it is sent.
type Mix struct {
	names   []string
	weights []uint64
	total   uint64
}

// Limits of a mix.
const (
	maxMixNames  = 1000
	maxMixWeight = 1_000_000
)

// ParseMix reads names with weights, such as `free=3,pro`; a name without one weighs 1. Of an empty text nothing is given.
func ParseMix(s string) (Mix, error) {
	var m Mix
	if s == "" {
		return m, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		name, text, weighted := strings.Cut(strings.TrimSpace(part), "=")
		weight := uint64(1)
		if weighted {
			var err error
			if weight, err = strconv.ParseUint(text, 10, 64); err != nil || weight < 1 || weight > maxMixWeight {
				return m, fmt.Errorf("%q: the weight of %s must be 1 to %d", s, name, maxMixWeight)
			}
		}
		switch {
		case name == "":
			return m, fmt.Errorf("%q has an empty name: write names such as free=3,pro", s)
		case slices.Contains(m.names, name):
			return m, fmt.Errorf("%q names %s twice", s, name)
		case len(m.names) == maxMixNames:
			return m, fmt.Errorf("%d names are too many: give at most %d", strings.Count(s, ",")+1, maxMixNames)
		}
		m.names, m.weights, m.total = append(m.names, name), append(m.weights, weight), m.total+weight
	}
	return m, nil
}

// of gives the name for a hash; empty where there is none.
func (m *Mix) of(hash uint64) string {
	if m.total == 0 {
		return ""
	}
	n := hash % m.total
	for i, w := range m.weights {
		if n < w {
			return m.names[i]
		}
		n -= w
	}
	return ""
}

// hash tells rows apart, each purpose in its own way.
func (r *Row) hash(number int64, purpose string) uint64 {
	h := fnv.New64a()
	var b []byte
	for _, n := range [...]int64{number, int64(r.At), r.InputTokens, r.OutputTokens} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	for _, s := range [...]string{r.User, r.Run, purpose} {
		b = append(append(b, s...), 0)
	}
	_, _ = h.Write(b) // never fails
	x := h.Sum64()    // FNV's low bits are poor: finish as MurmurHash3 does
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// mixed is the row with what the options' mixes say of it, where it says nothing itself, and the feature that makes it.
func (o *Options) mixed(r Row, number int64) (Row, string) {
	feature := o.Feature
	if name := o.Features.of(r.hash(number, "feature")); name != "" {
		feature = name
	}
	if r.Cohort == "" {
		r.Cohort = o.Cohorts.of(r.hash(number, "cohort"))
	}
	if r.Tier == "" && r.Model == "" {
		r.Tier = o.Tiers.of(r.hash(number, "tier"))
	}
	if r.Outcome == OutcomeUnknown && o.SuccessPercent != nil {
		r.Outcome = OutcomeFailure
		if r.hash(number, "outcome")%100 < uint64(*o.SuccessPercent) {
			r.Outcome = OutcomeSuccess
		}
	}
	return r, feature
}

// AllFeatures are the features that make the calls.
func (o *Options) AllFeatures() []string {
	if len(o.Features.names) > 0 {
		return o.Features.names
	}
	return []string{o.Feature}
}
