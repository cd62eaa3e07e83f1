package ledger

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/money"
)

// AccountID names a ceiling: one budget, or one key of it, or one feature's overflow allowance, in one period.
type AccountID struct {
	Budget   string
	Key      string // of a `per` budget
	Overflow string // the feature whose overflow allowance this is
	Start    int64  // of the period, in Unix seconds, inclusive
	End      int64  // of the period, in Unix seconds, exclusive
}

// Compare orders accounts by their names and periods.
func (id AccountID) Compare(other AccountID) int {
	return cmp.Or(cmp.Compare(id.Budget, other.Budget), cmp.Compare(id.Key, other.Key), cmp.Compare(id.Overflow, other.Overflow),
		cmp.Compare(id.Start, other.Start), cmp.Compare(id.End, other.End))
}

// Terms are what the control records say of an account.
type Terms struct {
	Root       string      // of the budget tree: whose home replica holds what is left near a ceiling
	Limit      money.Nanos // without rollover
	Rev        int64       // of the control record that says so: a newer one wins
	Thresholds []int32     // alert thresholds in per mille, ascending
	Charge     bool        // a hold that expires is charged in full
	Feature    string      // whose thresholds these are, if a charter's
}

// SetTerms takes a change of the control records. A lower ceiling binds at once; Sweep has it stored.
func (a *Account) SetTerms(t Terms) {
	a.terms = t
	a.atHome = a.all.home(t.Root) == a.all.self
}

// Terms gives the terms in force.
func (a *Account) Terms() Terms { return a.terms }

// Touch says that the account is about to be used, so that it stays open.
func (a *Account) Touch(now time.Time) { a.used = now }

// Grant is the part of a ceiling that one owner may hold against, and what it has settled of it.
type Grant struct {
	Alloc, Spent money.Nanos
	Gen          int64
	Rev          int64 // the store's revision of the record; 0: there is none
}

// Budget is the durable record of a ceiling. Alloc = Base + the sum of the grants' Alloc.
type Budget struct {
	Ceil, Rollover, Alloc, Base, Forced money.Nanos
	Gen                                 int64
	TermsRev                            int64 // Terms.Rev that Ceil was taken from
	Tight                               bool  // the home replica holds what is left; others return what is idle
	Sealed                              bool  // the rest was rolled over into the next period: nothing more is granted
	Rev                                 int64 // the store's revision of the record; 0: there is none
}

// Opened is what the store knows of an account.
type Opened struct {
	ID      AccountID
	Budget  Budget
	Own     Grant
	Others  map[string]Grant // grants of other owners, live or gone
	Alerted []int32          // thresholds whose alert is recorded
	Rev     int64            // the store's revision when all this was read
}

// Account is an open account. Its fields change under the Ledger's methods only.
type Account struct {
	ID    AccountID
	terms Terms
	all   *owners

	bud    Budget
	own    Grant
	others map[string]Grant
	read   int64     // the store's revision that others is known at
	whole  int64     // the store's revision when all of others was read: a grant of another owner that is newer may be missing
	looked time.Time // when that was

	held    money.Nanos // by live holds of this owner, until their settlement is committed
	wanted  money.Nanos // what waiting calls need beyond the grant
	slice   money.Nanos // how much to ask for at once
	usual   money.Nanos // about the largest hold of late
	granted time.Time   // when the last slice came
	used    time.Time   // when it was last asked for
	tight   time.Time   // since when this owner knows that it is tight; zero: it is not
	tighten bool        // to be made tight
	closing bool        // its grant is to be folded into the base
	atHome  bool        // this owner holds what is left near the ceiling
	here    bool        // a call that waits cannot be forwarded
	moving  bool        // a transaction of this owner that writes the budget is under way
	ahead   Budget      // what others wrote meanwhile, or what it wrote itself
	queued  bool        // it asked for attention
	place   int         // in Ledger.list

	alerted []int32
}

// newer says that the stored ceiling was taken from newer control records than this owner has seen.
func (a *Account) newer() bool { return guard.TermsRevision && a.bud.TermsRev > a.terms.Rev }

// ceiling is the ceiling in force now, which may differ from the stored one until that is adjusted.
func (a *Account) ceiling() money.Nanos {
	if a.newer() {
		return a.bud.Ceil
	}
	c, err := money.Add(a.terms.Limit, a.bud.Rollover)
	if err != nil {
		return money.Nanos(1<<63 - 1)
	}
	return c
}

// OldView says that others hold money of which they may have settled some since this owner looked, a second ago or more.
func (a *Account) OldView(now time.Time) bool {
	live, gone := a.elsewhere()
	since := now.Sub(a.looked)
	return live+gone > 0 && (since < 0 || since >= time.Second)
}

