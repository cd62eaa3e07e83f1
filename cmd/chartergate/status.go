package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// statusEvery is how often --watch looks again.
const statusEvery = 2 * time.Second

// clearScreen moves to the top of a terminal and empties it.
const clearScreen = "\x1b[H\x1b[2J"

func newStatusCommand() *cobra.Command {
	watch := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the servers stand",
		Long: `Show how the server that is asked stands, and every other one on the same etcd: who lives, who is gone and until when
its money is out of reach, what is granted, held and forced, and what waits for etcd.

Exit status 1 when the server does not take calls.`,
		Example: `  chartergate status
  chartergate status --watch
  chartergate status --server 127.0.0.1:7072 -o json`,
		Args: cobra.NoArgs,
	}
	c := addClientFlags(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "look again every "+statusEvery.String()+" until Ctrl-C")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !watch {
			return c.status(cmd, func(io.Writer) {})
		}
		for first := true; ; first = false {
			err := c.status(cmd, func(w io.Writer) {
				switch {
				case isTerminal(w):
					io.WriteString(w, clearScreen)
				case !first:
					io.WriteString(w, map[string]string{"table": "\n", "yaml": "---\n"}[c.output])
				}
			})
			if _, ok := err.(*usageError); ok {
				return err
			}
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "chartergate:", visible(explain(err)))
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(statusEvery):
			}
		}
	}
	return cmd
}

// status asks once and prints the answer, after before. Its error says that the server takes no calls.
func (c *clientFlags) status(cmd *cobra.Command, before func(io.Writer)) error {
	return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
		st, err := pb.NewOperationsServiceClient(client.Conn()).GetStatus(ctx, &pb.GetStatusRequest{})
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		before(w)
		if err := c.print(w, st, func(w io.Writer) { printStatus(w, st, time.Now()) }); err != nil {
			return err
		}
		if !st.GetServing() {
			return fmt.Errorf("the server at %s takes no calls: %s", c.server, st.GetNotServingReason())
		}
		return nil
	})
}

// printStatus writes a status for people.
func printStatus(w io.Writer, st *pb.GetStatusResponse, now time.Time) {
	var f facts
	self := st.GetReplica()
	f.add("server", fmt.Sprintf("%s at %s, version %s, up %s", shortID(self.GetId()), self.GetAddress(), st.GetVersion(), wait(now.Sub(self.GetStartTime().AsTime()))))
	f.add("state", stateText(st))
	f.add("etcd", etcdText(st))
	f.add("records", recordsText(st))
	f.add("policies", policiesText(self))
	f.add("settlements", settlementsText(st.GetJournal()))
	f.add("accounts", accountsText(st))
	f.add("quarantine", fmt.Sprintf("what a lost server had not settled is out of reach for %s (longest hold %s)", toSecond(st.GetQuarantine().AsDuration()), toSecond(st.GetMaxHold().AsDuration())))
	f.write(w)
	printSection(w, "Servers", replicaGrid(st))
	printSection(w, "Money of the root budgets that this server has open", moneyGrid(st.GetMoney()))
}

func stateText(st *pb.GetStatusResponse) string {
	left := st.GetDeadlineLeft().AsDuration()
	switch {
	case !st.GetServing():
		return "TAKES NO CALLS: " + st.GetNotServingReason()
	case left > 0:
		then := "refuses"
		if n := st.GetWithoutEtcdNanos(); n > 0 {
			then = "holds up to " + amount(n) + " in all, even beyond a ceiling"
		}
		return fmt.Sprintf("takes calls; without etcd for another %.1fs, then it %s", left.Seconds(), then)
	}
	return fmt.Sprintf("takes calls WITHOUT ETCD, even beyond a ceiling: %s of %s is used", amount(st.GetWithoutEtcdUsedNanos()), amount(st.GetWithoutEtcdNanos()))
}

func etcdText(st *pb.GetStatusResponse) string {
	if problem := st.GetEtcdProblem(); problem != "" {
		return "DOES NOT ANSWER (" + problem + "); what follows is what this server knew last"
	}
	return "answers"
}

func recordsText(st *pb.GetStatusResponse) string {
	text := fmt.Sprintf("charters, budgets, prices and policies of revision %d", st.GetControlRevision())
	switch {
	case st.GetControlCurrent():
		return text + ", the newest"
	case st.GetEtcdProblem() != "":
		return text + "; whether that is the newest is not known"
	}
	return text + ", NOT the newest"
}

func policiesText(r *pb.Replica) string {
	n := len(r.GetPolicyRevisions())
	if n == 0 {
		return ""
	}
	text := fmt.Sprintf("%s decide, of revision %d", r.GetPolicyRevisions()[0], r.GetPolicyControlRevision())
	if n == 1 {
		text = strings.Replace(text, " decide,", " decides,", 1)
	} else {
		text = strings.Replace(text, " decide,", fmt.Sprintf(" and %s decide,", plural(int64(n-1), "other", "others")), 1)
	}
	if p := r.GetPolicyProblem(); p != "" {
		text += "; NOT THOSE THAT ARE ACTIVE: " + p
	}
	return text
}

