package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/manifest"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// hotCompany has one budget that all calls go through. A call of 500 tokens in and 250 out costs 0.001.
const hotCompany = `
kind: Catalog
tiers: [{id: economy}]
models:
  - {id: small, provider: p, tier: economy, capabilities: [chat], context_tokens: 400_000, max_output_tokens: 64_000}
---
{kind: PriceBook, name: book, currency: USD, prices: [{model: small, effective_time: 2026-01-01, input: 1, output: 2, source: test}]}
---
{kind: Budget, name: company, owner: {name: Ada}, limit: LIMIT, currency: USD, period: {calendar: year}}
---
{kind: Charter, name: chat, owner: {name: Ada}, team: t, stage: production, budget: company, permitted_tiers: [economy], exhausted: {mode: deny}}
`

// hotPrice is what a call of hotCompany costs, in nanos.
const hotPrice = 1_000_000

// replica is one of several servers on one etcd, and a client of it alone.
type replica struct {
	*childServer
	*chartergate.Client
}

func startReplica(t *testing.T, endpoint string, args ...string) *replica {
	t.Helper()
	var addr [2]string
	for i := range addr {
		a, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		addr[i] = a
	}
	c, err := startChild(t.Context(), t.TempDir(), addr[0], addr[1],
		append([]string{"serve", "--etcd-endpoints", endpoint, "--data-dir", t.TempDir(), "--grpc-addr", addr[0], "--http-addr", addr[1]}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.stop() })
	client, err := chartergate.Dial(addr[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return &replica{c, client}
}

// startReplicas starts two servers on an etcd of their own, with a company whose budget has so much, which both know.
func startReplicas(t *testing.T, limit string, args ...string) (a, b *replica) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts two servers and an etcd")
	}
	endpoint := startEtcd(t)
	a, b = startReplica(t, endpoint, args...), startReplica(t, endpoint, args...)
	resources, err := manifest.Parse("company.yaml", []byte(strings.Replace(hotCompany, "LIMIT", limit, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Manifests.Apply(t.Context(), &pb.ApplyRequest{Resources: resources}); err != nil {
		t.Fatal(err)
	}
	soonTrue(t, 10*time.Second, "the charter applied through one is known to the other", func() bool {
		_, err := b.Charters.GetCharter(t.Context(), &pb.GetCharterRequest{Name: "charters/chat"})
		return err == nil
	})
	return a, b
}

func soonTrue(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(20*time.Millisecond), time.After(most)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", most, what)
		}
	}
}

func hotCall() *pb.Call {
	return &pb.Call{Feature: "chat", Model: "small", Estimate: &pb.Estimate{InputTokens: 500, MaxOutputTokens: 250}}
}

func (r *replica) hold(t *testing.T) string {
	t.Helper()
	resp, err := r.Reserve(t.Context(), &pb.ReserveRequest{Call: hotCall()})
	if err != nil || resp.GetHold() == nil {
		t.Fatalf("reserve: %v, error %v", resp, err)
	}
	return resp.GetHold().GetToken()
}

func settleOf(token string, out int64) *pb.SettleRequest {
	return &pb.SettleRequest{Hold: token, Usage: &pb.Usage{InputTokens: 500, OutputTokens: out}}
}

func (r *replica) status(t *testing.T) *pb.BudgetStatus {
	t.Helper()
	st, err := r.Budgets.GetBudgetStatus(t.Context(), &pb.GetBudgetStatusRequest{Name: "budgets/company"})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// post calls the REST API.
func (r *replica) post(t *testing.T, path string, body map[string]any) map[string]any {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.httpAddr+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	answer := map[string]any{}
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s: %s, error %v", path, resp.Status, text, err)
	}
	return answer
}

// A charter applied through one server is enforced by the other, and a hold of one is settled, released and extended
// through the other.
func TestAnyReplicaServesAnyCall(t *testing.T) {
	a, b := startReplicas(t, "1")
	if _, err := b.Reserve(t.Context(), &pb.ReserveRequest{Call: &pb.Call{Feature: "nobody", Estimate: &pb.Estimate{InputTokens: 1}}}); status.Code(err) != codes.NotFound {
		t.Errorf("a feature without a charter: error %v", err)
	}
	settled := int64(0)
	for _, pair := range [][2]*replica{{a, b}, {b, a}} {
		one, other := pair[0], pair[1]
		token := one.hold(t)
		first, err := other.Settle(t.Context(), settleOf(token, 100))
		if err != nil || first.GetSettlement().GetCostNanos() != 700_000 || first.GetSettlement().GetForcedNanos() != 0 {
			t.Fatalf("settled through the other: %v, error %v", first, err)
		}
		for _, r := range []*replica{one, other} {
			if again, err := r.Settle(t.Context(), settleOf(token, 100)); err != nil || again.GetSettlement().GetJournal() != first.GetSettlement().GetJournal() {
				t.Errorf("again: %v, error %v; first %v", again, err, first)
			}
		}
		_, err = other.Settle(t.Context(), settleOf(token, 101))
		if status.Code(err) != codes.FailedPrecondition || chartergate.Reason(err) != "HOLD_SETTLED" {
			t.Errorf("another amount through the other: error %v, reason %q", err, chartergate.Reason(err))
		}
		token = one.hold(t)
		longer, err := other.Extend(t.Context(), &pb.ExtendRequest{Hold: token, Ttl: durationpb.New(5 * time.Minute)})
		if err != nil {
			t.Fatalf("extended through the other: %v", err)
		}
		if resp, err := other.Release(t.Context(), &pb.ReleaseRequest{Hold: longer.GetHold().GetToken()}); err != nil || resp.GetReleasedNanos() != hotPrice {
			t.Errorf("released through the other: %v, error %v", resp, err)
		}

		call := map[string]any{"feature": "chat", "model": "small", "estimate": map[string]any{"input_tokens": 500, "max_output_tokens": 250}}
		hold := one.post(t, "/v1/preflight:reserve", map[string]any{"call": call})["hold"].(map[string]any)
		extended := other.post(t, "/v1/preflight:extend", map[string]any{"hold": hold["token"], "ttl": "300s"})["hold"].(map[string]any)
		answer := other.post(t, "/v1/preflight:settle", map[string]any{"hold": extended["token"], "usage": map[string]any{"input_tokens": 500, "output_tokens": 250}})
		if s := answer["settlement"].(map[string]any); s["cost_nanos"] != fmt.Sprint(hotPrice) || extended["expire_time"] == hold["expire_time"] {
			t.Errorf("by REST: held %v, extended %v, settled %v", hold, extended, s)
		}
		settled += 700_000 + hotPrice
	}
	for _, r := range []*replica{a, b} { // the first learns of the second by its next heartbeat
		soonTrue(t, 10*time.Second, fmt.Sprintf("the status has all %d that are settled", settled), func() bool {
			st := r.status(t)
			return st.GetSettledNanos() == settled && st.GetForcedNanos() == 0 && st.GetQuarantinedNanos() == 0
		})
	}
}

// A server that is killed leaves holds that the other one settles.
func TestReplicaTakesOverAfterAKill(t *testing.T) {
	a, b := startReplicas(t, "1", "--max-hold", "60s")
	token, twice := a.hold(t), a.hold(t)
	if _, err := a.Settle(t.Context(), settleOf(twice, 100)); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-a.exited
	killed := time.Now()
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		s, err := b.Preflight.Settle(ctx, settleOf(token, 100))
		cancel()
		if err == nil {
			if s.GetSettlement().GetLate() || s.GetSettlement().GetForcedNanos() != 0 || s.GetSettlement().GetCostNanos() != 700_000 {
				t.Errorf("settled as %v", s)
			}
			break
		}
		if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
			t.Fatalf("settle: %v", err)
		}
		if time.Since(killed) > 15*time.Second {
			t.Fatalf("not settled within %s: %v", time.Since(killed), err)
		}
	}
	t.Logf("its hold was settled by the other %s after the kill", time.Since(killed).Round(100*time.Millisecond))
	if s, err := b.Settle(t.Context(), settleOf(twice, 100)); err != nil || s.GetSettlement().GetCostNanos() != 700_000 {
		t.Errorf("what it had settled, again: %v, error %v", s, err)
	}
	b.hold(t)
	if st := b.status(t); st.GetSettledNanos() != 1_400_000 || st.GetQuarantinedNanos() == 0 && st.GetHeldNanos() != hotPrice {
		t.Errorf("the status is %v", st)
	}
}

