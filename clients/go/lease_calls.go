package chartergate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// The leased path behind Client.Reserve, Settle, Release and Extend.

// token is a hold's: what Settle finds it by again.
func (m *leases) token(h LeasedHold) string {
	b := make([]byte, 0, 48)
	b = append(b, m.prefix...)
	b = strconv.AppendUint(b, h.slice.id, 36)
	b = append(b, '.')
	return string(strconv.AppendInt(b, int64(h.n), 36))
}

// hold finds the hold of a token; leased is false where the token is none of this client's leases.
func (m *leases) hold(token string) (h LeasedHold, leased bool, err error) {
	rest, leased := strings.CutPrefix(token, m.prefix)
	if !leased {
		return h, false, nil
	}
	left, right, _ := strings.Cut(rest, ".")
	id, err1 := strconv.ParseUint(left, 36, 64)
	n, err2 := strconv.ParseInt(right, 36, 32)
	if h.slice = m.slice(id); err1 != nil || err2 != nil || h.slice == nil || n < 0 || !h.slice.has(int(n)) {
		return h, true, failure(codes.NotFound, "HOLD_UNKNOWN", "the leased hold is not known, or its slice was settled long ago")
	}
	h.n = int(n)
	return h, true, nil
}

func (s *slice) has(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return n < s.made
}

// reserve answers a call from a lease; nil where the server must.
func (m *leases) reserve(r *chartergatev1.ReserveRequest) *chartergatev1.ReserveResponse {
	if r.GetRequestId() != "" { // whoever names the request may repeat it, to any client of the server
		return nil
	}
	l := m.find(r.GetCall())
	if l == nil {
		return nil
	}
	est, err := convert.EstimateFromProto(r.GetCall().GetEstimate())
	ttl := l.ttl
	if r.GetTtl() != nil {
		ttl = r.GetTtl().AsDuration()
	}
	if err != nil || !l.fits(&est) || ttl > l.ttl || ttl < time.Second {
		return nil
	}
	now := time.Now()
	h, cost, output := l.reserve(now, &est)
	if h.slice == nil {
		return nil
	}
	return &chartergatev1.ReserveResponse{
		Decision: h.slice.decisionFor(cost, output),
		Hold:     &chartergatev1.Hold{Token: m.token(h), AmountNanos: int64(cost), ExpireTime: timestamppb.New(h.slice.expiry(now.Add(ttl)))},
	}
}

// decisionFor is the slice's decision for one call. It shares the reasons.
func (s *slice) decisionFor(cost money.Nanos, output int64) *chartergatev1.Decision {
	d := s.decision
	return &chartergatev1.Decision{
		Effect: d.GetEffect(), Tier: d.GetTier(), Model: d.GetModel(), Provider: d.GetProvider(), MaxInputTokens: d.GetMaxInputTokens(),
		MaxOutputTokens: output, TrimContextToTokens: d.GetTrimContextToTokens(), PromptCache: d.GetPromptCache(), Reasons: d.GetReasons(),
		EstimatedCostNanos: int64(cost), Currency: d.GetCurrency(), PolicyRevision: d.GetPolicyRevision(),
		PriceRevision: d.GetPriceRevision(), CharterRevision: d.GetCharterRevision(),
	}
}

// expiry is a call's, at most the slice's.
func (s *slice) expiry(wanted time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if past(wanted, s.expires) {
		return s.expires
	}
	return wanted
}

func (m *leases) settleCall(ctx context.Context, h LeasedHold, r *chartergatev1.SettleRequest) (*chartergatev1.SettleResponse, error) {
	s := h.slice
	u, err := convert.UsageFromProto(r.GetUsage())
	if err != nil || r.GetUsage() == nil || r.GetOutcome() < 0 || r.GetOutcome() > chartergatev1.Outcome_OUTCOME_FAILURE {
		return nil, invalidUsage(err)
	}
	if model := r.GetModel(); model != "" && model != s.decision.GetModel() {
		return m.outside(ctx, h, r)
	}
	cost, lines, err := s.price.Lines(&u)
	if err != nil {
		return nil, costError(err)
	}
	was, drained, ok := s.settle(h.n, &u, cost, usage.Outcome(r.GetOutcome()))
	if drained {
		m.poke()
	}
	switch {
	case ok || was.state == holdSettled && was.cost == cost:
		return &chartergatev1.SettleResponse{Settlement: &chartergatev1.Settlement{
			Feature: s.lease.call.GetFeature(), Tier: s.decision.GetTier(), Model: s.decision.GetModel(), CostNanos: int64(cost),
			ReleasedNanos: int64(max(0, was.held-cost)), Lines: convert.LinesToProto(lines), Currency: s.decision.GetCurrency(),
			SettleTime: timestamppb.Now(),
		}}, nil
	case was.state == holdReleased:
		return nil, failure(codes.FailedPrecondition, "HOLD_RELEASED", "the leased hold was released before: record the spend with UsageService.RecordUsage")
	case was.state == holdSettled || was.state == holdCharged:
		return nil, settledBefore(was)
	}
	return m.outside(ctx, h, r)
}

