package server

import (
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/routing"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

// What a Reserve needs only until it is answered is used again: fresh memory costs more than the decision does.
var (
	calls            = sync.Pool{New: func() any { return new(routing.Call) }}
	reserveResponses = sync.Pool{New: func() any { return &chartergatev1.ReserveResponse{Decision: new(chartergatev1.Decision)} }}
)

// recycleRequest takes the call of a request back, which nobody uses any more.
func recycleRequest(m proto.Message) {
	switch m := m.(type) {
	case *chartergatev1.ReserveRequest:
		m.Call.ReturnToVTPool()
		m.Call = nil
	case *chartergatev1.CheckRequest:
		m.Call.ReturnToVTPool()
		m.Call = nil
	}
}

// recycleOperation takes the request of an operation back.
func recycleOperation(op *chartergatev1.SessionOperation) {
	switch o := op.Operation.(type) {
	case *chartergatev1.SessionOperation_Reserve:
		o.Reserve.ReturnToVTPool()
	case *chartergatev1.SessionOperation_Check:
		recycleRequest(o.Check)
	}
	op.Operation = nil
}

// recycleReply takes a reply back once it is encoded.
func recycleReply(m proto.Message) {
	if r, ok := m.(*chartergatev1.ReserveResponse); ok && r.GetDecision() != nil {
		reserveResponses.Put(r)
	}
}

// fillDecision overwrites p, whose parts are used again.
func fillDecision(p *chartergatev1.Decision, d *preflight.Decision) {
	alternates, reasons := p.Alternates[:0], p.Reasons[:0]
	p.Reset()
	p.Effect, p.Tier, p.Model, p.Provider = chartergatev1.Effect(d.Effect), d.Tier, d.Model, d.Provider
	p.MaxInputTokens, p.MaxOutputTokens, p.TrimContextToTokens = d.MaxInputTokens, d.MaxOutputTokens, d.TrimContextToTokens
	p.PromptCache = chartergatev1.PromptCache(d.PromptCache)
	p.EstimatedCostNanos, p.Currency = int64(d.Cost), d.Currency
	p.PolicyRevision, p.PriceRevision, p.CharterRevision = d.PolicyRevision, d.PriceRevision, d.CharterRevision
	for i := range d.Alternates {
		a := &d.Alternates[i]
		var to *chartergatev1.Alternate
		alternates, to = another(alternates)
		to.Tier, to.Model, to.EstimatedCostNanos = a.Tier, a.Model, int64(a.Cost)
	}
	for i := range d.Reasons {
		r := &d.Reasons[i]
		var to *chartergatev1.Reason
		reasons, to = another(reasons)
		to.Code, to.Message, to.Budget = chartergatev1.ReasonCode(r.Code), r.Message, r.Budget
	}
	p.Alternates, p.Reasons = alternates, reasons
	if d.RetryDelay > 0 {
		p.RetryDelay = durationpb.New(d.RetryDelay)
	}
}

// another makes a list one longer, with an element that was in it before where there is one.
func another[T any](list []*T) ([]*T, *T) {
	if len(list) == cap(list) || list[:len(list)+1][len(list)] == nil {
		list = append(list, new(T))
	} else {
		list = list[:len(list)+1]
	}
	return list, list[len(list)-1]
}

// fillHold overwrites p, or makes a new one, unless there is no hold.
func fillHold(p *chartergatev1.Hold, h *preflight.Hold) *chartergatev1.Hold {
	if h == nil {
		return nil
	}
	if p == nil {
		p = &chartergatev1.Hold{ExpireTime: new(timestamppb.Timestamp)}
	}
	p.Token, p.AmountNanos = h.Token, int64(h.Amount)
	p.ExpireTime.Seconds, p.ExpireTime.Nanos = h.Expires.Unix(), int32(h.Expires.Nanosecond())
	return p
}