// settled is everything settled, committed only. Of other owners it is what was read last.
func (a *Account) settled() money.Nanos {
	s := a.bud.Base + a.own.Spent
	for _, g := range a.others {
		s += g.Spent
	}
	return s
}

// elsewhere is what other owners may hold: of owners that live, and of those that are gone. What was granted since the
// grants were read counts as of one that lives, if there is one.
func (a *Account) elsewhere() (live, gone money.Nanos) {
	for owner, g := range a.others {
		if a.all.live[owner] {
			live += g.Alloc - g.Spent
		} else {
			gone += g.Alloc - g.Spent
		}
	}
	if a.alone() {
		return live, max(0, gone+a.unread())
	}
	return max(0, live+a.unread()), gone
}

// granted elsewhere, by the budget's record alone, which is newer than what was read of the grants.
func (a *Account) grantedElsewhere() money.Nanos { return a.bud.Alloc - a.bud.Base - a.own.Alloc }

// idle is the part of the grant that nothing uses.
func (a *Account) idle() money.Nanos { return a.own.Alloc - a.own.Spent - a.held }

// ungranted is what may still be granted under the ceiling in force; negative while a lowered ceiling drains.
func (a *Account) ungranted() money.Nanos {
	if !guard.CeilingCheck {
		return a.ceiling()
	}
	free := a.ceiling() - a.bud.Alloc
	if guard.SealedPeriod && a.bud.Sealed {
		return min(free, 0)
	}
	return free
}

// room says how much a hold may take now, and how much once all that is left is granted.
func (a *Account) room() (now, granted money.Nanos) {
	idle, free := a.idle(), a.ungranted()
	if free < 0 { // a lowered ceiling, or forced spend above it: idle money is no longer ours to use
		idle += free
		return idle, idle
	}
	return idle, idle + free
}

// State is how an account stands.
type State struct {
	ID                              AccountID
	Ceil, Rollover, Settled, Forced money.Nanos
	Held                            money.Nanos // by calls, or granted to other replicas and not settled
	HeldHere                        money.Nanos // the part of Held by calls of this replica
	Elsewhere                       money.Nanos // the part of Held that other replicas which live were granted; what they settled since it was read is in it
	Quarantined                     money.Nanos // the part of Held that owners which are gone may have held
	Idle                            money.Nanos // granted to this replica and used by nothing; not in Held
	Drain                           money.Nanos // what is granted beyond a lowered ceiling, forced spend apart
	Tight                           bool        // one replica holds what is left
	Pending                         int         // owners that have not acknowledged the latest ceiling
	Alerted                         []int32
}

// Remaining is the ceiling less what is settled and held, at least 0.
func (s *State) Remaining() money.Nanos { return max(0, s.Ceil-s.Settled-s.Held) }

// Utilization is (settled + held) / ceiling in per mille, rounded down.
func (s *State) Utilization() int32 { return money.Permille(s.Settled+s.Held, s.Ceil) }

// State gives how the account stands.
func (a *Account) State() State {
	live, gone := a.elsewhere()
	st := State{
		ID: a.ID, Ceil: a.ceiling(), Rollover: a.bud.Rollover, Settled: a.settled(), Forced: a.bud.Forced,
		Held: a.held + live + gone, HeldHere: a.held, Elsewhere: live, Quarantined: gone, Idle: a.idle(), Tight: a.bud.Tight, Alerted: slices.Clone(a.alerted),
	}
	st.Drain = max(0, a.bud.Alloc-a.bud.Forced-st.Ceil)
	for _, g := range a.others {
		if g.Gen != a.bud.Gen {
			st.Pending++
		}
	}
	if a.own.Rev != 0 && a.own.Gen != a.bud.Gen {
		st.Pending++
	}
	return st
}

// Utilization is (settled + held) / ceiling in per mille, rounded down. What is granted elsewhere counts as used: it is
// known at once, and only a slice more than what is really used there.
func (a *Account) Utilization() int32 {
	return money.Permille(a.bud.Alloc-a.idle(), a.ceiling())
}

// LowestThreshold is the first alert threshold in per mille, 1000 if there is none.
func (a *Account) LowestThreshold() int32 {
	if len(a.terms.Thresholds) == 0 {
		return 1000
	}
	return a.terms.Thresholds[0]
}

// String is the account's key in the store: `{budget}/{start}/` with `-`, `k:{key}` or `o:{feature}` behind it.
func (id AccountID) String() string {
	s := id.Budget + "/" + strconv.FormatInt(id.Start, 10)
	switch {
	case id.Key != "":
		return s + "/k:" + url.PathEscape(id.Key)
	case id.Overflow != "":
		return s + "/o:" + id.Overflow
	}
	return s + "/-"
}

// Idle is the part of this owner's grant that is not settled.
func (o *Opened) Idle() money.Nanos { return o.Own.Alloc - o.Own.Spent }