// outside records a call that its slice cannot settle: with another model, after the slice has expired, or with usage
// that does not fit its sum. There is no hold for it, so it is forced spend. Once, by the hold's token.
func (m *leases) outside(ctx context.Context, h LeasedHold, r *chartergatev1.SettleRequest) (*chartergatev1.SettleResponse, error) {
	s := h.slice
	was, _, mine := s.end(h.n, holdLive, holdOutside)
	switch was.state {
	case holdSettled, holdCharged:
		return nil, settledBefore(was)
	case holdReleased:
		return nil, failure(codes.FailedPrecondition, "HOLD_RELEASED", "the leased hold was released before: record the spend with UsageService.RecordUsage")
	}
	model := r.GetModel()
	if model == "" {
		model = s.decision.GetModel()
	}
	c := s.lease.call
	done, err := retry(ctx, m.client, &chartergatev1.RecordUsageRequest{
		Feature: c.GetFeature(), Model: model, Usage: r.GetUsage(), User: c.GetUser(), Cohort: c.GetCohort(), Agent: c.GetAgent(), Run: c.GetRun(),
		PromptPattern: c.GetPromptPattern(), Task: c.GetTask(), Outcome: r.GetOutcome(), RequestId: m.token(h),
	}, m.client.Usage.RecordUsage)
	if mine {
		to := holdRecorded
		if err != nil {
			to = holdLive
		}
		if _, drained, _ := s.end(h.n, holdOutside, to); drained {
			m.poke()
		}
	}
	if err != nil {
		return nil, err
	}
	return &chartergatev1.SettleResponse{Settlement: done.GetSettlement()}, nil
}

func (m *leases) releaseCall(h LeasedHold) (*chartergatev1.ReleaseResponse, error) {
	was, drained, ok := h.slice.end(h.n, holdLive, holdReleased)
	if drained {
		m.poke()
	}
	switch {
	case ok || was.state == holdReleased:
		return &chartergatev1.ReleaseResponse{ReleasedNanos: int64(was.held)}, nil
	case was.state == holdExpired:
		return nil, failure(codes.FailedPrecondition, "HOLD_EXPIRED", "the leased hold has expired: it can still be settled, as forced spend, but not released")
	}
	return nil, settledBefore(was)
}

// extendCall gives a call more time; where its slice has less, the whole slice gets it.
func (m *leases) extendCall(ctx context.Context, h LeasedHold, r *chartergatev1.ExtendRequest) (*chartergatev1.ExtendResponse, error) {
	s, sent, ttl := h.slice, time.Now(), r.GetTtl().AsDuration()
	s.mu.Lock()
	was, token, expires := s.look(s.at(h.n)), s.token, s.expires
	s.mu.Unlock()
	switch was.state {
	case holdLive, holdOutside:
	case holdExpired:
		return nil, failure(codes.FailedPrecondition, "HOLD_EXPIRED", "the leased hold has expired: it can still be settled, as forced spend, but not extended")
	case holdReleased:
		return nil, failure(codes.FailedPrecondition, "HOLD_RELEASED", "the leased hold was released before")
	default:
		return nil, settledBefore(was)
	}
	if until := sent.Add(ttl); past(until, expires) || ttl < time.Second {
		longer, err := retry(ctx, m.client, identifiedExtend(&chartergatev1.ExtendRequest{Hold: token, Ttl: r.GetTtl()}), m.client.Preflight.Extend)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		if expires = sent.Add(ttl - ttl/50); past(expires, s.expires) { // 2% for the clocks' rates
			s.token, s.expires = longer.GetHold().GetToken(), expires
		}
		s.mu.Unlock()
	}
	return &chartergatev1.ExtendResponse{Hold: &chartergatev1.Hold{
		Token: r.GetHold(), AmountNanos: int64(was.held), ExpireTime: timestamppb.New(s.expiry(sent.Add(ttl))),
	}}, nil
}

// failure is an error as the server would give it.
func failure(code codes.Code, reason, format string, args ...any) error {
	s := status.New(code, fmt.Sprintf(format, args...))
	if d, err := s.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}); err == nil {
		s = d
	}
	return s.Err()
}

func invalidUsage(err error) error {
	if err != nil {
		return failure(codes.InvalidArgument, "INVALID", "%v", err)
	}
	return failure(codes.InvalidArgument, "INVALID", "usage is missing, or outcome is none of the known")
}

func costError(err error) error {
	if _, ok := errors.AsType[*pricing.UnpricedError](err); ok {
		return failure(codes.FailedPrecondition, "NO_PRICE", "%v", err)
	}
	return failure(codes.OutOfRange, "AMOUNT_OVERFLOW", "%v; check the counts and the model's price", err)
}

func settledBefore(was localHold) error {
	return failure(codes.FailedPrecondition, "HOLD_SETTLED", "the leased hold was settled before, or charged when it expired, at %s (%d nanos): a hold settles once",
		was.cost, int64(was.cost))
}
