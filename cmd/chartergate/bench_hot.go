package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/money"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// hotPairs is about how many calls the hot budget pays for.
const hotPairs = 60_000

// hotResult is how one budget was used up by all replicas at once. Amounts are nanos.
type hotResult struct {
	Replicas       int     `json:"replicas"`
	InFlight       int     `json:"in_flight"`
	Limit          int64   `json:"limit_nanos"`
	Settled        int64   `json:"settled_nanos"`
	Forced         int64   `json:"forced_nanos"`
	Overspend      int64   `json:"overspend_nanos"` // settled beyond limit and forced
	Most           int64   `json:"most_admitted_nanos"`
	Pairs          int64   `json:"pairs"`
	Seconds        float64 `json:"seconds"`
	PerSecond      float64 `json:"pairs_per_second"`
	Refused        int64   `json:"refused"`
	FalseDenials   int64   `json:"false_denials"` // while what was neither settled nor held had room
	FalseNanos     int64   `json:"false_denials_nanos"`
	LastPercent    int64   `json:"reserves_in_last_percent"`
	Unspent        int64   `json:"unspent_nanos"`
	CallNanos      int64   `json:"call_nanos"`
	CommitsPer1000 float64 `json:"etcd_transactions_per_1000_pairs"`
}

// hotState is what all clients together know: admitted is what is settled or held for certain.
type hotState struct {
	limit                           int64
	low, high                       atomic.Int64 // admitted, at least and at most
	most                            atomic.Int64
	pairs, refused, false_, falseN  atomic.Int64
	lastPercent, estimate, settledC atomic.Int64
}

func benchHot(ctx context.Context, cmd *cobra.Command, f *benchFlags) (err error) {
	dir, err := os.MkdirTemp("", "chartergate-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintf(cmd.ErrOrStderr(), "Starting %s in %s\n", serversText(f.replicas), dir)
	cluster, err := startCluster(ctx, dir, f.replicas)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.stop()) }()
	var callers []caller
	for _, s := range cluster.servers {
		c, err := newCaller(ctx, s.grpcAddr)
		if err != nil {
			return err
		}
		defer c.close()
		callers = append(callers, c)
	}
	limit, err := applyHot(ctx, callers[0].client)
	if err != nil {
		return err
	}
	before, err := cluster.metrics(ctx)
	if err != nil {
		return err
	}
	st := &hotState{limit: limit}
	start := time.Now()
	if err := st.run(ctx, callers, f.inFlight); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := cluster.metrics(ctx)
	if err != nil {
		return err
	}
	budget, err := callers[0].client.Budgets.GetBudgetStatus(ctx, &pb.GetBudgetStatusRequest{Name: "budgets/company"})
	if err != nil {
		return err
	}
	r := hotResult{
		Replicas: f.replicas, InFlight: f.inFlight, Limit: limit, Settled: budget.GetSettledNanos(), Forced: budget.GetForcedNanos(),
		Overspend: max(0, budget.GetSettledNanos()-limit-budget.GetForcedNanos()), Most: st.most.Load(), Pairs: st.pairs.Load(),
		Seconds: took.Seconds(), PerSecond: float64(st.pairs.Load()) / took.Seconds(), Refused: st.refused.Load(),
		FalseDenials: st.false_.Load(), FalseNanos: st.falseN.Load(), LastPercent: st.lastPercent.Load(),
		Unspent: limit - budget.GetSettledNanos(), CallNanos: st.estimate.Load(),
		CommitsPer1000: (after[commitCount] - before[commitCount]) / float64(max(1, st.pairs.Load())) * 1000,
	}
	if r.Settled != st.settledC.Load() {
		return fmt.Errorf("the clients settled %d nanos, the budget says %d", st.settledC.Load(), r.Settled)
	}
	return writeHot(cmd, f.output, &r)
}

// applyHot makes one company whose budget pays for about hotPairs calls; its departments' have room. It gives the limit.
func applyHot(ctx context.Context, c *chartergate.Client) (int64, error) {
	if err := applyBench(ctx, c, 8); err != nil {
		return 0, err
	}
	d, err := c.Check(ctx, &pb.CheckRequest{Call: busyCall(0)})
	if err != nil {
		return 0, err
	}
	limit := d.GetDecision().GetEstimatedCostNanos() * hotPairs
	company := benchBudget("company", "").GetBudget()
	company.LimitNanos = limit
	_, err = c.Manifests.Apply(ctx, &pb.ApplyRequest{Resources: []*pb.Resource{{Resource: &pb.Resource_Budget{Budget: company}}}})
	return limit, err
}

