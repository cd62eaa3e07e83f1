// Package ledger is the pure state machine of the money: state, event and time in; answers and transactions to commit
// out. It does no I/O and has no clock. It is not safe for concurrent use: its owner holds a lock around it.
//
// One owner (a server process) holds against grants, slices of each ceiling that it took from the store beforehand, so
// that a reserve is decided in memory. Settlements leave in batches that the owner commits to the store one at a
// time; what a transaction changes is counted only once it is committed. Money that is held stays held until then.
package ledger

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/guard"
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
	Effect                                  routing.Effect
	Leased                                  bool      // the hold is a slice, for many calls
	Time                                    time.Time // which the price is for
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

// Refusal says why no amount could be held.
type Refusal struct {
	Account   *Account    // the one that bound the smallest amount most tightly
	Amount    money.Nanos // the smallest amount that was tried
	Remaining money.Nanos // what could be held on Account
	State     State       // of Account
}

// InFlight says that the amount would fit if the money held by calls in flight, or by other replicas, came back.
func (r *Refusal) InFlight() bool {
	return r.State.Held > 0 && r.State.Ceil-r.State.Settled >= max(r.Amount, 1)
}

// Result is what Reserve found.
type Result struct {
	Hold    *Hold
	Choice  int           // index of the amount that fits; -1: none
	Bound   *Account      // what the first amount did not fit, when Choice is another
	Wait    bool          // a grant is needed first: commit NextAdjustment, then reserve again
	AtMost  time.Duration // with Wait: how long that may help, if not for as long as it takes
	Forward bool          // the home replica of the tree has to decide
	Refused Refusal       // with Choice -1
}

// Reserve holds the first of the amounts that fits on every account of the path, all or nothing. When an amount would
// fit once more of a ceiling is granted, it asks for that and answers Wait instead of holding a later amount. Near a
// ceiling it answers Forward where another replica holds what is left, unless here is set: then it takes what it can.
func (l *Ledger) Reserve(now time.Time, path []*Account, amounts []money.Nanos, ttl time.Duration, call Call, here bool) Result {
	res := l.reach(now, path, amounts, here)
	if res.Choice < 0 || res.Forward {
		return res
	}
	x := amounts[res.Choice]
	for _, a := range path {
		a.used = now
		if room, _ := a.room(); x > room {
			a.wanted += x
			a.here = a.here || here
			l.attend(a)
			res.Wait = true
		}
	}
	if res.Wait {
		return res
	}
	l.seq++
	h := &Hold{Seq: l.seq, Amount: x, Expires: now.Add(ttl), Call: call, Path: slices.Clone(path)}
	for _, a := range path {
		a.held += x
		a.usual = max(x, a.usual-a.usual/64)
		if a.low(now) {
			l.attend(a)
		}
		h.Charge = h.Charge || a.terms.Charge
	}
	l.holds[h.Seq] = h
	l.expireAt(h)
	res.Hold = h
	return res
}

// Check finds what Reserve would do, without holding anything.
func (l *Ledger) Check(now time.Time, path []*Account, amounts []money.Nanos, here bool) Result {
	return l.reach(now, path, amounts, here)
}

// reach finds the first amount that fits, and whether this owner may take what that needs.
func (l *Ledger) reach(now time.Time, path []*Account, amounts []money.Nanos, here bool) Result {
	res := choose(path, amounts)
	if len(l.all.list) == 1 {
		return res
	}
	home := here || path[0].atHome
	if res.Choice < 0 {
		if !home {
			res.Forward = true
			return res
		}
		res.Wait, res.AtMost = l.recall(now, path, res.Refused.Amount)
		return res
	}
	if x := amounts[res.Choice]; !home {
		for _, a := range path {
			if room, _ := a.room(); x > room && a.wanted+x-room > a.share() {
				res.Forward = true
			}
		}
	}
	return res
}

// Recall asks for the idle money of other replicas where a budget of the path is used up without it, and says whether to
// wait for it.
func (l *Ledger) Recall(now time.Time, path []*Account) (wait bool, atMost time.Duration) {
	if len(l.all.list) == 1 {
		return false, 0
	}
	return l.recall(now, path, 1)
}

