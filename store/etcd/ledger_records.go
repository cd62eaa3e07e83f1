package etcd

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

func batchKey(owner string, n uint64) string { return key("jr", owner, fmt.Sprintf("%016x", n)) }

func batchNumber(k string) (uint64, error) {
	return strconv.ParseUint(k[strings.LastIndexByte(k, '/')+1:], 16, 64)
}

func requestKey(id string) string {
	h := sha256.Sum256([]byte(id))
	return key("rq", hex.EncodeToString(h[:16]))
}

func accountRecord(id ledger.AccountID) *storev1.Account {
	return &storev1.Account{Budget: id.Budget, Key: id.Key, Overflow: id.Overflow, PeriodStart: id.Start, PeriodEnd: id.End}
}

func accountID(r *storev1.Account) ledger.AccountID {
	return ledger.AccountID{Budget: r.GetBudget(), Key: r.GetKey(), Overflow: r.GetOverflow(), Start: r.GetPeriodStart(), End: r.GetPeriodEnd()}
}

func grantRecord(id ledger.AccountID, g ledger.Grant) *storev1.Grant {
	return &storev1.Grant{Account: accountRecord(id), Alloc: int64(g.Alloc), Spent: int64(g.Spent), Gen: g.Gen}
}

func grant(r *storev1.Grant, rev int64) ledger.Grant {
	return ledger.Grant{Alloc: money.Nanos(r.GetAlloc()), Spent: money.Nanos(r.GetSpent()), Gen: r.GetGen(), Rev: rev}
}

func budgetRecord(id ledger.AccountID, b ledger.Budget) *storev1.BudgetAccount {
	return &storev1.BudgetAccount{
		Account: accountRecord(id), Ceil: int64(b.Ceil), Rollover: int64(b.Rollover), Alloc: int64(b.Alloc),
		Base: int64(b.Base), Forced: int64(b.Forced), Gen: b.Gen, TermsRev: b.TermsRev, Tight: b.Tight, Sealed: b.Sealed,
	}
}

func budget(r *storev1.BudgetAccount, rev int64) ledger.Budget {
	return ledger.Budget{
		Ceil: money.Nanos(r.GetCeil()), Rollover: money.Nanos(r.GetRollover()), Alloc: money.Nanos(r.GetAlloc()),
		Base: money.Nanos(r.GetBase()), Forced: money.Nanos(r.GetForced()), Gen: r.GetGen(), Rev: rev,
		TermsRev: r.GetTermsRev(), Tight: r.GetTight(), Sealed: r.GetSealed(),
	}
}

func batchRecord(b *ledger.Batch) *storev1.Batch {
	r := &storev1.Batch{PreviousHash: b.PrevHash, TimeMs: b.Time.UnixMilli(), Entries: make([]*storev1.Entry, len(b.Entries))}
	index := map[ledger.AccountID]uint32{}
	for i, e := range b.Entries {
		path := make([]uint32, len(e.Path))
		for j, id := range e.Path {
			at, ok := index[id]
			if !ok {
				at = uint32(len(r.Accounts))
				index[id] = at
				r.Accounts = append(r.Accounts, accountRecord(id))
			}
			path[j] = at
		}
		r.Entries[i] = entryRecord(e, path)
	}
	return r
}

func signalsRecord(e *ledger.Entry) *storev1.CallSignals {
	s := &e.Call.Signals
	if *s == (usage.CallSignals{}) || e.Kind == ledger.KindRelease { // a call that was not made
		return nil
	}
	return &storev1.CallSignals{Flags: uint32(s.Flags), RepeatTokens: s.RepeatTokens, LateTokens: s.LateTokens, RunGrowth: s.RunGrowth, Untrimmed: s.Untrimmed}
}

func callSignals(r *storev1.CallSignals) usage.CallSignals {
	return usage.CallSignals{
		Flags: usage.SignalFlags(r.GetFlags()), RepeatTokens: r.GetRepeatTokens(), LateTokens: r.GetLateTokens(), RunGrowth: r.GetRunGrowth(),
		Untrimmed: r.GetUntrimmed(),
	}
}