func busyCall(n int64) *pb.Call {
	return &pb.Call{
		Feature: fmt.Sprintf("charter-%d", n%8), TaskClass: "chat", Complexity: 20, User: "u-1", Cohort: "pro", PromptPattern: "answer-v1",
		Estimate: &pb.Estimate{InputTokens: 1020, CachedInputTokens: 120, MaxOutputTokens: 129},
	}
}

// run makes calls until the budget is used up on every replica: until each worker was refused for a second on end.
func (st *hotState) run(ctx context.Context, callers []caller, inFlight int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	var number atomic.Int64
	for w := range inFlight {
		c := callers[w%len(callers)]
		workers.Go(func() {
			var refusedSince time.Time
			for ctx.Err() == nil {
				held, err := st.pair(ctx, c, number.Add(1))
				switch {
				case err != nil:
					cancel(err)
					return
				case held:
					refusedSince = time.Time{}
				case refusedSince.IsZero():
					refusedSince = time.Now()
				case time.Since(refusedSince) > time.Second:
					return
				}
				if !held {
					select {
					case <-ctx.Done():
					case <-time.After(5 * time.Millisecond):
					}
				}
			}
		})
	}
	workers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// pair reserves and settles at the estimate, so that the budget can be used up to the last call. What a reserve may have
// taken counts as admitted from before it is sent, and what it surely took once it is answered.
func (st *hotState) pair(ctx context.Context, c caller, n int64) (held bool, err error) {
	usage := &pb.Usage{InputTokens: 900, CacheReadTokens: 120, OutputTokens: 129}
	call := st.estimate.Load()
	st.high.Add(call)
	last := st.low.Load() > st.limit/100*99
	r, err := c.session.Reserve(ctx, &pb.ReserveRequest{Call: busyCall(n), RequestId: requestID()})
	if err != nil {
		return false, err
	}
	if last {
		st.lastPercent.Add(1)
	}
	if r.GetHold() == nil {
		room := st.limit - st.high.Load() + call // what even the others that are on their way leave
		st.high.Add(-call)
		st.refused.Add(1)
		if call > 0 && room >= call {
			st.false_.Add(1)
			st.falseN.Add(call)
		}
		return false, nil
	}
	x := r.GetHold().GetAmountNanos()
	st.estimate.Store(x)
	st.high.Add(x - call)
	for admitted := st.low.Add(x); ; {
		most := st.most.Load()
		if admitted <= most || st.most.CompareAndSwap(most, admitted) {
			break
		}
	}
	s, err := c.session.Settle(ctx, &pb.SettleRequest{Hold: r.GetHold().GetToken(), Usage: usage, RequestId: requestID()})
	if err != nil {
		return false, err
	}
	cost := s.GetSettlement().GetCostNanos()
	st.low.Add(cost - x)
	st.high.Add(cost - x)
	st.settledC.Add(cost)
	st.pairs.Add(1)
	return true, nil
}

func writeHot(cmd *cobra.Command, output string, r *hotResult) error {
	w := cmd.OutOrStdout()
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	usd := func(n int64) string { return money.Nanos(n).String() + " USD" }
	g := newGrid("HOT BUDGET", ">")
	g.add("servers", fmt.Sprint(r.Replicas))
	g.add("calls in flight", fmt.Sprint(r.InFlight))
	g.add("limit", usd(r.Limit))
	g.add("settled", usd(r.Settled))
	g.add("of it forced", usd(r.Forced))
	g.add("overspend", usd(r.Overspend))
	g.add("most admitted at once", usd(r.Most))
	g.add("pairs of Reserve and Settle", thousands(r.Pairs))
	g.add("a second", thousands(int64(r.PerSecond)))
	g.add("refused", thousands(r.Refused))
	g.add("reserves in the last 1%", thousands(r.LastPercent))
	g.add("refused although there was room", fmt.Sprintf("%s, %s", thousands(r.FalseDenials), usd(r.FalseNanos)))
	g.add("left at the end (a call costs "+usd(r.CallNanos)+")", usd(r.Unspent))
	g.add("etcd transactions per 1,000 pairs", fmt.Sprintf("%.1f", r.CommitsPer1000))
	fmt.Fprintln(w)
	g.write(w, "  ")
	return nil
}