// A server that is stopped in order, with nothing held, leaves nothing to wait for.
func TestReplicaLeavesInOrder(t *testing.T) {
	a, b := startReplicas(t, "1")
	for _, r := range []*replica{a, b} {
		if _, err := r.Settle(t.Context(), settleOf(r.hold(t), 250)); err != nil {
			t.Fatal(err)
		}
	}
	stopChild(t, a.childServer)
	for range 5 { // b goes on at once, though it may not know yet that it is alone
		if _, err := b.Settle(t.Context(), settleOf(b.hold(t), 250)); err != nil {
			t.Fatal(err)
		}
	}
	if st := b.status(t); st.GetQuarantinedNanos() != 0 || st.GetHeldNanos() != 0 || st.GetSettledNanos() != 7*hotPrice {
		t.Errorf("after the other left: %v", st)
	}
	stopChild(t, b.childServer)
}

// One budget that everybody spends at once through two servers is used up to the last call, and not passed.
func TestReplicasShareOneHotBudget(t *testing.T) {
	const calls = 600
	a, b := startReplicas(t, "0.6") // calls * hotPrice
	var mu sync.Mutex
	settled, denied := 0, 0
	var load sync.WaitGroup
	for worker := range 16 {
		one, other := a, b
		if worker%2 == 1 {
			one, other = b, a
		}
		load.Go(func() {
			for {
				resp, err := one.Reserve(t.Context(), &pb.ReserveRequest{Call: hotCall()})
				if err != nil {
					t.Error(err)
					return
				}
				if resp.GetHold() == nil {
					mu.Lock()
					denied++
					mu.Unlock()
					if resp.GetDecision().GetEffect() == pb.Effect_EFFECT_DENY {
						return
					}
					select {
					case <-time.After(50 * time.Millisecond): // what the client was told to wait, and less
						continue
					case <-t.Context().Done():
						return
					}
				}
				if _, err := other.Settle(t.Context(), settleOf(resp.GetHold().GetToken(), 250)); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				settled++
				mu.Unlock()
			}
		})
	}
	load.Wait()
	for _, r := range []*replica{a, b} {
		st := r.status(t)
		if st.GetSettledNanos() != int64(settled)*hotPrice || st.GetSettledNanos() > st.GetLimitNanos() || st.GetForcedNanos() != 0 {
			t.Errorf("the status is %v; the clients settled %d calls", st, settled)
		}
	}
	if settled != calls {
		t.Errorf("%d calls are settled, %d fit", settled, calls)
	}
	t.Logf("%d settled, %d times refused", settled, denied)
}

// Several addresses are one service: a command works while one of them answers.
func TestCommandsTakeSeveralAddresses(t *testing.T) {
	addr, _ := startExamples(t)
	nobody, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	c := cli{t: t}
	for range 3 {
		c.contains(c.ok("get", "budgets", "--server", nobody+","+addr), "engineering")
	}
	t.Setenv(serverVariable, addr+", "+nobody)
	c.contains(c.ok("get", "charters"), "support-copilot")
	c.fails(exitFailed, []string{"no server answers at", nobody}, "get", "budgets", "--server", nobody+","+nobody)
	c.fails(exitUsage, []string{"--server", "HOST:PORT"}, "get", "budgets", "--server", addr+",,")
}
