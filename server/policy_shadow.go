package server

import (
	"cmp"
	"context"
	"slices"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/simulate"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/shadow"
)

// GetPolicyShadow implements PolicyService.
func (s *policyService) GetPolicyShadow(ctx context.Context, req *chartergatev1.GetPolicyShadowRequest) (*chartergatev1.PolicyShadow, error) {
	if s.lab == nil || s.lab.Shadow == nil {
		return s.UnimplementedPolicyServiceServer.GetPolicyShadow(ctx, req)
	}
	p, err := s.policyOf(s.control.Snapshot(), req.Name)
	if err != nil {
		return nil, err
	}
	all := &chartergatev1.PolicyShadow{Policy: p.Name, ActiveRevision: p.ActiveRevision, ShadowRevision: p.ShadowRevision, ShadowPpm: p.ShadowPpm, Servers: 1}
	if r := s.lab.Shadow.Report(policyID(req.Name)); r != nil && r.Revision == p.ShadowRevision {
		fillShadow(all, r)
	}
	if req.Local {
		return all, nil
	}
	for _, addr := range s.lab.Gate.Peers(ctx) {
		client, err := s.lab.Peers.client(addr)
		if err != nil {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, forwardTime)
		one, err := client.GetPolicyShadow(asking, &chartergatev1.GetPolicyShadowRequest{Name: req.Name, Local: true})
		cancel()
		if err != nil || one.ShadowRevision != all.ShadowRevision { // it does not answer, or has not heard of the candidate
			continue
		}
		if err := addShadow(all, one); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all.Differences, func(a, b *chartergatev1.PolicyDifference) int { return cmp.Compare(b.Calls, a.Calls) })
	all.Differences = all.Differences[:min(len(all.Differences), simulate.MaxDifferences)]
	return all, nil
}

func fillShadow(p *chartergatev1.PolicyShadow, r *shadow.Report) {
	p.StartTime = convert.TimeToProto(r.Since)
	p.Calls, p.Dropped, p.Failed, p.Changed = r.Calls, r.Dropped, r.Failed, r.Differing
	p.Differences = convert.DifferencesToProto(r.Differences)
}

// addShadow adds what another server has counted of the same candidate.
func addShadow(all, one *chartergatev1.PolicyShadow) error {
	all.Calls, all.Dropped, all.Failed, all.Changed = all.Calls+one.Calls, all.Dropped+one.Dropped, all.Failed+one.Failed, all.Changed+one.Changed
	all.Servers++
	if t := one.StartTime; t != nil && (all.StartTime == nil || t.AsTime().Before(all.StartTime.AsTime())) {
		all.StartTime = t
	}
	for _, d := range one.Differences {
		i := slices.IndexFunc(all.Differences, func(own *chartergatev1.PolicyDifference) bool {
			return own.FromEffect == d.FromEffect && own.FromModel == d.FromModel && own.FromTier == d.FromTier &&
				own.ToEffect == d.ToEffect && own.ToModel == d.ToModel && own.ToTier == d.ToTier
		})
		if i < 0 {
			all.Differences = append(all.Differences, d)
			continue
		}
		own := all.Differences[i]
		own.Calls += d.Calls
		if err := addSums(own.FromCostNanos, d.FromCostNanos); err != nil {
			return err
		}
		if err := addSums(own.ToCostNanos, d.ToCostNanos); err != nil {
			return err
		}
		own.Examples = append(own.Examples, d.Examples...)
		own.Examples = own.Examples[:min(len(own.Examples), simulate.MaxExamples)]
	}
	return nil
}

func addSums(to, more map[string]int64) error {
	for currency, x := range more {
		sum, err := money.Add(money.Nanos(to[currency]), money.Nanos(x))
		if err != nil {
			return err
		}
		to[currency] = int64(sum)
	}
	return nil
}
