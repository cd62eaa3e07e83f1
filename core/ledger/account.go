package ledger

import (
	"net/url"
	"slices"
	"strconv"
	"time"

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

// Terms are what the control records say of an account.
type Terms struct {
	Limit      money.Nanos // without rollover
	Thresholds []int32     // alert thresholds in per mille, ascending
	Charge     bool        // a hold that expires is charged in full
	Feature    string      // whose thresholds these are, if a charter's
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
	Rev                                 int64 // the store's revision of the record; 0: there is none
}

// Opened is what the store knows of an account.
type Opened struct {
	ID      AccountID
	Budget  Budget
	Own     Grant
	Others  map[string]Grant // grants of owners that are gone
	Alerted []int32          // thresholds whose alert is recorded
}

// Account is an open account. Its fields change under the Ledger's methods only.
type Account struct {
	ID    AccountID
	terms Terms

	bud    Budget
	own    Grant
	others map[string]Grant

	held    money.Nanos // by live holds of this owner, until their settlement is committed
	wanted  money.Nanos // what waiting calls need beyond the grant
	slice   money.Nanos // how much to ask for at once
	usual   money.Nanos // about the largest hold of late
	granted time.Time   // when the last slice came
	used    time.Time   // when it was last asked for

	alerted []int32
}

// ceiling is the ceiling in force now, which may differ from the stored one until that is adjusted.
func (a *Account) ceiling() money.Nanos {
	c, err := money.Add(a.terms.Limit, a.bud.Rollover)
	if err != nil {
		return money.Nanos(1<<63 - 1)
	}
	return c
}

// settled is everything settled, committed only.
func (a *Account) settled() money.Nanos {
	s := a.bud.Base + a.own.Spent
	for _, g := range a.others {
		s += g.Spent
	}
	return s
}

// quarantined is what owners that are gone may have held.
func (a *Account) quarantined() money.Nanos {
	var q money.Nanos
	for _, g := range a.others {
		q += g.Alloc - g.Spent
	}
	return q
}

// idle is the part of the grant that nothing uses.
func (a *Account) idle() money.Nanos { return a.own.Alloc - a.own.Spent - a.held }

// ungranted is what may still be granted under the ceiling in force; negative while a lowered ceiling drains.
func (a *Account) ungranted() money.Nanos { return a.ceiling() - a.bud.Alloc }

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
	Held                            money.Nanos // quarantined money included
	Quarantined                     money.Nanos
	Alerted                         []int32
}

// Remaining is the ceiling less what is settled and held, at least 0.
func (s *State) Remaining() money.Nanos { return max(0, s.Ceil-s.Settled-s.Held) }

// Utilization is (settled + held) / ceiling in per mille, rounded down.
func (s *State) Utilization() int32 { return money.Permille(s.Settled+s.Held, s.Ceil) }

// State gives how the account stands.
func (a *Account) State() State {
	q := a.quarantined()
	return State{
		ID: a.ID, Ceil: a.ceiling(), Rollover: a.bud.Rollover, Settled: a.settled(), Forced: a.bud.Forced,
		Held: a.held + q, Quarantined: q, Alerted: slices.Clone(a.alerted),
	}
}

// Utilization is State().Utilization() without the copies.
func (a *Account) Utilization() int32 {
	return money.Permille(a.settled()+a.held+a.quarantined(), a.ceiling())
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
