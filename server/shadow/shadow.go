// Package shadow lets candidate policies decide beside the active ones, off the hot path and without effect, and counts
// where they differ.
package shadow

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/simulate"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
)

// Limits. Calls beyond the queue are dropped and counted.
const (
	queueLength    = 1024
	maxDifferences = 1000 // that are told apart; more are counted with the last
	decideTime     = time.Second
)

// Config is what a Shadow works with. All fields are required.
type Config struct {
	// Active are the policies that decide.
	Active preflight.Decider
	// Of makes policies that decide as those would that a snapshot says are active.
	Of  func(*charter.Snapshot) (preflight.Decider, error)
	Now func() time.Time
	Log *slog.Logger
}

// Shadow decides a share of calls by the candidates of policies, too. Make one with New and Run it. Its methods do not
// wait, but for Follow.
type Shadow struct {
	Config
	policies atomic.Pointer[map[string]*candidate] // by the policy's id; nil: there is none
	queue    chan job
	mu       sync.Mutex // guards the counts of candidates
}

// candidate is the shadow of one policy.
type candidate struct {
	policy, active, revision string // revisions by name
	ppm                      uint64
	decider                  preflight.Decider
	since                    time.Time
	dropped                  atomic.Int64

	calls, failed int64
	differ        map[[2]simulate.Choice]*simulate.Difference
}

// job is a call that a candidate decides, too.
type job struct {
	candidate *candidate
	input     routing.Input
	currency  string
}

// New begins without any candidate: call Follow.
func New(cfg Config) *Shadow { return &Shadow{Config: cfg, queue: make(chan job, queueLength)} }

// Follow takes the candidates that a snapshot says there are. One that goes on keeps its counts. Calls of Follow must come
// one after the other.
func (s *Shadow) Follow(snap *charter.Snapshot) {
	var before map[string]*candidate
	if p := s.policies.Load(); p != nil {
		before = *p
	}
	next := map[string]*candidate{}
	for _, p := range snap.Policies() {
		if p.Shadow == "" || p.ShadowPPM == 0 {
			continue
		}
		c, err := s.follow(snap, p, before[p.ID])
		if err != nil {
			s.Log.Error("a shadow cannot decide", "policy", p.Name(), "revision", p.Revision(p.Shadow), "error", err)
			continue
		}
		next[p.ID] = c
	}
	if len(next) == 0 {
		s.policies.Store(nil)
		return
	}
	s.policies.Store(&next)
}

func (s *Shadow) follow(snap *charter.Snapshot, p *charter.Policy, before *candidate) (*candidate, error) {
	shadowed := *p
	shadowed.Active = p.Shadow
	changed, err := snap.Replace(snap.Epoch, []charter.Change{charter.Set(&shadowed)})
	if err != nil {
		return nil, err
	}
	decides, ok := before.decides()
	if follower, can := decides.(interface{ Follow(*charter.Snapshot) }); ok && can {
		follower.Follow(changed)
	} else if decides, err = s.Of(changed); err != nil {
		return nil, err
	}
	active := p.Revision(p.Active)
	if p.Active == "" {
		active = ""
	}
	if ok && before.revision == p.Revision(p.Shadow) && before.active == active && before.ppm == uint64(p.ShadowPPM) {
		return before, nil
	}
	return &candidate{
		policy: p.Name(), active: active, revision: p.Revision(p.Shadow), ppm: uint64(p.ShadowPPM), decider: decides,
		since: s.Now(), differ: map[[2]simulate.Choice]*simulate.Difference{},
	}, nil
}

func (c *candidate) decides() (preflight.Decider, bool) {
	if c == nil {
		return nil, false
	}
	return c.decider, true
}

// Decided takes what the gate has decided. The share is chosen by a hash of the call and its time.
func (s *Shadow) Decided(in *routing.Input, d *preflight.Decision) {
	p := s.policies.Load()
	if p == nil || in.Charter == nil || len(in.Budgets) == 0 { // without budgets no policy was asked
		return
	}
	s.offer((*p)[charter.RoutingPolicy], in, d)
	if len(*p) == 1 && (*p)[charter.RoutingPolicy] != nil {
		return
	}
	for _, c := range *p {
		if id := strings.TrimPrefix(c.policy, "policies/"); id == "team."+in.Charter.Team || id == "feature."+in.Charter.ID {
			s.offer(c, in, d)
		}
	}
}

func (s *Shadow) offer(c *candidate, in *routing.Input, d *preflight.Decision) {
	if c == nil || !c.takes(in) {
		return
	}
	if len(s.queue) == cap(s.queue) { // before anything is copied
		c.dropped.Add(1)
		return
	}
	j := job{c, *in, d.Currency}
	j.input.Call, j.input.Budgets = ownCall(in.Call), slices.Clone(in.Budgets)
	select {
	case s.queue <- j:
	default:
		c.dropped.Add(1)
	}
}

