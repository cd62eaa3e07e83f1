package server

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store/etcd"
)

// replica is one of several servers on one etcd.
type replica struct {
	*gateRig
	operations chartergatev1.OperationsServiceClient
	// stop ends it in order; kill leaves its session and its grants behind, as a crash does.
	stop, kill func()
}

// startReplicas runs n servers at noon on an empty ledger, and waits until each knows all.
func startReplicas(t *testing.T, n int) []*replica {
	t.Helper()
	emptyLedger(t)
	empty(t)
	clock := &testClock{}
	clock.nanos.Store(noon.UnixNano())
	list := make([]*replica, n)
	for i := range list {
		list[i] = startReplica(t, clock)
	}
	for _, r := range list {
		eventually(t, "every replica knows all", func() bool { return r.gate.Standing().Live == n })
	}
	return list
}

func startReplica(t *testing.T, clock *testClock) *replica { return startReplicaOn(t, clock, control) }

// startReplicaOn runs a server that reads control records of its own, and decides by their policies.
func startReplicaOn(t *testing.T, clock *testClock, control *etcd.Control) *replica {
	t.Helper()
	listeners, err := Listen("127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	decider, err := policy.NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	client, registry, quiet := etcdServer.Client(), prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	metrics, requests, peers := NewMetrics(registry), NewIdempotency(clock.Now), NewPeers()
	gate, err := preflight.Start(t.Context(), preflight.Config{
		Control: control, Decider: decider, Clock: clock, Metrics: metrics, Log: quiet, MaxTTL: maxHold, Addr: listeners.GRPC.Addr().String(),
		Ledger: etcd.NewLedger(etcd.LedgerConfig{KV: client, Lease: client, Watcher: client, Now: clock.Now, Observe: metrics.Commit}),
	})
	if err != nil {
		t.Fatal(err)
	}
	metrics.Cluster(gate.Standing)
	metrics.Peers(peers)
	s, err := New(Config{
		Listeners: listeners, Control: control, Compiler: rego{}, BuiltinPolicy: decider.Builtin(), Logger: quiet, Registry: registry,
		Validator: validator(t), Requests: requests, Now: clock.Now, Preflight: NewPreflightService(gate, validator(t), requests, peers, quiet),
		Usage: NewUsageService(gate, nil), Statuses: NewBudgetStatusService(gate), Operations: NewOperationsService(gate, "v0.0.0-test", peers, serving(decider)),
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	serving, stopServing := context.WithCancel(context.Background())
	writing, stopWriting := context.WithCancel(context.Background())
	served, written := make(chan error, 1), make(chan error, 1)
	go func() { served <- s.Serve(serving) }()
	go func() { written <- gate.Run(writing) }()
	r := &replica{gateRig: &gateRig{rig: &rig{Server: s, conn: conn, url: "http://" + s.HTTPAddr().String()}, clock: clock, gate: gate, decider: decider}}
	r.budgets, r.manifests = chartergatev1.NewBudgetServiceClient(conn), chartergatev1.NewManifestServiceClient(conn)
	r.preflight, r.usage = chartergatev1.NewPreflightServiceClient(conn), chartergatev1.NewUsageServiceClient(conn)
	r.operations = chartergatev1.NewOperationsServiceClient(conn)
	ended := false
	end := func(lose bool) {
		if ended {
			return
		}
		ended = true
		_ = conn.Close()
		stopServing()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if lose { // its lease ends at once, instead of after 10 s
			if _, err := client.Delete(context.Background(), etcd.Prefix+"own/"+gate.Owner()); err != nil {
				t.Error(err)
			}
			<-written
		} else {
			stopWriting()
			if err := <-written; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		stopWriting()
		_ = peers.Close()
	}
	r.stop, r.kill = func() { end(false) }, func() { end(true) }
	t.Cleanup(r.stop)
	return r
}

func (r *replica) cluster(t *testing.T) *chartergatev1.GetStatusResponse {
	t.Helper()
	st, err := r.operations.GetStatus(t.Context(), &chartergatev1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// find gives a replica in a status.
func find(st *chartergatev1.GetStatusResponse, id string) *chartergatev1.Replica {
	for _, r := range st.Replicas {
		if r.Id == id {
			return r
		}
	}
	return &chartergatev1.Replica{}
}

func (r *replica) metric(t *testing.T, line string) bool {
	t.Helper()
	return slices.Contains(strings.Split(r.get(t, "/metrics", 200), "\n"), line)
}

// metricSays checks lines of /metrics.
func (r *replica) metricSays(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !r.metric(t, line) {
			name, _, _ := strings.Cut(strings.Split(line, " ")[0], "{")
			var have []string
			for l := range strings.SplitSeq(r.get(t, "/metrics", 200), "\n") {
				if strings.HasPrefix(l, name) {
					have = append(have, l)
				}
			}
			t.Errorf("no %q in /metrics, but %q", line, have)
		}
	}
}

func TestStatusOfOneServer(t *testing.T) {
	r := startReplicas(t, 1)[0]
	r.chat(t, 2e9)
	token := r.hold(t, aCall(1000, 500)) // 2,000,000 nanos
	r.settle(t, r.hold(t, aCall(1000, 500)), used(3000, 0))
	st := r.cluster(t)
	self := st.Replica
	if !st.Serving || st.NotServingReason != "" || st.EtcdProblem != "" || st.Version != "v0.0.0-test" || self.Id != r.gate.Owner() ||
		self.Address != r.GRPCAddr().String() || self.Pid == 0 || self.Host == "" || !self.StartTime.AsTime().Equal(noon) {
		t.Errorf("it says %v", st)
	}
	if left := st.DeadlineLeft.AsDuration(); left <= 0 || left > preflight.RevalidateEvery {
		t.Errorf("the deadline is in %s", left)
	}
	if st.MaxHold.AsDuration() != maxHold || st.Quarantine.AsDuration() != ledger.Quarantine(maxHold) || st.ControlRevision != control.Snapshot().Epoch || !st.ControlCurrent {
		t.Errorf("it says %v", st)
	}
	if len(st.Replicas) != 1 || st.Replicas[0].Id != self.Id || st.Replicas[0].State != chartergatev1.ReplicaState_REPLICA_STATE_LIVE {
		t.Errorf("replicas are %v", st.Replicas)
	}
	// acme and support are open, and each call counts once, on acme.
	if st.OpenAccounts != 2 || st.TightAccounts != 0 || st.DrainingAccounts != 0 || st.PendingAcknowledgements != 0 || len(st.Money) != 1 {
		t.Fatalf("it says %v", st)
	}
	m := st.Money[0]
	if m.Currency != "USD" || m.HeldNanos != 2e6 || m.GrantedNanos != m.HeldNanos+m.IdleNanos || m.SettledNanos != 3e6 || m.ForcedNanos != 1e6 ||
		m.GrantedElsewhereNanos != 0 || m.QuarantinedNanos != 0 {
		t.Errorf("money is %v", m)
	}
	if j := st.Journal; j.QueuedBatches != 0 || j.QueuedEntries != 0 || j.UncollectedBatches != 1 || j.UncollectedBytes != nil {
		t.Errorf("the journal is %v", j)
	}
	if rest := r.rest(t, "GET", "/v1/status", "", 200); rest["serving"] != true || rest["open_accounts"] != "2" {
		t.Errorf("REST gives %v", rest)
	}
	r.metricSays(t, "chartergate_replicas_live 1", "chartergate_replicas_gone 0", "chartergate_accounts_open 2", "chartergate_journal_batch_entries_sum 1",
		`chartergate_root_held_nanos{budget="acme",currency="USD"} 2e+06`, `chartergate_root_forced_nanos{budget="acme",currency="USD"} 1e+06`,
		"chartergate_journal_commit_seconds_count 1", "chartergate_settlements_waiting 0")
	r.settle(t, token, used(1, 0))
}

// A replica that is killed is gone, then quarantined with what it held, and closed once its quarantine is over; one that
// stops in order is closed at once.
func TestStatusOfLostServers(t *testing.T) {
	all := startReplicas(t, 3)
	watching, killed, stopped := all[0], all[1], all[2]
	watching.chat(t, 2e12)
	watching.hold(t, aCall(1000, 500)) // opens the accounts here
	token := killed.hold(t, aCall(1000, 500))
	killedID, stoppedID := killed.gate.Owner(), stopped.gate.Owner()
	stopped.stop()
	killed.kill()
	var st *chartergatev1.GetStatusResponse
	eventually(t, "it is quarantined", func() bool {
		st = watching.cluster(t)
		q := find(st, killedID)
		return q.State == chartergatev1.ReplicaState_REPLICA_STATE_QUARANTINED && q.Successor != "" && len(st.Money) == 1
	})
	q := find(st, killedID)
	whole := ledger.Quarantine(maxHold)
	if left := q.QuarantineLeft.AsDuration(); left > whole+time.Second || left < whole-time.Minute || q.Successor != watching.gate.Owner() || q.Address == "" || q.Pid == 0 {
		t.Errorf("it is %v", q)
	}
	if c := find(st, stoppedID); c.State != chartergatev1.ReplicaState_REPLICA_STATE_CLOSED || !c.CloseTime.AsTime().Equal(noon) {
		t.Errorf("the stopped one is %v", c)
	}
	for i, want := range []string{watching.gate.Owner(), killedID, stoppedID} {
		if st.Replicas[i].Id != want {
			t.Errorf("replica %d is %v", i, st.Replicas[i])
		}
	}
	eventually(t, "what it was granted is seen", func() bool {
		st = watching.cluster(t)
		return st.Money[0].QuarantinedNanos >= 2e6 && st.Money[0].GrantedElsewhereNanos == 0
	})
	eventually(t, "the next heartbeat has it too", func() bool { return watching.metric(t, "chartergate_replicas_quarantined 1") })
	watching.metricSays(t, "chartergate_replicas_live 1", "chartergate_replicas_gone 0", "chartergate_takeovers_total 1", "chartergate_reclaims_total 0")
	watching.settle(t, token, used(1000, 0))

	// Over: the lease of the quarantine ends as etcd ends it, and the clock is moved.
	if _, err := etcdServer.Client().Delete(t.Context(), etcd.Prefix+"qt/"+killedID); err != nil {
		t.Fatal(err)
	}
	watching.clock.advance(whole + time.Second)
	eventually(t, "it is closed", func() bool {
		return find(watching.cluster(t), killedID).State == chartergatev1.ReplicaState_REPLICA_STATE_CLOSED
	})
	eventually(t, "the next heartbeat has it too", func() bool { return watching.metric(t, "chartergate_replicas_quarantined 0") })
	watching.metricSays(t, "chartergate_reclaims_total 1")
	watching.clock.advance(time.Hour)
	if c := find(watching.cluster(t), killedID); c.Id != "" {
		t.Errorf("after an hour it is still told: %v", c)
	}
}

// Calls that another replica has to answer are counted.
func TestForwardsAreCounted(t *testing.T) {
	all := startReplicas(t, 2)
	all[0].chat(t, 2e12)
	eventually(t, "the other knows the charters", func() bool { return control.Snapshot().Charter("chat") != nil })
	token := all[0].hold(t, aCall(1000, 500))
	all[1].settle(t, token, used(1000, 0))
	all[1].metricSays(t, `chartergate_forwards_total{call="settle",result="answered"} 1`)
	if _, err := all[1].preflight.Release(t.Context(), &chartergatev1.ReleaseRequest{Hold: token}); err == nil {
		t.Error("a settled hold is released")
	}
	all[1].metricSays(t, `chartergate_forwards_total{call="release",result="refused"} 1`)
}

// A lowered ceiling drains: the effective value, what is granted beyond it and who has not acknowledged it are told.
func TestLoweredCeilingIsTold(t *testing.T) {
	all := startReplicas(t, 2)
	all[0].chat(t, 100e9)
	tokens := []string{all[0].hold(t, aCall(1000, 500)), all[1].hold(t, aCall(1000, 500))}
	all[0].chatLimit(t, "support", 1_000_000)
	var st *chartergatev1.BudgetStatus
	eventually(t, "it drains to what is held", func() bool {
		st = all[0].status(t, "budgets/support")
		return st.DrainingNanos == 3e6 && st.LimitNanos == 1e6 && st.PendingReplicas == 0 && st.GrantedElsewhereNanos == 2e6 && st.HeldNanos == 4e6 && st.IdleNanos == 0
	})
	if c := all[0].cluster(t); c.DrainingAccounts != 1 || c.PendingAcknowledgements != 0 {
		t.Errorf("the status is %v", c)
	}
	for i, token := range tokens {
		all[i].settle(t, token, used(100, 0))
	}
	eventually(t, "it is drained", func() bool {
		st = all[0].status(t, "budgets/support")
		return st.DrainingNanos == 0 && st.PendingReplicas == 0 && st.SettledNanos == 200_000
	})
}

// Without etcd the status is still given, in time, and says so.
func TestStatusWithoutEtcd(t *testing.T) {
	r := startReplicas(t, 1)[0]
	r.kill() // its writer has lost the session: as little as without etcd is known
	c := r.gate.Cluster(t.Context())
	if c.NotServing == nil || c.Deadline != 0 {
		t.Errorf("a lost server is %+v", c.Standing)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c = r.gate.Cluster(ctx)
	if c.Problem == nil || c.Current || len(c.Replicas) != 1 || c.Replicas[0].State != preflight.ReplicaLive {
		t.Errorf("without an answer it says %+v", c)
	}
}

// A refusal for want of money that another replica was granted is counted once, with its amount.
func TestRefusalsOfMoneyElsewhereAreCounted(t *testing.T) {
	all := startReplicas(t, 2)
	all[0].chat(t, 100e9)
	for _, r := range all {
		r.hold(t, aCall(1000, 500)) // 2,000,000 nanos
	}
	all[0].chatLimit(t, "support", 5e6)
	eventually(t, "the rest is given back", func() bool {
		st := all[0].status(t, "budgets/support")
		return st.LimitNanos == 5e6 && st.DrainingNanos == 0 && st.PendingReplicas == 0
	})
	if resp := all[0].reserve(t, aCall(1000, 500)); resp.Hold != nil {
		t.Fatalf("beyond the ceiling: %v", resp)
	}
	counted := func(r *replica) bool { return r.metric(t, "chartergate_refused_elsewhere_total 1") }
	if counted(all[0]) == counted(all[1]) {
		t.Error("the refusal is not counted by exactly one replica")
	}
	home := all[0]
	if !counted(home) {
		home = all[1]
	}
	home.metricSays(t, "chartergate_refused_elsewhere_nanos_total 2e+06")
}

// Near a ceiling one replica holds what is left: every replica tells so.
func TestTightAccountsAreTold(t *testing.T) {
	all := startReplicas(t, 2)
	all[0].chat(t, 5e6)
	for _, r := range all {
		r.hold(t, aCall(1000, 500))
	}
	for _, r := range all {
		eventually(t, "the account is tight", func() bool { return r.status(t, "budgets/support").Tight && r.cluster(t).TightAccounts == 1 })
		r.metricSays(t, "chartergate_accounts_tight 1")
	}
}
