package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func TestStatusOfServers(t *testing.T) {
	addr, _ := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	c.ok("reserve", "--feature", "support-copilot", "--task-class", "chat", "--input-tokens", "1200", "--max-output-tokens", "400")
	out := c.ok("status")
	c.contains(out, "server       ", " at "+addr+", version ", "state        takes calls; without etcd for another ", "s, then it refuses\n", ", the newest\n",
		"settlements  none waits\n", "accounts     3 open\n", "is out of reach for 10m", "\nServers\n", "  live (this one)\n", "\n  USD ", " 0.0027 ")
	var st struct {
		Serving  bool
		Accounts string `json:"open_accounts"`
	}
	if err := json.Unmarshal([]byte(c.ok("status", "-o", "json")), &st); err != nil || !st.Serving || st.Accounts != "3" {
		t.Errorf("%+v, %v", st, err)
	}
	c.contains(c.ok("status", "-o", "yaml"), "\nserving: true\n")
	c.fails(exitUsage, []string{"unknown output"}, "status", "-o", "xml")
	c.fails(exitUsage, []string{"unknown output"}, "status", "-o", "xml", "--watch")
}

func TestStatusText(t *testing.T) {
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	live, gone, closed := pb.ReplicaState_REPLICA_STATE_LIVE, pb.ReplicaState_REPLICA_STATE_QUARANTINED, pb.ReplicaState_REPLICA_STATE_CLOSED
	self := &pb.Replica{Id: "aaaaaaaa1111", Address: "127.0.0.1:7070", Host: "a", Pid: 12, StartTime: timestamppb.New(start), State: live,
		PolicyControlRevision: proto.Int64(41), PolicyRevisions: []string{"builtin/5f2a77c0", "policies/team.a/revisions/1", "policies/team.b/revisions/2"}}
	text := func(change func(*pb.GetStatusResponse)) string {
		st := &pb.GetStatusResponse{
			Replica: self, Version: "v1.2.3", Serving: true, DeadlineLeft: durationpb.New(4600 * time.Millisecond), MaxHold: durationpb.New(10 * time.Minute),
			Quarantine: durationpb.New(638 * time.Second), ControlRevision: 41, ControlCurrent: true, Replicas: []*pb.Replica{self}, OpenAccounts: 1234, Journal: &pb.JournalLag{},
		}
		change(st)
		var b strings.Builder
		printStatus(&b, st, start.Add(2*time.Hour+14*time.Minute))
		return b.String()
	}
	const servers = "\nServers\n  SERVER    ADDRESS         HOST  PID  SINCE                 POLICIES OF  STATE\n  aaaaaaaa  127.0.0.1:7070  a      12  2026-11-23 12:00:00Z           41  live (this one)\n"
	all := text(func(*pb.GetStatusResponse) {})
	want := `server       aaaaaaaa at 127.0.0.1:7070, version v1.2.3, up 2h14m
state        takes calls; without etcd for another 4.6s, then it refuses
etcd         answers
records      charters, budgets, prices and policies of revision 41, the newest
policies     builtin/5f2a77c0 and 2 others decide, of revision 41
settlements  none waits
accounts     1,234 open
quarantine   what a lost server had not settled is out of reach for 10m38s (longest hold 10m)
` + servers
	if all != want {
		t.Errorf("%s\nwant\n%s", all, want)
	}
	for name, c := range map[string]struct {
		change func(*pb.GetStatusResponse)
		says   []string
	}{
		"not serving": {func(st *pb.GetStatusResponse) { st.Serving, st.NotServingReason = false, "etcd is far" }, []string{"state        TAKES NO CALLS: etcd is far\n"}},
		"an amount without etcd": {func(st *pb.GetStatusResponse) { st.WithoutEtcdNanos = 5e9 },
			[]string{"then it holds up to 5.0000 in all, even beyond a ceiling\n"}},
		"serving without etcd": {func(st *pb.GetStatusResponse) {
			st.DeadlineLeft, st.WithoutEtcdNanos, st.WithoutEtcdUsedNanos, st.EtcdProblem, st.ControlCurrent = nil, 5e9, 12e8, "nobody there", false
		}, []string{"takes calls WITHOUT ETCD, even beyond a ceiling: 1.2000 of 5.0000 is used\n", "etcd         DOES NOT ANSWER (nobody there); what follows", "whether that is the newest is not known\n"}},
		"old records": {func(st *pb.GetStatusResponse) { st.ControlCurrent = false }, []string{"revision 41, NOT the newest\n"}},
		"journal": {func(st *pb.GetStatusResponse) {
			st.Journal = &pb.JournalLag{QueuedBatches: 1, QueuedEntries: 1200, UncollectedBatches: 3, UncollectedBytes: new(int64)}
		}, []string{"settlements  1,200 wait to be committed, in 1 batch; 3 committed batches still in etcd, 0.0 MiB\n"}},
		"accounts": {func(st *pb.GetStatusResponse) {
			st.TightAccounts, st.DrainingAccounts, st.PendingAcknowledgements = 2, 1, 1
		}, []string{"1,234 open; 2 near the ceiling, where one server holds what is left; 1 with more granted than a lowered ceiling allows; 1 acknowledgement of a changed ceiling to come\n"}},
		"others": {func(st *pb.GetStatusResponse) {
			st.Replicas = append(st.Replicas,
				&pb.Replica{Id: "bbbbbbbb2222", State: gone, QuarantineLeft: durationpb.New(552 * time.Second), Successor: self.Id},
				&pb.Replica{Id: "dddddddd2222", State: gone, Successor: "eeeeeeee"},
				&pb.Replica{Id: "cccccccc3333", State: closed, CloseTime: timestamppb.New(start)})
		}, []string{"gone; its grants are out of reach for another 9m12s; aaaaaaaa settles its holds\n", "gone; its grants are out of reach; eeeeeeee settles its holds\n", "closed 2026-11-23 12:00:00Z\n"}},
		"money": {func(st *pb.GetStatusResponse) {
			st.Money = []*pb.MoneySummary{{Currency: "USD", GrantedNanos: 6e9, IdleNanos: 4e9, HeldNanos: 2e9, GrantedElsewhereNanos: 7e9, QuarantinedNanos: 1, SettledNanos: 8e9, ForcedNanos: 5e8}}
		}, []string{"  CURRENCY  GRANTED HERE    IDLE    HELD  GRANTED ELSEWHERE  QUARANTINED  SETTLED  FORCED\n  USD             6.0000  4.0000  2.0000             7.0000  0.000000001   8.0000  0.5000\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := text(c.change)
			cli{t: t}.contains(got, c.says...)
		})
	}
}