func entryRecord(e *ledger.Entry, path []uint32) *storev1.Entry {
	// The usage has no field that could fail to marshal.
	used, _ := proto.MarshalOptions{Deterministic: true}.Marshal(convert.UsageToProto(&e.Usage))
	return &storev1.Entry{
		Seq: e.Seq, Kind: storev1.EntryKind(e.Kind), Amount: int64(e.Amount), Forced: int64(e.Forced), Held: int64(e.Held),
		Path: path, Feature: e.Call.Feature, Tier: e.Call.Tier, Model: e.Call.Model, CallMs: e.Call.Time.UnixMilli(),
		TimeMs: e.Time.UnixMilli(), Late: e.Late, Usage: used, Outcome: int32(e.Outcome), User: e.Call.User,
		Cohort: e.Call.Cohort, Agent: e.Call.Agent, Run: e.Call.Run, PromptPattern: e.Call.PromptPattern,
		RequestId: e.RequestID, RequestHash: e.RequestHash, Effect: int32(e.Call.Effect),
		Calls: e.Calls, Successes: e.Successes, Failures: e.Failures, Task: e.Call.Task, Wanted: e.Call.Wanted,
		ServiceTier: e.Call.ServiceTier, Region: e.Call.Region,
		Cost: costRecord(&e.Cost), Saved: savedRecord(&e.Saved), Signals: signalsRecord(e),
	}
}

// costRecord is nil where there is none.
func costRecord(c *usage.Cost) *storev1.Cost {
	if *c == (usage.Cost{}) {
		return nil
	}
	return &storev1.Cost{
		Input: int64(c.Input), ContextOverhead: int64(c.ContextOverhead), Output: int64(c.Output), Retrieval: int64(c.Retrieval),
		Tools: int64(c.Tools), Compute: int64(c.Compute), Other: int64(c.Other),
	}
}

func savedRecord(s *usage.Saved) *storev1.Saved {
	if *s == (usage.Saved{}) {
		return nil
	}
	return &storev1.Saved{CacheRead: int64(s.CacheRead), CacheWrite: int64(s.CacheWrite), Downgrade: int64(s.Downgrade)}
}

// cost gives the components of an entry; of one that an earlier version wrote, all is Other.
func cost(r *storev1.Entry) usage.Cost {
	c := r.GetCost()
	if c == nil {
		return usage.Cost{Other: money.Nanos(r.GetAmount())}
	}
	return usage.Cost{
		Input: money.Nanos(c.GetInput()), ContextOverhead: money.Nanos(c.GetContextOverhead()), Output: money.Nanos(c.GetOutput()),
		Retrieval: money.Nanos(c.GetRetrieval()), Tools: money.Nanos(c.GetTools()), Compute: money.Nanos(c.GetCompute()), Other: money.Nanos(c.GetOther()),
	}
}

// ReadBatch reads what left a journal.
func ReadBatch(b store.OutboxBatch) (*ledger.Batch, error) {
	var r storev1.Batch
	if err := proto.Unmarshal(b.Data, &r); err != nil {
		return nil, fmt.Errorf("read batch %d of owner %s: %w", b.N, b.Owner, err)
	}
	batch := &ledger.Batch{Owner: b.Owner, N: b.N, PrevHash: r.GetPreviousHash(), Time: time.UnixMilli(r.GetTimeMs())}
	for _, re := range r.GetEntries() {
		e, err := entry(b.Owner, b.N, &r, re)
		if err != nil {
			return nil, err
		}
		batch.Entries = append(batch.Entries, e)
	}
	return batch, nil
}

