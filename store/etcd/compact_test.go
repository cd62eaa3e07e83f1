package etcd_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/store/etcd"
)

// step steps a compactor, and gives what it compacted.
func step(t *testing.T, c *etcd.Compactor, at time.Time) int64 {
	t.Helper()
	rev, err := c.Step(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// Of several replicas one compacts at a time, and only what was there 30 s ago.
func TestCompactor(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	write := func() int64 {
		t.Helper()
		resp, err := client.Put(t.Context(), etcd.Prefix+"x", "")
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	readable := func(rev int64) bool {
		t.Helper()
		_, err := client.Get(t.Context(), etcd.Prefix+"x", clientv3.WithRev(rev))
		if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			t.Fatal(err)
		}
		return err == nil
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	one, two := etcd.NewCompactor(client, log), etcd.NewCompactor(client, log)
	start := time.Unix(1000, 0)
	var revs []int64
	for i := range 12 {
		revs = append(revs, write())
		now := start.Add(time.Duration(i) * etcd.CompactEvery)
		if got := step(t, one, now); (got > 0) != (i >= 3) {
			t.Errorf("step %d of the first compacts up to %d", i, got)
		}
		if got := step(t, two, now.Add(time.Second)); got != 0 {
			t.Errorf("step %d: both had a turn, the second up to %d", i, got)
		}
		for k, rev := range revs {
			kept := now.Sub(start.Add(time.Duration(k)*etcd.CompactEvery)) < etcd.CompactKeep
			if readable(rev) != kept {
				t.Errorf("step %d: revision %d of step %d can be read: %v", i, rev, k, !kept)
			}
		}
	}
	// The second goes on once the first is gone.
	later := start.Add(12 * etcd.CompactEvery)
	if got := step(t, two, later); got == 0 {
		t.Error("the second has no turn when the first is gone")
	}
	if step(t, one, later); step(t, one, later.Add(time.Minute)) == 0 {
		t.Error("the first has no turn when it is back")
	}
}

// Watches of the control records live on through compactions, whether they are in step or cut off.
func TestControlSurvivesCompactor(t *testing.T) {
	address := startListening(t)
	direct := dial(t, address)
	line := newLine(t, address)
	writer, inStep, cutOff := openControl(t, direct), openControl(t, dial(t, address)), openControl(t, dial(t, line.address()))
	c := etcd.NewCompactor(direct, slog.New(slog.DiscardHandler))
	at := time.Unix(1000, 0)
	var compacted int64
	round := func() {
		t.Helper()
		at = at.Add(etcd.CompactEvery)
		compacted = max(compacted, step(t, c, at))
	}
	last := commitBudgets(t, writer, budget(t, "kept", 1))
	await(t, cutOff, func(s *charter.Snapshot) bool { return s.Epoch == last.Epoch })
	line.cut()
	var told epochs
	inStep.OnChange(told.add)
	const changes = 20
	for i := range changes {
		last = commitBudgets(t, writer, budget(t, "kept", 2), budget(t, "kept", 1))
		if i%2 == 0 {
			last = commitBudgets(t, writer, budget(t, "added", 1))
		}
		round()
	}
	for range 5 {
		round()
	}
	if compacted < last.Epoch {
		t.Fatalf("compacted up to %d, want beyond %d", compacted, last.Epoch)
	}
	if s := cutOff.Snapshot(); s.Budget("added") != nil {
		t.Fatal("the replica was not cut off")
	}
	await(t, inStep, func(s *charter.Snapshot) bool { return s.Epoch == last.Epoch })
	told.ascend(t)
	line.mend()
	await(t, cutOff, func(s *charter.Snapshot) bool { return s.Epoch == last.Epoch && s.Budget("added") != nil })
	last = commitBudgets(t, writer, budget(t, "kept", 7))
	for _, replica := range []*etcd.Control{inStep, cutOff} {
		await(t, replica, func(s *charter.Snapshot) bool { return s.Budget("kept").Limit == 7 })
	}
}