func settlementsText(j *pb.JournalLag) string {
	text := "none waits"
	if n := j.GetQueuedEntries(); n > 0 {
		text = plural(n, "waits", "wait") + " to be committed, in " + plural(j.GetQueuedBatches(), "batch", "batches")
	}
	if n := j.GetUncollectedBatches(); n > 0 {
		text += "; " + plural(n, "committed batch", "committed batches") + " still in etcd"
		if j.UncollectedBytes != nil {
			text += ", " + mebi(j.GetUncollectedBytes())
		}
	}
	return text
}

func accountsText(st *pb.GetStatusResponse) string {
	text := thousands(st.GetOpenAccounts()) + " open"
	if n := st.GetTightAccounts(); n > 0 {
		text += "; " + thousands(n) + " near the ceiling, where one server holds what is left"
	}
	if n := st.GetDrainingAccounts(); n > 0 {
		text += "; " + thousands(n) + " with more granted than a lowered ceiling allows"
	}
	if n := st.GetPendingAcknowledgements(); n > 0 {
		text += "; " + plural(n, "acknowledgement", "acknowledgements") + " of a changed ceiling to come"
	}
	return text
}

// toSecond writes a time to the second, such as 9m12s or 10m.
func toSecond(d time.Duration) string {
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	return text
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

func replicaGrid(st *pb.GetStatusResponse) *grid {
	g := newGrid("SERVER", "ADDRESS", "HOST", ">PID", "SINCE", ">POLICIES OF", "STATE")
	for _, r := range st.GetReplicas() {
		pid := ""
		if r.GetPid() != 0 {
			pid = fmt.Sprint(r.GetPid())
		}
		state := replicaText(r)
		if r.GetId() == st.GetReplica().GetId() {
			state += " (this one)"
		}
		policies := ""
		if r.PolicyControlRevision != nil {
			policies = fmt.Sprint(r.GetPolicyControlRevision())
		}
		if r.GetPolicyProblem() != "" {
			state += "; a policy does not compile there"
		}
		g.add(shortID(r.GetId()), r.GetAddress(), r.GetHost(), pid, timeText(r.GetStartTime()), policies, state)
	}
	return g
}

func replicaText(r *pb.Replica) string {
	by := ""
	if r.GetSuccessor() != "" {
		by = "; " + shortID(r.GetSuccessor()) + " settles its holds"
	}
	switch r.GetState() {
	case pb.ReplicaState_REPLICA_STATE_GONE:
		return "gone; no server looks after its holds yet"
	case pb.ReplicaState_REPLICA_STATE_QUARANTINED:
		if left := r.GetQuarantineLeft().AsDuration(); left > 0 {
			return "gone; its grants are out of reach for another " + toSecond(left) + by
		}
		return "gone; its grants are out of reach" + by
	case pb.ReplicaState_REPLICA_STATE_RECLAIMING:
		return "gone; its grants are being given back" + by
	case pb.ReplicaState_REPLICA_STATE_CLOSED:
		return "closed " + timeText(r.GetCloseTime())
	}
	return short(r.GetState(), "REPLICA_STATE_")
}

func moneyGrid(money []*pb.MoneySummary) *grid {
	g := newGrid("CURRENCY", ">GRANTED HERE", ">IDLE", ">HELD", ">GRANTED ELSEWHERE", ">QUARANTINED", ">SETTLED", ">FORCED")
	for _, m := range money {
		g.add(m.GetCurrency(), amount(m.GetGrantedNanos()), amount(m.GetIdleNanos()), amount(m.GetHeldNanos()), amount(m.GetGrantedElsewhereNanos()),
			amount(m.GetQuarantinedNanos()), amount(m.GetSettledNanos()), amount(m.GetForcedNanos()))
	}
	return g
}

// shortID is the first part of a server's id, enough for people to tell servers apart.
func shortID(id string) string { return id[:min(8, len(id))] }

// standingNotes say what the columns do not: money of servers that are gone, ceilings that are not in force everywhere
// yet, and where one server holds what is left.
func standingNotes(statuses []*pb.BudgetStatus) []string {
	var notes []string
	if q := quarantine(statuses); q != "" {
		notes = append(notes, q)
	}
	named := 0
	for _, s := range statuses {
		var also []string
		if n := s.GetDrainingNanos(); n > 0 {
			also = append(also, fmt.Sprintf("%s %s more is granted than the lowered limit allows; it is given back or settled first", amount(n), s.GetCurrency()))
		}
		if n := int64(s.GetPendingReplicas()); n > 0 {
			also = append(also, plural(n, "server has", "servers have")+" not acknowledged the latest limit")
		}
		if s.GetTight() {
			text := "near its limit, so one server holds what is left"
			if n := s.GetGrantedElsewhereNanos(); n > 0 {
				text += fmt.Sprintf("; %s %s of HELD is with other servers", amount(n), s.GetCurrency())
			}
			also = append(also, text)
		}
		if len(also) == 0 {
			continue
		}
		if named++; named <= mostQuarantined {
			notes = append(notes, bareID(s.GetName())+": "+strings.Join(also, "; ")+".")
		}
	}
	if named > mostQuarantined {
		notes = append(notes, fmt.Sprintf("… and %d more; -o json has all.", named-mostQuarantined))
	}
	return notes
}