// recall asks for the idle money of other replicas before a call is refused, and says whether to wait for it.
func (l *Ledger) recall(now time.Time, path []*Account, x money.Nanos) (wait bool, atMost time.Duration) {
	for _, a := range path {
		if _, most := a.room(); x <= most || a.bud.Rev == 0 || a.grantedElsewhere() <= 0 || a.bud.Sealed {
			continue // of a sealed period what comes back is not granted again
		}
		if !a.bud.Tight {
			a.tighten = true
			l.attend(a)
			wait, atMost = true, TightWait
		} else if left := TightWait - now.Sub(a.tight); left > 0 && left <= TightWait {
			wait, atMost = true, max(atMost, left)
		}
	}
	return wait, atMost
}

// choose finds the first amount that fits on every account, once all that is left of each is granted.
func choose(path []*Account, amounts []money.Nanos) Result {
	res := Result{Choice: -1}
	for i, x := range amounts {
		var bound *Account
		left := money.Nanos(1<<63 - 1)
		for _, a := range path {
			if _, most := a.room(); x > most && most < left {
				bound, left = a, most
			}
		}
		if bound == nil {
			res.Choice = i
			return res
		}
		if res.Bound == nil {
			res.Bound = bound
		}
		if res.Refused.Account == nil || x < res.Refused.Amount {
			res.Refused = Refusal{bound, x, max(0, left), bound.State()}
		}
	}
	return res
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

// Claim identifies a hold to Settle and Release: what its token says.
type Claim struct {
	Owner   string
	Seq     uint64
	Amount  money.Nanos
	Expires time.Time
	Call    Call
	Path    []AccountID
	Found   *Found // after NotLoadedError
}

// Journaled says where the entry of a hold stands that was settled or released before: in a batch of the journal, or,
// when that was collected, as a mark.
type Journaled struct {
	Owner string
	Batch uint64
	Mark  Mark
}

// Settle queues the settlement of a hold at a cost. It returns the entry, whose Batch must be committed, or, when the
// hold was settled before, where its entry stands, for the caller to compare. ErrReleased and ErrSettled come with the
// entry where that is under way: they are true once it is committed. Errors: ErrReleased, ErrSettled, ErrUnknownHold,
// money.ErrOverflow, ErrNotOpen when an account of the claim is not open, ErrNotTaken when the claim's owner is gone and
// not taken over yet, *NotLoadedError when the claim's chunk record must be read first.
func (l *Ledger) Settle(now time.Time, c *Claim, e Entry) (*Entry, *Journaled, error) {
	e.Kind, e.Time = KindSettle, now
	return l.finish(now, c, &e)
}

// Release queues the release of a hold. As Settle; a hold that has expired gives ErrExpired.
func (l *Ledger) Release(now time.Time, c *Claim) (*Entry, *Journaled, error) {
	return l.finish(now, c, &Entry{Kind: KindRelease, Time: now})
}

// Ended finds the entry with which a hold has ended or is about to end, and queues nothing. Errors: ErrAgain when the hold
// is live again, because that entry was not written; ErrNotTaken and *NotLoadedError as Settle.
func (l *Ledger) Ended(c *Claim) (*Entry, *Journaled, error) {
	var r result
	var known bool
	var under *Entry
	if c.Owner == l.Owner {
		if h := l.holds[c.Seq]; h != nil {
			under, known = h.entry, true
		} else {
			under = l.results.late(c.Seq)
			r, known = l.results.get(c.Seq)
		}
	} else {
		p := l.Predecessor(c.Owner)
		if p == nil || p.results == nil {
			return nil, nil, ErrNotTaken
		}
		under = p.pending[c.Seq]
		r, known = p.results[c.Seq]
	}
	switch {
	case under != nil:
		return under, nil, nil
	case r.batch > 0:
		return nil, &Journaled{Owner: c.Owner, Batch: r.batch - 1}, nil
	case known:
		return nil, nil, ErrAgain
	case c.Found == nil || c.Found.Generation != l.generation && guard.CollectionGeneration:
		return nil, nil, &NotLoadedError{c.Owner, c.Seq, l.generation}
	case c.Found.Mark == 0:
		return nil, nil, ErrAgain
	}
	return nil, &Journaled{Owner: c.Owner, Mark: c.Found.Mark}, nil
}

func (l *Ledger) finish(now time.Time, c *Claim, e *Entry) (*Entry, *Journaled, error) {
	if c.Owner != l.Owner {
		return l.finishDead(now, c, e)
	}
	if h := l.holds[c.Seq]; h != nil {
		switch {
		case h.entry == nil:
			if e.Kind == KindRelease && now.After(h.Expires) {
				return nil, nil, ErrExpired
			}
			if err := checkSum(h.Path, e.Amount); err != nil {
				return nil, nil, err
			}
			return l.queueHold(h, e, now), nil, nil
		case (h.entry.Kind == KindRelease) != (e.Kind == KindRelease):
			return h.entry, nil, entryError(h.entry)
		}
		return h.entry, nil, nil // under way: the caller compares amounts once it is committed
	}
	if c.Seq == 0 || c.Seq > l.seq {
		return nil, nil, ErrUnknownHold
	}
	r, ok := l.results.get(c.Seq)
	if !ok {
		if before, err := l.ended(c, e.Kind); before != nil || err != nil {
			return nil, before, err
		}
	}
	switch {
	case r.released && e.Kind != KindRelease:
		return nil, nil, ErrReleased
	case r.batch > 0 && !r.released && e.Kind == KindRelease:
		return nil, nil, ErrSettled
	case r.batch > 0:
		return nil, &Journaled{Owner: l.Owner, Batch: r.batch - 1}, nil
	case e.Kind == KindRelease:
		return nil, nil, ErrExpired
	case l.results.late(c.Seq) != nil:
		return l.results.late(c.Seq), nil, nil
	case c.tooOld(now):
		return nil, nil, ErrUnknownHold
	}
	// The hold was freed at its expiry: late, so all of it is forced.
	path, err := l.path(c.Path)
	if err != nil {
		return nil, nil, err
	}
	if err := checkSum(path, e.Amount); err != nil {
		return nil, nil, err
	}
	e.Seq, e.Held, e.Forced, e.Late, e.Call, e.Path = c.Seq, c.Amount, e.Amount, true, merged(c.Call, e.Call), c.Path
	l.results.setLate(c.Seq, e)
	l.journal.queue(e, now)
	return e, nil, nil
}

// merged keeps what the settlement says of the call where it differs from the hold: the model that was really used.
func merged(hold, settle Call) Call {
	if settle.Model != "" {
		hold.Model, hold.Tier = settle.Model, settle.Tier
	}
	return hold
}

func (l *Ledger) queueHold(h *Hold, e *Entry, now time.Time) *Entry {
	e.Seq, e.Held, e.hold, e.Call = h.Seq, h.Amount, h, merged(h.Call, e.Call)
	e.Forced = max(0, e.Amount-h.Amount)
	e.Path = make([]AccountID, len(h.Path))
	for i, a := range h.Path {
		e.Path[i] = a.ID
	}
	h.entry = e
	if !guard.HeldUntilCommitted {
		l.free(h)
	}
	l.journal.queue(e, now)
	return e
}

// Use queues usage that had no hold: forced spend. Errors: ErrNotOpen, money.ErrOverflow.
func (l *Ledger) Use(now time.Time, path []AccountID, e Entry) (*Entry, error) {
	accounts, err := l.path(path)
	if err != nil {
		return nil, err
	}
	if err := checkSum(accounts, e.Amount); err != nil {
		return nil, err
	}
	e.Kind, e.Time, e.Path, e.Forced = KindUsage, now, path, e.Amount
	l.journal.queue(&e, now)
	return &e, nil
}

// ErrNotOpen says that an account must be opened first.
var ErrNotOpen = errors.New("an account is not open")

func (l *Ledger) path(ids []AccountID) ([]*Account, error) {
	path := make([]*Account, len(ids))
	for i, id := range ids {
		if path[i] = l.accounts[id]; path[i] == nil {
			return nil, fmt.Errorf("%w: %s", ErrNotOpen, id)
		}
	}
	return path, nil
}

// checkSum refuses an amount that an account's sums could not hold, with room for what is queued before it.
func checkSum(path []*Account, x money.Nanos) error {
	const most = money.Nanos(1<<63-1) / 4 // 2.3 billion currency units
	if x < 0 || x > most/MaxBatchEntries {
		return fmt.Errorf("one call settles at most %s: %w", most/MaxBatchEntries, money.ErrOverflow)
	}
	for _, a := range path {
		if a.bud.Alloc > most || a.bud.Forced > most {
			return money.ErrOverflow
		}
	}
	return nil
}
