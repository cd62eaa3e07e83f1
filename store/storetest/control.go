// Package storetest proves every implementation of the stores with one suite.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/proto/convert"
	"github.com/chartergate/chartergate/store"
)

// RunControl proves a store.Control. open gives an empty store as two replicas see it, with time.Now for a clock; they
// may be one and the same.
func RunControl(t *testing.T, open func(t *testing.T) (a, b store.Control)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, a, b store.Control)
	}{
		{"an empty store has nothing", empty},
		{"every kind is created, read, updated and deleted", everyKind},
		{"meta is kept", meta},
		{"snapshots do not change", immutable},
		{"the last change of a record counts", lastCounts},
		{"deleting what is not there is a transaction", deleteMissing},
		{"what does not fit together is refused as a whole", allOrNothing},
		{"the error of decide comes back", decideError},
		{"concurrent read-modify-write loses nothing", counters},
		{"a check holds against the other replica's changes", checkedAgainstLatest},
		{"the other replica sees a change within a second", otherSees},
		{"OnChange comes in order", onChange},
		{"many changes are one transaction", bigBatch},
		{"an ended context is unavailable", endedContext},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := open(t)
			test.run(t, a, b)
		})
	}
}

func empty(t *testing.T, a, _ store.Control) {
	s := a.Snapshot()
	if c, b := s.Counts(); s.Epoch != 0 || c != 0 || b != 0 || s.Catalog() != nil || len(s.Policies()) != 0 || len(s.PriceBooks()) != 0 || len(s.PolicyRevisions("")) != 0 {
		t.Errorf("an empty store has something: %+v", s)
	}
	after, err := a.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) { return nil, nil })
	if err != nil || after.Epoch != 0 {
		t.Errorf("no changes gave epoch %d, error %v; want no transaction", after.Epoch, err)
	}
}

