package oracle

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is the state of one hold. Once it is ended, every answer is the first one.
type register struct {
	ended   Op // empty, Settle or Release; Extend stands for a charge at expiry
	amount  int64
	answer  bool // the rest is known
	forced  int64
	late    bool
	journal string
	time    int64
}

const charged = Extend

// holdModel says which answers a hold may give, one after the other. An attempt without an answer may take effect at any
// time after it was sent, or never.
var holdModel = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, input, _ any) (bool, any) {
		ok, next := stepHold(state.(register), input.(holdStep))
		return ok, next
	},
	DescribeOperation: func(input, _ any) string {
		a := input.(holdStep)
		return fmt.Sprintf("%s(%d) on %d: %s %d", a.Op, a.Ask, a.Replica, a.Outcome, a.Cost)
	},
}

// holdStep is an attempt about a hold.
type holdStep struct {
	*Attempt
	reserve *Attempt
}

func stepHold(s register, a holdStep) (bool, register) {
	switch a.Outcome {
	case Unknown:
		if s.ended == "" && a.Op != Extend {
			return true, register{ended: a.Op, amount: a.Ask}
		}
		return true, s
	case Refused:
		return true, s
	case OK:
		switch a.Op {
		case Settle:
			next := register{Settle, a.Cost, true, a.Forced, a.Late, a.Journal, a.Time}
			if a.Journal == "" && s.answer { // it has moved to the archive: neither is told
				next.journal, next.time = s.journal, s.time
			}
			return s.ended == "" || s == next || s == register{ended: Settle, amount: a.Cost}, next
		case Release:
			return s.ended == "" || s.ended == Release, register{ended: Release}
		case Extend:
			return s.ended == "", s
		}
	case "HOLD_SETTLED":
		if s.ended == "" { // it was charged when it expired
			return a.reserve.Charge && (a.First < 0 || a.First == a.reserve.Held), register{ended: charged, amount: a.reserve.Held}
		}
		differs := a.Op != Settle || s.ended == charged || a.Ask != s.amount
		return (s.ended == Settle || s.ended == charged) && (a.First < 0 || a.First == s.amount) && differs, s
	case "HOLD_RELEASED":
		return s.ended == Release, s
	case "HOLD_EXPIRED":
		// An extension may hear this of any hold whose owner is gone; a release only of one that nothing has ended.
		return a.Op == Extend || a.Op == Release && s.ended == "", s
	}
	return false, s
}

// CheckHolds checks with porcupine that the answers about each hold are those of one register that is written once
// (REPEAT). It gives the number of histories, and how many could not be decided in time.
func CheckHolds(h *History) (checked, undecided int, _ []Violation) {
	var bad violations
	byHold := map[string][]porcupine.Operation{}
	reserves := map[string]*Attempt{}
	for _, a := range h.Attempts {
		if a.Op == Reserve && a.Outcome == OK {
			reserves[a.Hold] = a
		}
	}
	type unanswered struct {
		hold string
		op   Op
		ask  int64
	}
	lost := map[unanswered]bool{}
	for _, a := range h.Attempts { // by start
		if a.Op == Reserve || reserves[a.Hold] == nil {
			continue
		}
		end := a.End
		if a.Outcome == Unknown {
			// The first of several equal attempts without an answer can do all that the others can.
			u := unanswered{a.Hold, a.Op, a.Ask}
			if lost[u] {
				continue
			}
			lost[u] = true
			end = math.MaxInt64
		}
		byHold[a.Hold] = append(byHold[a.Hold], porcupine.Operation{Input: holdStep{a, reserves[a.Hold]}, Call: a.Start, Return: end})
	}
	for hold, ops := range byHold {
		checked++
		result := porcupine.CheckOperationsTimeout(holdModel, ops, 10*time.Second)
		if result == porcupine.Unknown {
			undecided++
		}
		if result == porcupine.Illegal {
			bad.add("REPEAT", "the answers about hold %s (charge %v) contradict each other: %s", hold, reserves[hold].Charge, describe(ops))
		}
	}
	return checked, undecided, bad
}

