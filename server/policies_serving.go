package server

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	// shownRevisions bounds the policy revisions of a replica's status.
	shownRevisions = 100
	// policiesTime is how long another replica may take to say which policies decide on it.
	policiesTime = time.Second
)

// PolicyServing says which policies decide on this replica.
type PolicyServing struct {
	Epoch     int64    // of the control state that they are of
	Revisions []string // the organisation's first
	Problem   string   // why those of a later control state do not, or not all; empty where there is none
}

func (s PolicyServing) fill(r *chartergatev1.Replica) {
	r.PolicyControlRevision, r.PolicyProblem = &s.Epoch, s.Problem
	r.PolicyRevisions = append([]string(nil), s.Revisions[:min(len(s.Revisions), shownRevisions)]...)
}

// askPolicies asks the other replicas that live which policies decide on them. Of one that does not answer nothing is
// told.
func (s *OperationsService) askPolicies(ctx context.Context, st *chartergatev1.GetStatusResponse) {
	ctx, cancel := context.WithTimeout(ctx, policiesTime)
	defer cancel()
	var asked sync.WaitGroup
	for _, r := range st.Replicas {
		if r.State != chartergatev1.ReplicaState_REPLICA_STATE_LIVE || r.Id == st.Replica.GetId() {
			continue
		}
		asked.Go(func() {
			other, err := s.peers.client(r.Address)
			if err != nil {
				return
			}
			answer, err := other.GetStatus(ctx, &chartergatev1.GetStatusRequest{Local: true})
			if err != nil || answer.GetReplica().GetId() != r.Id {
				return
			}
			r.PolicyControlRevision = answer.Replica.PolicyControlRevision
			r.PolicyRevisions, r.PolicyProblem = answer.Replica.PolicyRevisions, answer.Replica.PolicyProblem
		})
	}
	asked.Wait()
}

// Policies shows which policies decide.
func (m *Metrics) Policies(serving func() PolicyServing) {
	gauge := func(name, help string, value func(PolicyServing) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(serving()) }))
	}
	gauge("chartergate_policy_control_revision", "The etcd revision of the control state whose policies decide.",
		func(s PolicyServing) float64 { return float64(s.Epoch) })
	gauge("chartergate_policies_active", "Policy revisions that decide.", func(s PolicyServing) float64 { return float64(len(s.Revisions)) })
	gauge("chartergate_policy_stuck", "1 while an active policy revision does not compile on this replica; the status says which.",
		func(s PolicyServing) float64 {
			if s.Problem != "" {
				return 1
			}
			return 0
		})
}
