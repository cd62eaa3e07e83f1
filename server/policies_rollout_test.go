package server

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/chartergate/chartergate/core/charter"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store/etcd"
)

// policyReplicas runs n servers, each with a watch of its own, that decide by the policies that are active.
func policyReplicas(t *testing.T, n int) []*replica {
	t.Helper()
	emptyLedger(t)
	empty(t)
	clock, quiet := &testClock{}, slog.New(slog.DiscardHandler)
	clock.nanos.Store(noon.UnixNano())
	list := make([]*replica, n)
	for i := range list {
		own, err := etcd.OpenControl(t.Context(), etcdServer.Client(), quiet, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(own.Close)
		r := startReplicaOn(t, clock, own)
		r.policies = chartergatev1.NewPolicyServiceClient(r.conn)
		var following sync.Mutex
		follow := func(*charter.Snapshot) {
			following.Lock()
			defer following.Unlock()
			r.decider.Follow(own.Snapshot(), quiet)
		}
		own.OnChange(follow)
		follow(nil)
		list[i] = r
	}
	for _, r := range list {
		eventually(t, "every replica knows all", func() bool { return r.gate.Standing().Live == n })
	}
	return list
}

// policyLevels are the policies of the charter chat.
var policyLevels = []string{"policies/routing", "policies/team.customer-care", "policies/feature.chat"}

// marked is a policy that says which level and set it is of.
func marked(level, set string) map[string]string {
	return map[string]string{"routing.rego": fmt.Sprintf(
		"package chartergate.routing\n\ndecision := {\"effect\": \"allow\", \"tiers\": [\"economy\"], \"reasons\": [\"%s %s\"]}\n", level, set)}
}

// ofSets reads which set each level's policy of a decision is of, such as `AAB`, and checks that the revisions are theirs.
func ofSets(t *testing.T, d *chartergatev1.Decision, revisions map[string]string) string {
	var sets, want []string
	for _, r := range d.Reasons {
		if r.Code != chartergatev1.ReasonCode_REASON_CODE_POLICY {
			continue
		}
		level, set, _ := strings.Cut(r.Message, " ")
		if len(sets) >= len(policyLevels) || level != policyLevels[len(sets)] {
			t.Errorf("the reasons are %v", d.Reasons)
			return ""
		}
		sets, want = append(sets, set), append(want, revisions[level+" "+set])
	}
	if d.PolicyRevision != strings.Join(want, ", ") {
		t.Errorf("the decision of %v is said to be of %s", sets, d.PolicyRevision)
	}
	return strings.Join(sets, "")
}

// Two whole sets of policies on three levels take turns on three servers while 64 callers run: each call is answered, by
// policies that were active together.
func TestPoliciesSwitchUnderLoad(t *testing.T) {
	servers := policyReplicas(t, 3)
	first := servers[0]
	first.apply(t, daily("acme", "", 1_000_000_000e9), allTiers("chat", "acme", func(c *chartergatev1.Charter) { c.Team = "customer-care" }))

	revisions := map[string]string{} // by level and set
	sets := map[string][]resource{}
	for _, set := range []string{"A", "B"} {
		for _, level := range policyLevels {
			v, err := first.policies.CreatePolicyRevision(t.Context(), &chartergatev1.CreatePolicyRevisionRequest{
				Parent: level, Revision: &chartergatev1.PolicyRevision{Modules: marked(level, set), Message: set, Author: "ada"}})
			if err != nil {
				t.Fatal(err)
			}
			revisions[level+" "+set] = v.Name
			sets[set] = append(sets[set], &chartergatev1.Policy{Name: level, ActiveRevision: v.Name})
		}
	}
	var took []time.Duration
	// everywhere waits until every server decides by what one of them has made of the policies.
	everywhere := func(start time.Time) {
		t.Helper()
		epoch := control.Snapshot().Epoch
		for _, r := range servers {
			epoch = max(epoch, r.gate.Standing().Revision)
		}
		tick, deadline := time.NewTicker(time.Millisecond), time.After(20*time.Second)
		defer tick.Stop()
		for slices.ContainsFunc(servers, func(r *replica) bool { return r.decider.Serving().Epoch < epoch }) {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatal("not all servers decide by the new policies after 20 s")
			}
		}
		took = append(took, time.Since(start))
	}
	switchTo := func(r *replica, set string) {
		t.Helper()
		start := time.Now()
		if _, err := r.manifests.Apply(t.Context(), apply(sets[set]...)); err != nil {
			t.Fatal(err)
		}
		everywhere(start)
	}
	switchTo(first, "A")
	took = nil

	var allowed atomic.Pointer[[]string] // what may decide now
	allow := func(states ...string) { allowed.Store(&states) }
	allow("AAA", "BBB")
	var calls, answers atomic.Int64
	var seen sync.Map
	callers, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	for i := range 64 {
		r := servers[i%len(servers)]
		running.Go(func() {
			for n := 0; callers.Err() == nil; n++ {
				calls.Add(1)
				may := *allowed.Load()
				var d *chartergatev1.Decision
				call := &chartergatev1.Call{Feature: "chat", User: fmt.Sprint("u", i), Estimate: &chartergatev1.Estimate{InputTokens: 10, MaxOutputTokens: 10}}
				if n%2 == 0 {
					resp, err := r.preflight.Check(t.Context(), &chartergatev1.CheckRequest{Call: call})
					if err != nil {
						t.Errorf("check: %v", err)
						return
					}
					d = resp.Decision
				} else {
					resp, err := r.preflight.Reserve(t.Context(), &chartergatev1.ReserveRequest{Call: call})
					if err != nil || resp.Hold == nil {
						t.Errorf("reserve: %v (%v)", resp, err)
						return
					}
					d = resp.Decision
				}
				state := ofSets(t, d, revisions)
				if !slices.Contains(may, state) && !slices.Contains(*allowed.Load(), state) {
					t.Errorf("a call was decided by %q, while these were active: %v", state, may)
				}
				seen.Store(state, true)
				answers.Add(1)
			}
		})
	}
	// Whole sets, by turns on each server.
	for i := range 12 {
		switchTo(servers[i%3], []string{"B", "A"}[i%2])
	}
	// One policy after the other, and back.
	allow("AAA", "BAA", "BBA", "BBB")
	for round := range 3 {
		for i, level := range policyLevels {
			start := time.Now()
			if _, err := servers[(round+i)%3].policies.ActivatePolicyRevision(t.Context(), &chartergatev1.ActivatePolicyRevisionRequest{Name: revisions[level+" B"]}); err != nil {
				t.Fatal(err)
			}
			everywhere(start)
		}
		for i, level := range slices.Backward(policyLevels) {
			start := time.Now()
			p, err := servers[(round+i)%3].policies.RollbackPolicy(t.Context(), &chartergatev1.RollbackPolicyRequest{Name: level})
			if err != nil || p.ActiveRevision != revisions[level+" A"] {
				t.Fatalf("rolled back to %v (%v)", p, err)
			}
			everywhere(start)
		}
	}
	stop()
	running.Wait()
	if calls.Load() != answers.Load() || calls.Load() < 64 {
		t.Errorf("%d calls, %d answers", calls.Load(), answers.Load())
	}
	for _, state := range []string{"AAA", "BBB"} {
		if _, ok := seen.Load(state); !ok {
			t.Errorf("no call was decided by %s", state)
		}
	}
	slices.Sort(took)
	t.Logf("%d decisions of 64 callers during %d changes; until all 3 servers decided by the new policies: median %s, at most %s",
		answers.Load(), len(took), took[len(took)/2].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))

	// Every server says of all which policies decide.
	want := []string{revisions[policyLevels[0]+" A"], revisions[policyLevels[2]+" A"], revisions[policyLevels[1]+" A"]}
	for _, r := range servers {
		for _, of := range r.cluster(t).Replicas {
			if of.State == chartergatev1.ReplicaState_REPLICA_STATE_LIVE && (!slices.Equal(of.PolicyRevisions, want) ||
				of.GetPolicyControlRevision() < first.decider.Serving().Epoch || of.PolicyProblem != "") {
				t.Errorf("the status says of a server: %v", of)
			}
		}
	}
}

