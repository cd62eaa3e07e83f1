// Package ledger is the pure state machine of the money: state, event and time in; answers and transactions to commit
// out. It does no I/O and has no clock. It is not safe for concurrent use: its owner holds a lock around it.
//
// One owner (a server process) holds against grants, slices of each ceiling that it took from the store beforehand, so
// that a reserve is decided in memory. Settlements leave in batches that the owner commits to the store one at a
// time; what a transaction changes is counted only once it is committed. Money that is held stays held until then.
package ledger

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
)

// Timings of the protocol.
const (
	// HeartbeatEvery is how often an owner proves that it still is one.
	HeartbeatEvery = 2 * time.Second
	// HeartbeatValid is how long after a heartbeat was sent its owner may reserve: 8 s less 2% for clock rates.
	HeartbeatValid = 8*time.Second - 160*time.Millisecond
	// SessionLease is the time to live of an owner's session in the store.
	SessionLease = 10 * time.Second
	// Grace is how long after its expiry a hold still counts, for settlements under way.
	Grace = 5 * time.Second
	// DefaultTTL is how long a hold lasts unless the call says otherwise.
	DefaultTTL = 2 * time.Minute
	// DefaultMaxTTL is the longest hold unless the server is told otherwise.
	DefaultMaxTTL = 10 * time.Minute
	// RetryFor is how long a settlement is remembered, so that repeating it gives the first answer.
	RetryFor = 7 * 24 * time.Hour
)

// Quarantine is how long the grants of a dead owner stay out of reach: until the last hold that it can have made is
// over. Of the margin half is for its clock, which may be 2% slow, and half for that of who waits, 2% fast.
func Quarantine(maxTTL time.Duration) time.Duration {
	q := HeartbeatValid + maxTTL + Grace
	return q + q/24
}

// Ledger is the state of one owner.
type Ledger struct {
	Owner string

	all      owners
	accounts map[AccountID]*Account
	list     []*Account // the same, in an order that does not change by itself
	holds    map[uint64]*Hold
	expiring map[int64][]uint64 // holds by the Unix second at which they are freed
	swept    int64              // the last second whose holds were freed
	seq      uint64
	results  results
	journal  Journal
	dead     []*Predecessor
	// generation counts what was collected: what was read from chunk records before counts no longer.
	generation uint64

	attention []*Account // whose grant may have to change
}

// New makes the ledger of an owner that has just started, and lives alone until SetRoster says otherwise.
func New(owner string) *Ledger {
	l := &Ledger{
		Owner: owner, accounts: map[AccountID]*Account{}, holds: map[uint64]*Hold{}, expiring: map[int64][]uint64{},
		journal: Journal{Owner: owner}, all: owners{self: owner},
	}
	l.all.set(nil)
	return l
}

// attend has an account looked at by the next adjustment.
func (l *Ledger) attend(a *Account) {
	if !a.queued {
		a.queued = true
		l.attention = append(l.attention, a)
	}
}

// Call is what a hold and its settlement say of the call.
type Call struct {
	Feature, Tier, Model                    string
	User, Cohort, Agent, Run, PromptPattern string
	Task                                    string // the user's task that it is part of
	Wanted                                  string // the model that a downgrade spared
	ServiceTier, Region                     string // which the price is for
	Effect                                  routing.Effect
	Leased                                  bool      // the hold is a slice, for many calls
	Time                                    time.Time // which the price is for
	Signals                                 usage.CallSignals
}

// Hold is money set aside for one call on every account of its path.
type Hold struct {
	Seq     uint64
	Amount  money.Nanos
	Expires time.Time
	Call    Call
	Path    []*Account
	Charge  bool // on expiry

	entry *Entry // once it is queued for settlement or release
	use   *Use   // of a slice: what was reported of its calls
}

// Kind says how an entry of the journal came to be.
type Kind int32

// Kinds, numbered as in the records.
const (
	KindUnspecified Kind = iota
	KindSettle
	KindRelease
	KindExpiryCharge
	KindUsage
)

// Entry is one entry of the journal.
type Entry struct {
	Seq         uint64 // 0: usage that had no hold
	Kind        Kind
	Amount      money.Nanos
	Forced      money.Nanos // the part of Amount above the hold; all of it when late or without a hold
	Held        money.Nanos
	Late        bool
	Path        []AccountID
	Call        Call
	Usage       usage.Usage
	Cost        usage.Cost // Amount by component; what is in none is in Other
	Saved       usage.Saved
	Outcome     usage.Outcome // of one call
	Counts                    // of all calls that the entry stands for
	Time        time.Time
	RequestID   string
	RequestHash []byte

	// Batch is the transaction that carries the entry; its Done is closed when it is committed or given up.
	Batch *Batch
	// Mark is set where the entry has left the journal: the rest is then as Claim.Marked says.
	Mark Mark

	hold *Hold
}