func TestNotesOfUnsettledCeilings(t *testing.T) {
	plain := &pb.BudgetStatus{Name: "budgets/a", Currency: "USD"}
	if notes := standingNotes([]*pb.BudgetStatus{plain}); len(notes) != 0 {
		t.Errorf("notes without cause: %q", notes)
	}
	statuses := []*pb.BudgetStatus{
		{Name: "budgets/a", Currency: "USD", DrainingNanos: 3e9, PendingReplicas: 1},
		{Name: "budgets/b", Currency: "EUR", Tight: true, GrantedElsewhereNanos: 1e9},
	}
	want := []string{
		"a: 3.0000 USD more is granted than the lowered limit allows; it is given back or settled first; 1 server has not acknowledged the latest limit.",
		"b: near its limit, so one server holds what is left; 1.0000 EUR of HELD is with other servers.",
	}
	if got := standingNotes(statuses); !slices.Equal(got, want) {
		t.Errorf("%q; want %q", got, want)
	}
	for i := range 10 {
		statuses = append(statuses, &pb.BudgetStatus{Name: fmt.Sprintf("budgets/c%d", i), Tight: true})
	}
	if got := standingNotes(statuses); len(got) != mostQuarantined+1 || got[mostQuarantined] != "… and 4 more; -o json has all." {
		t.Errorf("%q", got)
	}
}

// count is a writer that ends something once it has seen a text often enough.
type count struct {
	strings.Builder
	text string
	n    int
	end  func()
}

func (c *count) Write(p []byte) (int, error) {
	n, err := c.Builder.Write(p)
	if strings.Count(c.String(), c.text) >= c.n {
		c.end()
	}
	return n, err
}

// --watch goes on also while no server answers.
func TestStatusWatch(t *testing.T) {
	addr, _ := startExamples(t)
	free, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	for server, says := range map[string]string{addr: "takes calls; without etcd", free: "no server answers at " + free} {
		ctx, end := context.WithTimeout(t.Context(), 20*time.Second)
		defer end()
		w := &count{text: says, n: 2, end: end}
		root := newRoot()
		root.SetArgs([]string{"status", "--watch", "--server", server})
		root.SetOut(w)
		root.SetErr(w)
		if err := root.ExecuteContext(ctx); err != nil || strings.Count(w.String(), says) != 2 {
			t.Errorf("%v with\n%s", err, w.String())
		}
	}
}
