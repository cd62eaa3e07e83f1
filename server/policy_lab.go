package server

import (
	"context"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/server/shadow"
)

// Policies asks the policies of calls, and tells why they say what they say.
type Policies interface {
	preflight.Decider
	// Explain gives what each policy says, the organisation's first. trace adds its interpreter's.
	Explain(ctx context.Context, in *routing.Input, trace bool) ([]routing.Explanation, error)
}

// KeptDecisions are the decisions that were kept; store.Usage has them.
type KeptDecisions interface {
	Decisions(ctx context.Context, q usage.DecisionQuery) (list []usage.Decision, next string, err error)
	CountDecisions(ctx context.Context, q usage.DecisionQuery) (int64, error)
}

// PolicyLab is what policies are tried out and explained with.
type PolicyLab struct {
	Gate      *preflight.Service
	Decisions KeptDecisions
	Shadow    *shadow.Shadow
	Peers     *Peers
	// InUse are the policies that decide.
	InUse Policies
	// Of makes policies that decide as those would that a snapshot says are active.
	Of func(*charter.Snapshot) (Policies, error)

	busy chan struct{} // a simulation takes a processor: one at a time
}

// NewPolicyLab checks nothing: all parts are required.
func NewPolicyLab(lab PolicyLab) *PolicyLab {
	lab.busy = make(chan struct{}, 1)
	return &lab
}