func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	text := ""
	for _, o := range ops {
		a := o.Input.(holdStep)
		text += fmt.Sprintf("; %s of %d on replica %d [%d, %d] -> %q %d forced %d late %v %s first %d",
			a.Op, a.Ask, a.Replica, a.Start, a.End, a.Outcome, a.Cost, a.Forced, a.Late, a.Journal, a.First)
	}
	return text
}

// budgetStep is what happens to one account: money is taken, or given back, or its ceiling changes.
type budgetStep struct {
	take    int64 // negative: given back
	ceiling int64 // -1: no change
}

type budgetState struct{ taken, ceiling int64 }

// budgetModel is an account: a hold is admitted when it fits under the ceiling, and money comes back.
func budgetModel(from budgetState) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return from },
		Step: func(state, input, _ any) (bool, any) {
			s, x := state.(budgetState), input.(budgetStep)
			if x.ceiling >= 0 {
				s.ceiling = x.ceiling
			}
			s.taken += x.take
			return x.take <= 0 || s.taken <= s.ceiling, s
		},
		DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
	}
}

// CheckBudgets checks with porcupine that the holds that an account admitted can have been admitted one after the other,
// each under the ceiling in force (ADMIT). What nobody can know, it takes as is best for the server: money comes back, and
// a ceiling rises, as early as it can, and a ceiling falls as late as it can. The history is cut into windows of about so
// many steps: what is certainly taken at a cut is where the next window starts.
func CheckBudgets(h *History, j *Journal, clock Clock, stale time.Duration, window int, patience time.Duration) (checked, undecided int, _ []Violation) {
	var bad violations
	limits, floors := h.ceilings(), h.floors(j, clock)
	steps := map[string][]porcupine.Operation{}
	for _, x := range h.holds(j) {
		back := x.reserve.Held - admitted(x.entry)
		for _, account := range x.reserve.Accounts {
			steps[account] = append(steps[account], porcupine.Operation{Input: budgetStep{x.reserve.Held, -1}, Call: x.since, Return: x.reserve.End})
			if back > 0 {
				steps[account] = append(steps[account], porcupine.Operation{Input: budgetStep{-back, -1}, Call: x.over(), Return: x.over()})
			}
		}
	}
	for account, list := range steps {
		c := of(limits, account)
		list = append(list, c.steps(stale)...)
		slices.SortFunc(list, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
		for len(list) > 0 {
			part := list[:min(window, len(list))]
			list = list[len(part):]
			cut, end := part[0].Call, part[len(part)-1].Call
			_, most := c.between(cut, cut, stale)
			state := budgetState{floors[account].at(cut - 1), most}
			// What may have been admitted after the window's end may have needed what came back after it.
			part = slices.DeleteFunc(slices.Clone(part), func(o porcupine.Operation) bool { return o.Return > end && len(list) > 0 })
			checked++
			switch porcupine.CheckOperationsTimeout(budgetModel(state), part, patience) {
			case porcupine.Unknown:
				undecided++
			case porcupine.Illegal:
				bad.add("ADMIT", "%s: the holds from %d to %d cannot have been admitted one after the other under its ceilings, from %+v on", account, cut, end, state)
			}
		}
	}
	return checked, undecided, bad
}

// steps are the moments at which the highest ceiling that may be in force changes.
func (c ceilings) steps(stale time.Duration) []porcupine.Operation {
	var list []porcupine.Operation
	for _, l := range c {
		for _, at := range []int64{l.Start, l.End + int64(stale)} {
			if at == l.Start || l.End != 0 {
				_, most := c.between(at, at, stale)
				list = append(list, porcupine.Operation{Input: budgetStep{0, most}, Call: at, Return: at})
			}
		}
	}
	return list
}
