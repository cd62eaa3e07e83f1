package policy

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/charter"
)

// Serving says which policies decide.
type Serving struct {
	// Epoch is the revision of the control state whose policies decide; 0 before one was followed.
	Epoch int64
	// Revisions are their names: the organisation's first, or the shipped policy's where it has none, then in the order of
	// their policies. The slice is shared.
	Revisions []string
	// Problem is why the policies of a later control state do not decide, or why those that do cannot all be asked; empty
	// where there is none.
	Problem string
}

// Serving says which policies decide.
func (d *Decider) Serving() *Serving { return d.serving.Load() }

// Follow lets the policies decide that a snapshot attaches, all at once. A revision is compiled once, for as long as it is
// attached. Where one that is new does not compile, though it did when it was stored, all that decided before go on
// deciding; at the start there is nothing before, and the fail mode of the charters that it is attached to decides. Calls
// of Follow must come one after the other.
func (d *Decider) Follow(snap *charter.Snapshot, log *slog.Logger) {
	before, start := d.serving.Load(), d.known == nil
	known := map[string]*Revision{}
	next := &Set{Teams: map[string]*Revision{}, Features: map[string]*Revision{}}
	serving := &Serving{Epoch: snap.Epoch, Revisions: []string{d.Builtin()}}
	var problems []string
	switched, stuck := false, false
	for _, p := range snap.Policies() {
		if p.Active == "" {
			continue
		}
		name := p.Revision(p.Active)
		r := d.known[name]
		if r == nil {
			r = compileRevision(snap, p)
			switched = true
		}
		known[name] = r
		if r.Policy == nil {
			problems = append(problems, name+" does not compile: "+r.Problem)
			stuck = stuck || !start && !slices.Contains(before.Revisions, name)
		}
		if p.ID == charter.RoutingPolicy {
			next.Organisation, serving.Revisions[0] = r, name
			continue
		}
		serving.Revisions = append(serving.Revisions, name)
		if team, ok := strings.CutPrefix(p.ID, "team."); ok {
			next.Teams[team] = r
		} else {
			next.Features[strings.TrimPrefix(p.ID, "feature.")] = r
		}
	}
	serving.Problem = strings.Join(problems, "; ")
	if stuck {
		for _, name := range before.Revisions {
			if r := d.known[name]; r != nil {
				known[name] = r
			}
		}
		serving.Epoch, serving.Revisions = before.Epoch, before.Revisions
	}
	d.known = known
	if serving.Problem != "" && serving.Problem != before.Problem {
		log.Error("a policy does not compile: "+map[bool]string{true: "the policies of before go on deciding",
			false: "the fail mode of the charters that it is attached to decides"}[stuck], "problem", serving.Problem, "control_revision", snap.Epoch)
	}
	if !stuck && (switched || !slices.Equal(before.Revisions, serving.Revisions)) {
		d.Use(next)
		log.Info("other policies decide", "control_revision", snap.Epoch, "revisions", serving.Revisions)
	}
	d.serving.Store(serving)
}

// compileRevision compiles the active revision of a policy.
func compileRevision(snap *charter.Snapshot, p *charter.Policy) *Revision {
	r := &Revision{Name: p.Revision(p.Active)}
	stored := snap.PolicyRevision(p.ID, p.Active)
	if stored == nil {
		r.Problem = "it is not stored"
		return r
	}
	compiled, err := Compile(stored.Modules)
	if err != nil {
		r.Problem = err.Error()
	}
	r.Policy = compiled
	return r
}
