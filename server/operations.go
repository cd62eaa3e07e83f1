package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

// OperationsService tells how the replicas stand.
type OperationsService struct {
	chartergatev1.UnimplementedOperationsServiceServer
	gate     *preflight.Service
	version  string
	peers    *Peers
	policies func() PolicyServing
}

// NewOperationsService serves gate, in a program of a version. policies says which policies decide here; peers are asked
// which decide on them.
func NewOperationsService(gate *preflight.Service, version string, peers *Peers, policies func() PolicyServing) *OperationsService {
	return &OperationsService{gate: gate, version: version, peers: peers, policies: policies}
}

// GetStatus implements OperationsService.
func (s *OperationsService) GetStatus(ctx context.Context, req *chartergatev1.GetStatusRequest) (*chartergatev1.GetStatusResponse, error) {
	var c *preflight.Cluster
	if req.Local {
		c = s.gate.Here()
	} else {
		c = s.gate.Cluster(ctx)
	}
	p := &chartergatev1.GetStatusResponse{
		Replica: &chartergatev1.Replica{Id: c.Owner, Address: c.Addr, StartTime: timestamppb.New(c.Start), State: chartergatev1.ReplicaState_REPLICA_STATE_LIVE},
		Version: s.version, Serving: c.NotServing == nil, DeadlineLeft: durationpb.New(c.Deadline.Round(time.Millisecond)),
		WithoutEtcdNanos: int64(c.Offline), WithoutEtcdUsedNanos: int64(c.OfflineUsed),
		MaxHold: durationpb.New(c.MaxTTL), Quarantine: durationpb.New(c.Quarantine),
		ControlRevision: c.Revision, ControlCurrent: c.Current,
		OpenAccounts: int64(c.Accounts), TightAccounts: int64(c.Tight), DrainingAccounts: int64(c.Draining), PendingAcknowledgements: int64(c.Pending),
		Journal: &chartergatev1.JournalLag{QueuedBatches: int64(c.QueuedBatches), QueuedEntries: int64(c.QueuedEntries), UncollectedBatches: c.Uncollected},
		Money:   moneySummaries(c.Roots),
	}
	if c.NotServing != nil {
		p.NotServingReason = c.NotServing.Error()
		if e, ok := errors.AsType[*preflight.UnavailableError](c.NotServing); ok {
			p.NotServingReason = e.Why
		}
	}
	if c.Problem != nil {
		p.EtcdProblem = c.Problem.Error()
	}
	for i := range c.Replicas {
		r := replicaMessage(&c.Replicas[i])
		if r.GetId() == c.Owner && r.GetState() == chartergatev1.ReplicaState_REPLICA_STATE_LIVE {
			p.Replica = r
		}
		p.Replicas = append(p.Replicas, r)
	}
	s.policies().fill(p.Replica)
	s.askPolicies(ctx, p)
	return p, nil
}

func replicaMessage(r *preflight.Replica) *chartergatev1.Replica {
	p := &chartergatev1.Replica{
		Id: r.ID, Address: r.Addr, Host: r.Host, Pid: r.PID, State: chartergatev1.ReplicaState(r.State), Successor: r.Successor,
	}
	if !r.Start.IsZero() {
		p.StartTime = timestamppb.New(r.Start)
	}
	if !r.Closed.IsZero() {
		p.CloseTime = timestamppb.New(r.Closed)
	}
	if r.QuarantineLeft > 0 {
		p.QuarantineLeft = durationpb.New(r.QuarantineLeft.Round(time.Millisecond))
	}
	return p
}

// moneySummaries adds root budgets up by currency, in the order in which the currencies appear.
func moneySummaries(roots []preflight.RootMoney) []*chartergatev1.MoneySummary {
	sums := map[string]*preflight.Money{}
	var currencies []string
	for i := range roots {
		sum := sums[roots[i].Currency]
		if sum == nil {
			sum = &preflight.Money{}
			sums[roots[i].Currency] = sum
			currencies = append(currencies, roots[i].Currency)
		}
		sum.Add(roots[i].Money)
	}
	list := make([]*chartergatev1.MoneySummary, len(currencies))
	for i, currency := range currencies {
		m := sums[currency]
		list[i] = &chartergatev1.MoneySummary{
			Currency: currency, GrantedNanos: int64(m.Granted), IdleNanos: int64(m.Idle), HeldNanos: int64(m.Held),
			GrantedElsewhereNanos: int64(m.Elsewhere), QuarantinedNanos: int64(m.Quarantined), SettledNanos: int64(m.Settled), ForcedNanos: int64(m.Forced),
		}
	}
	return list
}