// Of activations with one etag, one wins.
func TestActivationsWithOneEtag(t *testing.T) {
	servers := policyReplicas(t, 3)
	create := func(set string) string {
		v, err := servers[0].policies.CreatePolicyRevision(t.Context(), &chartergatev1.CreatePolicyRevisionRequest{
			Parent: routingPolicy, Revision: &chartergatev1.PolicyRevision{Modules: marked("routing", set)}})
		if err != nil {
			t.Fatal(err)
		}
		return v.Name
	}
	p, err := servers[0].policies.ActivatePolicyRevision(t.Context(), &chartergatev1.ActivatePolicyRevisionRequest{Name: create("first")})
	if err != nil {
		t.Fatal(err)
	}
	var won atomic.Int64
	var winner atomic.Pointer[string]
	var running sync.WaitGroup
	for i := range 12 {
		name := create(fmt.Sprint("s", i))
		running.Go(func() {
			answer, err := servers[i%3].policies.ActivatePolicyRevision(t.Context(), &chartergatev1.ActivatePolicyRevisionRequest{Name: name, Etag: p.Etag})
			if err == nil {
				won.Add(1)
				winner.Store(&answer.ActiveRevision)
				return
			}
			refused(t, err, codes.Aborted, isEtagMismatch, map[string]string{"resource": routingPolicy})
		})
	}
	running.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d activations with one etag went through, want 1", won.Load())
	}
	for _, r := range servers {
		eventually(t, "every server decides by the winner", func() bool { return r.decider.Serving().Revisions[0] == *winner.Load() })
	}
}