// takes says whether a call is of the share. Every server says the same of the same call at the same time.
func (c *candidate) takes(in *routing.Input) bool {
	if c.ppm >= 1_000_000 {
		return true
	}
	h := uint64(in.Now.UnixNano())
	for _, text := range [...]string{c.policy, in.Call.Feature, in.Call.User, in.Call.Run, in.Call.PromptPattern} {
		for i := range len(text) {
			h = (h ^ uint64(text[i])) * 1099511628211 // FNV-1a
		}
		h *= 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd // as MurmurHash3 finishes
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return (h^h>>33)%1_000_000 < c.ppm
}

// ownCall copies a call, whose texts are in a buffer that is used again.
func ownCall(c *routing.Call) *routing.Call {
	copied := *c
	own := &copied
	own.Prefix = usage.Prefix{}
	for _, text := range [...]*string{&own.Feature, &own.TaskClass, &own.User, &own.Cohort, &own.Agent, &own.Run, &own.PromptPattern, &own.Task,
		&own.Model, &own.Tier, &own.ServiceTier, &own.Region, &own.Residency} {
		*text = strings.Clone(*text)
	}
	own.Capabilities = slices.Clone(c.Capabilities)
	for i, text := range own.Capabilities {
		own.Capabilities[i] = strings.Clone(text)
	}
	own.Labels = cloneMap(c.Labels, strings.Clone)
	own.Estimate.ToolCalls = cloneMap(c.Estimate.ToolCalls, func(n int64) int64 { return n })
	return own
}

func cloneMap[V any](m map[string]V, clone func(V) V) map[string]V {
	if m == nil {
		return nil
	}
	own := make(map[string]V, len(m))
	for k, v := range m {
		own[strings.Clone(k)] = clone(v)
	}
	return own
}

// Run decides what is queued, until ctx ends.
func (s *Shadow) Run(ctx context.Context) {
	for {
		select {
		case j := <-s.queue:
			s.decide(ctx, &j)
		case <-ctx.Done():
			return
		}
	}
}

// decide asks both, and compares what each would have without looking at the money left.
func (s *Shadow) decide(ctx context.Context, j *job) {
	limited, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	from, err := choose(limited, s.Active, j)
	if err != nil {
		return // the gate has counted it
	}
	to, err := choose(limited, j.candidate.decider, j)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := j.candidate
	if err != nil {
		c.failed++
		return
	}
	c.calls++
	if from.same(to) {
		return
	}
	key := [2]simulate.Choice{from.choice, to.choice}
	d := c.differ[key]
	if d == nil {
		if len(c.differ) >= maxDifferences {
			return
		}
		d = &simulate.Difference{From: key[0], To: key[1], Cost: [2]map[string]money.Nanos{{}, {}}}
		c.differ[key] = d
	}
	d.Calls++
	for side, o := range [2]*outcome{from, to} {
		if o.choice.Model != "" {
			if sum, err := money.Add(d.Cost[side][j.currency], o.cost); err == nil {
				d.Cost[side][j.currency] = sum
			}
		}
	}
	if len(d.Examples) < simulate.MaxExamples {
		d.Examples = append(d.Examples, simulate.Example{Time: j.input.Now, Call: simulate.WithoutUser(j.input.Call), Reasons: [2][]string{from.plan.Reasons, to.plan.Reasons}})
	}
}

// outcome is what a plan comes to.
type outcome struct {
	choice    simulate.Choice
	cost      money.Nanos
	maxOutput int64
	plan      *routing.Plan
}

func (o *outcome) same(other *outcome) bool {
	return o.choice == other.choice && o.maxOutput == other.maxOutput &&
		o.plan.TrimContextToTokens == other.plan.TrimContextToTokens && o.plan.PromptCache == other.plan.PromptCache
}

func choose(ctx context.Context, d preflight.Decider, j *job) (*outcome, error) {
	plan, err := d.Decide(ctx, &j.input)
	if err != nil {
		return nil, err
	}
	o := &outcome{choice: simulate.Choice{Effect: plan.Effect}, plan: plan}
	if plan.Refuses() {
		return o, nil
	}
	candidates, _, err := routing.Price(nil, nil, &j.input, j.currency, plan, routing.Models(plan, j.input.Charter, j.input.Catalog))
	if err != nil {
		return nil, err
	}
	if len(candidates) == 0 {
		o.choice.Effect = routing.Deny
		return o, nil
	}
	routing.Rate(candidates, j.input.Call, plan, j.input.Catalog)
	c := &candidates[0]
	o.choice, o.cost, o.maxOutput = simulate.Choice{Effect: c.Effect, Tier: c.Model.Tier, Model: c.Model.ID}, c.Cost, c.MaxOutput
	return o, nil
}

// Report is what was counted of one policy's candidate.
type Report struct {
	Policy, Active, Revision string
	PPM                      int32
	Since                    time.Time
	Calls, Dropped, Failed   int64
	Differing                int64 // of Calls
	Differences              []simulate.Difference
}

// Reports tells of all candidates, in the order of their policies.
func (s *Shadow) Reports() []Report {
	p := s.policies.Load()
	if p == nil {
		return nil
	}
	var list []Report
	for _, id := range slices.Sorted(maps.Keys(*p)) {
		list = append(list, *s.Report(id))
	}
	return list
}

// Report tells of the candidate of a policy, by its id; nil if there is none.
func (s *Shadow) Report(id string) *Report {
	p := s.policies.Load()
	if p == nil || (*p)[id] == nil {
		return nil
	}
	c := (*p)[id]
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Report{
		Policy: c.policy, Active: c.active, Revision: c.revision, PPM: int32(c.ppm), Since: c.since,
		Calls: c.calls, Dropped: c.dropped.Load(), Failed: c.failed,
	}
	for _, d := range c.differ {
		own := *d
		own.Cost = [2]map[string]money.Nanos{maps.Clone(d.Cost[0]), maps.Clone(d.Cost[1])}
		own.Examples = slices.Clone(d.Examples)
		r.Differing += d.Calls
		r.Differences = append(r.Differences, own)
	}
	slices.SortFunc(r.Differences, simulate.CompareDifferences)
	return r
}

// Meter tells a meter and a shadow what was decided.
type Meter struct {
	preflight.Meter
	Shadow *Shadow
}

// Decided implements preflight.Meter.
func (m Meter) Decided(in *routing.Input, d *preflight.Decision) {
	m.Meter.Decided(in, d)
	m.Shadow.Decided(in, d)
}