func everyKind(t *testing.T, a, b store.Control) {
	records := company(t)
	s := commit(t, a, set(records...)...)
	for _, r := range records {
		sameRecord(t, s.Record(r.Name()), r)
	}
	if s.Catalog().Model("gpt-4o-mini") == nil || s.Catalog().Rank("premium") != 1 {
		t.Error("the stored catalog does not find its models and tiers")
	}
	price, err := s.Prices().Lookup("gpt-4o-mini", time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
	if err != nil || price.Book != "priceBooks/openai" || price.Currency != "USD" || price.Revision != s.PriceBook("openai").Revision {
		t.Errorf("the stored price is %+v, error %v; it must know its book, currency and revision", price, err)
	}

	leaf := *s.Budget("support")
	leaf.Limit, leaf.Labels = 7*money.Unit, map[string]string{"cost-centre": "42"}
	feature := *s.Charter("support-copilot")
	feature.Stage, feature.Team = charter.StageRetired, "support-platform"
	s = commit(t, b, set(&leaf, &feature)...)
	sameRecord(t, s.Record(leaf.Name()), &leaf)
	sameRecord(t, s.Record(feature.Name()), &feature)

	var gone []charter.Change
	for _, r := range slices.Backward(records) {
		gone = append(gone, charter.Change{Name: r.Name()})
	}
	s = commit(t, a, gone...)
	for _, r := range records {
		if left := s.Record(r.Name()); left != nil {
			t.Errorf("%s is still there after it was deleted", left.Name())
		}
	}
	if charters, budgets := s.Counts(); charters+budgets != 0 {
		t.Errorf("%d charters and %d budgets are left", charters, budgets)
	}
}

func meta(t *testing.T, a, b store.Control) {
	before := time.Now().Round(0)
	s := commit(t, a, set(company(t)...)...)
	first := s.Budget("acme")
	if first.Revision != s.Epoch || first.Revision == 0 {
		t.Errorf("the revision is %d, want the epoch %d", first.Revision, s.Epoch)
	}
	if !first.Created.Equal(first.Updated) || first.Created.Before(before) || first.Created.After(time.Now()) {
		t.Errorf("created %v, updated %v; want both now", first.Created, first.Updated)
	}
	changed := *first
	changed.Limit++
	changed.Meta = charter.Meta{Revision: 99, Created: time.Unix(1, 0)} // the store's to set, not the caller's
	await(t, b, func(s *charter.Snapshot) bool { return s.Budget("acme") != nil })
	s = commit(t, b, charter.Set(&changed))
	second := s.Budget("acme")
	if !second.Created.Equal(first.Created) || second.Updated.Before(first.Updated) || second.Revision != s.Epoch || second.Revision <= first.Revision {
		t.Errorf("after the update the meta is %+v, before it was %+v", second.Meta, first.Meta)
	}
	if untouched := s.Budget("support"); untouched.Revision != first.Revision {
		t.Errorf("a record that was not changed went from revision %d to %d", first.Revision, untouched.Revision)
	}
}

func immutable(t *testing.T, a, _ store.Control) {
	old := commit(t, a, set(company(t)...)...)
	limit := old.Budget("acme").Limit
	changed := *old.Budget("acme")
	changed.Limit = limit + 1
	commit(t, a, charter.Set(&changed), charter.Change{Name: "charters/support-copilot"})
	if old.Budget("acme").Limit != limit || old.Charter("support-copilot") == nil {
		t.Error("an earlier snapshot has changed")
	}
}

func lastCounts(t *testing.T, a, b store.Control) {
	one, two := root(t, "acme", 1), root(t, "acme", 2)
	s := commit(t, a, charter.Set(one), charter.Set(two), charter.Set(root(t, "other", 1)), charter.Change{Name: "budgets/other"})
	if got := s.Budget("acme").Limit; got != 2 || s.Budget("other") != nil {
		t.Errorf("the limit is %d and the deleted budget %v, want the last change of each", got, s.Budget("other"))
	}
	await(t, b, func(s *charter.Snapshot) bool { return s.Budget("acme") != nil && s.Budget("acme").Limit == 2 })
}

func deleteMissing(t *testing.T, a, b store.Control) {
	s := commit(t, a, charter.Change{Name: "charters/nobody"})
	if s.Epoch == 0 {
		t.Error("the epoch has not moved")
	}
	await(t, b, func(other *charter.Snapshot) bool { return other.Epoch == s.Epoch })
}

func allOrNothing(t *testing.T, a, b store.Control) {
	good := commit(t, a, set(company(t)...)...)
	await(t, b, func(s *charter.Snapshot) bool { return s.Epoch == good.Epoch })
	orphan := *good.Charter("support-copilot")
	orphan.ID, orphan.Budget = "orphan", "nowhere"
	loop := *good.Budget("acme")
	loop.Parent = "support"
	euro := *good.Budget("acme")
	euro.Currency = "EUR"
	twice := *good.PriceBook("openai")
	twice.ID = "twice"
	ahead := root(t, "ahead", 1) // fits; must not be written with what does not

	for _, test := range []struct {
		what   string
		change charter.Change
		want   any
	}{
		{"a missing budget", charter.Set(&orphan), new(*charter.ReferenceError)},
		{"a cycle", charter.Set(&loop), new(*charter.CycleError)},
		{"another currency", charter.Set(&euro), new(*charter.ImmutableError)},
		{"a budget with children deleted", charter.Change{Name: "budgets/acme"}, new(*charter.InUseError)},
		{"a price twice", charter.Set(&twice), new(*pricing.ConflictError)},
	} {
		_, err := b.Commit(t.Context(), just(charter.Set(ahead), test.change))
		if !errors.As(err, test.want) {
			t.Errorf("%s: error %v, want a %T", test.what, err, test.want)
		}
		if errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s is told as if the store did not answer", test.what)
		}
	}
	// A later transaction shows that nothing was on its way.
	after := commit(t, b, charter.Set(root(t, "later", 1)))
	if after.Budget("ahead") != nil || after.Record("charters/orphan") != nil || after.Record("priceBooks/twice") != nil {
		t.Error("a part of a refused change was written")
	}
	sameRecord(t, after.Budget("acme"), good.Budget("acme"))
}

func decideError(t *testing.T, a, _ store.Control) {
	want := errors.New("not today")
	_, err := a.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
		return set(root(t, "acme", 1)), want
	})
	if err != want || a.Snapshot().Epoch != 0 {
		t.Errorf("error %v at epoch %d, want decide's error and no transaction", err, a.Snapshot().Epoch)
	}
}

func counters(t *testing.T, a, b store.Control) {
	const writers, rounds = 6, 8
	commit(t, a, charter.Set(root(t, "count", 0)))
	await(t, b, func(s *charter.Snapshot) bool { return s.Budget("count") != nil })
	var running sync.WaitGroup
	for w := range writers {
		c := a
		if w%2 == 1 {
			c = b
		}
		running.Go(func() {
			for range rounds {
				var made money.Nanos
				s, err := c.Commit(t.Context(), func(s *charter.Snapshot) ([]charter.Change, error) {
					next := *s.Budget("count")
					next.Limit++
					made = next.Limit
					return set(&next), nil
				})
				if err != nil {
					t.Errorf("commit: %v", err)
					return
				}
				if got := s.Budget("count").Limit; got < made {
					t.Errorf("the snapshot of a commit has %d, before its own change to %d", got, made)
				}
			}
		})
	}
	running.Wait()
	for name, c := range map[string]store.Control{"a": a, "b": b} {
		await(t, c, func(s *charter.Snapshot) bool { return s.Budget("count").Limit >= writers*rounds })
		if got := c.Snapshot().Budget("count").Limit; got != writers*rounds {
			t.Errorf("%s counted %d, want %d", name, got, writers*rounds)
		}
	}
}