func entry(owner string, n uint64, b *storev1.Batch, r *storev1.Entry) (*ledger.Entry, error) {
	var used chartergatev1.Usage
	if err := proto.Unmarshal(r.GetUsage(), &used); err != nil {
		return nil, fmt.Errorf("read the usage of an entry of jr/%s/%d: %w", owner, n, err)
	}
	u, err := convert.UsageFromProto(&used)
	if err != nil {
		return nil, err
	}
	path := make([]ledger.AccountID, len(r.GetPath()))
	for i, at := range r.GetPath() {
		if int(at) >= len(b.GetAccounts()) {
			return nil, fmt.Errorf("an entry of jr/%s/%d names account %d of %d", owner, n, at, len(b.GetAccounts()))
		}
		path[i] = accountID(b.GetAccounts()[at])
	}
	return &ledger.Entry{
		Seq: r.GetSeq(), Kind: ledger.Kind(r.GetKind()), Amount: money.Nanos(r.GetAmount()), Forced: money.Nanos(r.GetForced()),
		Held: money.Nanos(r.GetHeld()), Late: r.GetLate(), Path: path, Usage: u, Outcome: usage.Outcome(r.GetOutcome()),
		Counts: ledger.Counts{Calls: r.GetCalls(), Successes: r.GetSuccesses(), Failures: r.GetFailures()},
		Time:   time.UnixMilli(r.GetTimeMs()), RequestID: r.GetRequestId(), RequestHash: r.GetRequestHash(),
		Call: ledger.Call{
			Feature: r.GetFeature(), Tier: r.GetTier(), Model: r.GetModel(), User: r.GetUser(), Cohort: r.GetCohort(),
			Agent: r.GetAgent(), Run: r.GetRun(), PromptPattern: r.GetPromptPattern(), Effect: routing.Effect(r.GetEffect()),
			Task: r.GetTask(), Wanted: r.GetWanted(), ServiceTier: r.GetServiceTier(), Region: r.GetRegion(), Time: time.UnixMilli(r.GetCallMs()), Signals: callSignals(r.GetSignals()),
		},
		Cost: cost(r),
		Saved: usage.Saved{
			CacheRead: money.Nanos(r.GetSaved().GetCacheRead()), CacheWrite: money.Nanos(r.GetSaved().GetCacheWrite()),
			Downgrade: money.Nanos(r.GetSaved().GetDowngrade()),
		},
		Batch: &ledger.Batch{Owner: owner, N: n},
	}, nil
}

func requestRecord(k string, index int, e *ledger.Entry) *storev1.RequestIndex {
	return &storev1.RequestIndex{
		Journal: k, Index: uint32(index), Amount: int64(e.Amount), RequestHash: e.RequestHash, CallMs: e.Call.Time.UnixMilli(),
		TimeMs: e.Time.UnixMilli(), Feature: e.Call.Feature, Tier: e.Call.Tier, Model: e.Call.Model,
	}
}

func requestEntry(id string, r *storev1.RequestIndex) (*ledger.Entry, error) {
	n, err := batchNumber(r.GetJournal())
	owner, _, ok := strings.Cut(strings.TrimPrefix(r.GetJournal(), key("jr")+"/"), "/")
	if err != nil || !ok || batchKey(owner, n) != r.GetJournal() {
		return nil, fmt.Errorf("the record of request %q names %q, which is no batch of a journal", id, r.GetJournal())
	}
	amount := money.Nanos(r.GetAmount())
	return &ledger.Entry{
		Kind: ledger.KindUsage, Amount: amount, Forced: amount, RequestID: id, RequestHash: r.GetRequestHash(),
		Time: time.UnixMilli(r.GetTimeMs()), Batch: &ledger.Batch{Owner: owner, N: n},
		Call: ledger.Call{Feature: r.GetFeature(), Tier: r.GetTier(), Model: r.GetModel(), Time: time.UnixMilli(r.GetCallMs())},
	}, nil
}

func alertRecord(a ledger.Alert) *storev1.Alert {
	return &storev1.Alert{
		Account: accountRecord(a.ID), ThresholdPermille: a.Permille, Settled: int64(a.Settled), Limit: int64(a.Limit),
		OwnerName: a.OwnerName, OwnerEmail: a.OwnerMail, TimeMs: a.Time.UnixMilli(),
	}
}

func alert(r *storev1.Alert) ledger.Alert {
	return ledger.Alert{
		ID: accountID(r.GetAccount()), Permille: r.GetThresholdPermille(), Settled: money.Nanos(r.GetSettled()),
		Limit: money.Nanos(r.GetLimit()), OwnerName: r.GetOwnerName(), OwnerMail: r.GetOwnerEmail(), Time: time.UnixMilli(r.GetTimeMs()),
	}
}