// Errors of Settle, Release and Extend.
var (
	ErrUnknownHold = errors.New("the hold is not one of this ledger's, or is older than the 7 days in which a settlement can be repeated: send the token of Reserve or Extend, or record the spend with UsageService.RecordUsage")
	ErrReleased    = errors.New("the hold was released before: record the spend with UsageService.RecordUsage")
	ErrSettled     = errors.New("the hold is settled already")
	ErrExpired     = errors.New("the hold has expired: it can still be settled, as forced spend, but not released or extended")
)

// Account finds an open account; nil if it is not open.
func (l *Ledger) Account(id AccountID) *Account { return l.accounts[id] }

// Accounts gives every open account. It must not be changed.
func (l *Ledger) Accounts() []*Account { return l.list }

// Open takes an account that the store has read. Of an open account it takes what is newer.
func (l *Ledger) Open(o Opened, terms Terms, now time.Time) *Account {
	if a := l.accounts[o.ID]; a != nil {
		l.Reload([]Opened{o}, now)
		return a
	}
	a := &Account{
		ID: o.ID, all: &l.all, own: o.Own, others: o.Others, read: o.Rev, whole: o.Rev, looked: now,
		alerted: o.Alerted, used: now, place: len(l.list),
	}
	a.SetTerms(terms)
	a.observe(o.Budget, now)
	if a.bud.Rev == 0 {
		a.bud.Ceil, a.bud.TermsRev = a.ceiling(), terms.Rev
	}
	l.accounts[o.ID] = a
	l.list = append(l.list, a)
	return a
}

// forget closes an account.
func (l *Ledger) forget(a *Account) {
	last := l.list[len(l.list)-1]
	l.list[a.place], last.place = last, a.place
	l.list = l.list[:len(l.list)-1]
	delete(l.accounts, a.ID)
	if a.queued {
		l.attention = slices.DeleteFunc(l.attention, func(b *Account) bool { return b == a })
	}
}

func (l *Ledger) expireAt(h *Hold) {
	at := max(h.Expires.Add(Grace).Unix(), l.swept) + 1
	l.expiring[at] = append(l.expiring[at], h.Seq)
}

// Expire frees the holds that are over, or queues their charge. Call it about once a second; the caller commits what it
// queued.
func (l *Ledger) Expire(now time.Time) (freed, charged int) {
	end := now.Unix()
	if l.swept == 0 || end-l.swept > 86400 {
		for _, at := range slices.Sorted(maps.Keys(l.expiring)) { // after a long pause, or at the start
			if at <= end {
				f, c := l.expireSecond(at, now)
				freed, charged = freed+f, charged+c
			}
		}
	} else {
		for at := l.swept + 1; at <= end; at++ {
			f, c := l.expireSecond(at, now)
			freed, charged = freed+f, charged+c
		}
	}
	l.swept = max(l.swept, end)
	return freed, charged
}

func (l *Ledger) expireSecond(at int64, now time.Time) (freed, charged int) {
	for _, seq := range l.expiring[at] {
		h := l.holds[seq]
		if h == nil || h.entry != nil || h.Expires.Add(Grace).Unix()+1 > at {
			continue // gone, being settled, or extended
		}
		if e := h.atExpiry(); e != nil {
			e.Time = now
			l.queueHold(h, e, now)
			charged++
			continue
		}
		l.free(h)
		freed++
	}
	delete(l.expiring, at)
	return freed, charged
}

func (l *Ledger) free(h *Hold) {
	for _, a := range h.Path {
		a.held -= h.Amount
		if a.bud.Tight && !a.alone() {
			l.attend(a)
		}
	}
	delete(l.holds, h.Seq)
}

// Undo takes a hold back that nobody was told of.
func (l *Ledger) Undo(h *Hold) { l.free(h) }

// Extend makes a live hold last until now+ttl, and never shorter than before. Errors: ErrExpired, ErrSettled,
// ErrReleased, ErrUnknownHold.
func (l *Ledger) Extend(now time.Time, seq uint64, ttl time.Duration) (*Hold, error) {
	h := l.holds[seq]
	switch {
	case h == nil:
		return nil, l.goneError(seq)
	case h.entry != nil:
		return nil, entryError(h.entry)
	case now.After(h.Expires):
		return nil, ErrExpired
	}
	if until := now.Add(ttl); until.After(h.Expires) {
		h.Expires = until
		l.expireAt(h)
	}
	return h, nil
}

func entryError(e *Entry) error {
	if e.Kind == KindRelease {
		return ErrReleased
	}
	return ErrSettled
}

// goneError tells what became of a hold that is not live any more.
func (l *Ledger) goneError(seq uint64) error {
	r, ok := l.results.get(seq)
	switch {
	case seq == 0 || seq > l.seq:
		return ErrUnknownHold
	case !ok:
		return &NotLoadedError{l.Owner, seq, l.generation}
	case r.released:
		return ErrReleased
	case r.batch > 0:
		return ErrSettled
	}
	return ErrExpired
}