func checkedAgainstLatest(t *testing.T, a, b store.Control) {
	s := commit(t, a, charter.Set(root(t, "acme", 10)))
	await(t, b, func(other *charter.Snapshot) bool { return other.Epoch == s.Epoch })
	// b decides to hang a child under a budget that a deletes between the decision and the write.
	decided := 0
	_, err := b.Commit(t.Context(), func(s *charter.Snapshot) ([]charter.Change, error) {
		if decided++; decided == 1 && a != b {
			commit(t, a, charter.Change{Name: "budgets/acme"})
		}
		child := root(t, "child", 1)
		child.Parent = "acme"
		return set(child), nil
	})
	if a == b {
		if err != nil {
			t.Errorf("commit: %v", err)
		}
		return
	}
	if missing := (*charter.ReferenceError)(nil); !errors.As(err, &missing) || decided != 2 {
		t.Errorf("error %v after %d decisions, want a ReferenceError after 2", err, decided)
	}
}

func otherSees(t *testing.T, a, b store.Control) {
	for i := range 3 {
		id := fmt.Sprintf("acme-%d", i)
		s := commit(t, a, charter.Set(root(t, id, 1)))
		start := time.Now()
		await(t, b, func(s *charter.Snapshot) bool { return s.Budget(id) != nil })
		if took := time.Since(start); took > time.Second {
			t.Errorf("the other replica saw the change after %s, want at most a second", took)
		}
		sameRecord(t, b.Snapshot().Budget(id), s.Budget(id))
		if got, want := b.Snapshot().Budget(id).Meta, s.Budget(id).Meta; got.Revision != want.Revision || !got.Updated.Equal(want.Updated) {
			t.Errorf("the other replica has the meta %+v, want %+v", got, want)
		}
	}
}

func onChange(t *testing.T, a, b store.Control) {
	const changes = 20
	replicas := []store.Control{a, b}
	told := []chan int64{make(chan int64, 2*changes), make(chan int64, 2*changes)}
	for i, c := range replicas {
		c.OnChange(func(s *charter.Snapshot) {
			if now := c.Snapshot().Epoch; now < s.Epoch {
				t.Errorf("told of epoch %d while Snapshot gives %d", s.Epoch, now)
			}
			told[i] <- s.Epoch
		})
	}
	var want []int64
	for i := range changes {
		want = append(want, commit(t, replicas[i%2], charter.Set(root(t, "acme", money.Nanos(i)))).Epoch)
	}
	deadline := time.After(10 * time.Second)
	for i := range replicas {
		var got []int64
		for len(got) < changes {
			select {
			case epoch := <-told[i]:
				got = append(got, epoch)
			case <-deadline:
				t.Fatalf("replica %d was told of epochs %v only, want %v", i, got, want)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("replica %d was told of epochs %v, want %v", i, got, want)
		}
	}
}

func bigBatch(t *testing.T, a, b store.Control) {
	const features = 2000
	records := company(t)
	template := records[len(records)-1].(*charter.Charter)
	for i := range features {
		c := *template
		c.ID = fmt.Sprintf("feature-%04d", i)
		records = append(records, &c)
	}
	told := make(chan int, 100)
	b.OnChange(func(s *charter.Snapshot) { n, _ := s.Counts(); told <- n })
	commit(t, a, set(records...)...)
	select {
	case n := <-told:
		if n != features+1 {
			t.Errorf("the other replica saw %d charters of a transaction of %d", n, features+1)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the other replica did not see the transaction")
	}
}

func endedContext(t *testing.T, a, _ store.Control) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.Commit(ctx, just(charter.Set(root(t, "acme", 1))))
	if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want ErrUnavailable and context.Canceled", err)
	}
}

func sameRecord(t *testing.T, got, want charter.Record) {
	t.Helper()
	if got == nil {
		t.Errorf("%s is missing", want.Name())
		return
	}
	g, err1 := convert.RecordToControl(charter.WithMeta(got, charter.Meta{}))
	w, err2 := convert.RecordToControl(charter.WithMeta(want, charter.Meta{}))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(g, w) {
		t.Errorf("%s is\n%v\nwant\n%v", want.Name(), g, w)
	}
}
