package ledger

// result says what became of a hold. batch is one more than the number of the batch with its entry; 0: freed at its
// expiry.
type result struct {
	batch    uint64
	released bool
}

const releasedFlag = 1 << 31

// chunk is the results of ChunkSize holds, 4 bytes each.
type chunk struct {
	last uint64 // the highest result.batch of any
	v    [ChunkSize]uint32
}

// results remembers what became of the holds of this owner, so that a settlement that is repeated finds its first
// answer. Once all of a chunk has left the store's journal, it is forgotten here: the store's chunk record has it.
type results struct {
	chunks map[uint64]*chunk
	floor  uint64              // chunks below are forgotten
	gone   map[uint64]struct{} // chunks from floor on that are forgotten too
	lates  map[uint64]*Entry   // queued after the hold was freed
	extra  map[uint64]result   // of forgotten chunks: what was committed since and is not collected
}

// get gives what became of a hold; false when that is forgotten.
func (r *results) get(seq uint64) (result, bool) {
	if r.forgotten(seq / ChunkSize) {
		x, ok := r.extra[seq]
		return x, ok
	}
	c := r.chunks[seq/ChunkSize]
	if c == nil {
		return result{}, true
	}
	v := c.v[seq%ChunkSize]
	return result{uint64(v &^ releasedFlag), v&releasedFlag != 0}, true
}

func (r *results) forgotten(n uint64) bool {
	_, gone := r.gone[n]
	return gone || n < r.floor
}

func (r *results) set(seq uint64, v result) {
	delete(r.lates, seq)
	n := seq / ChunkSize
	if r.forgotten(n) {
		if r.extra == nil {
			r.extra = map[uint64]result{}
		}
		r.extra[seq] = v
		return
	}
	if r.chunks == nil {
		r.chunks = map[uint64]*chunk{}
	}
	c := r.chunks[n]
	if c == nil {
		c = new(chunk)
		r.chunks[n] = c
	}
	x := uint32(v.batch)
	if v.released {
		x |= releasedFlag
	}
	c.v[seq%ChunkSize] = x
	c.last = max(c.last, v.batch)
}

func (r *results) late(seq uint64) *Entry { return r.lates[seq] }

func (r *results) setLate(seq uint64, e *Entry) {
	if r.lates == nil {
		r.lates = map[uint64]*Entry{}
	}
	r.lates[seq] = e
}

// collected forgets what is in batches before next alone. end is the first chunk that may still get new holds. A live
// hold does not keep its chunk: what becomes of it goes to extra.
func (r *results) collected(next, end uint64) {
	for seq, x := range r.extra {
		if x.batch <= next {
			delete(r.extra, seq)
		}
	}
	for n := r.floor; n < end; n++ {
		if c := r.chunks[n]; !r.forgotten(n) && (c == nil || c.last <= next) {
			delete(r.chunks, n)
			if r.gone == nil {
				r.gone = map[uint64]struct{}{}
			}
			r.gone[n] = struct{}{}
		}
	}
	for ; r.forgotten(r.floor); r.floor++ {
		delete(r.gone, r.floor)
	}
}

// Collected takes that the batches of an owner before next have left the store's journal: what they hold is kept in its
// chunk records, and no longer here.
func (l *Ledger) Collected(owner string, next uint64) {
	l.generation++
	if owner == l.Owner {
		l.results.collected(next, (l.seq+1)/ChunkSize)
	} else if p := l.Predecessor(owner); p != nil {
		for seq, r := range p.results {
			if r.batch <= next {
				delete(p.results, seq)
			}
		}
	}
}

// Committed gives the number of the first batch of an owner that is not committed as far as this ledger knows. False
// when the owner's journal is not loaded.
func (l *Ledger) Committed(owner string) (n uint64, loaded bool) {
	if owner == l.Owner {
		return l.journal.Next, true
	}
	if p := l.Predecessor(owner); p != nil && p.Loaded() {
		return p.journal.Next, true
	}
	return 0, false
}
