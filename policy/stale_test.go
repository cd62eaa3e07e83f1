package policy

import (
	"context"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/routing"
)

// TestStalenessIsCaught plants faults in the fast path and shows that what the fuzz test does would notice each.
func TestStalenessIsCaught(t *testing.T) {
	gen := drawCase(testCatalog(t), testPrices(t))
	type stageFor func(e *evaluator, in *routing.Input) *stage
	own := func(e *evaluator, in *routing.Input) *stage { return e.stages.get(e.policy.program, in) }
	// stale says whether a fault shows in a case.
	stale := func(c *fuzzCase, plant func(*program), from stageFor) bool {
		p, err := Compile(c.modules)
		if err != nil || p.program == nil {
			return false
		}
		plant(p.program)
		e := inUse(using(p))
		for _, in := range c.inputs {
			got, err := p.program.run(context.Background(), in, e.inputs, from(e, in), time.Minute)
			want, wantErr := plain(p, in)
			if err == nil && (wantErr != nil || !reflect.DeepEqual(got, want)) {
				return true
			}
		}
		return false
	}
	// A stage that outlives its epoch.
	overEpochs := func(e *evaluator, in *routing.Input) *stage {
		old := *in
		old.Epoch = 0
		return e.stages.get(e.policy.program, &old)
	}
	for name, fault := range map[string]struct {
		plant func(*program)
		from  stageFor
		want  bool
	}{
		"none":                    {func(*program) {}, own, false},
		"stages outlive an epoch": {func(*program) {}, overEpochs, true},
		"volatile rules are kept": {func(p *program) {
			for i, f := range p.functions {
				if f.rule && f.stage < 0 {
					p.functions[i].stage, p.staged = p.staged, p.staged+1
				}
			}
		}, own, true},
	} {
		tried, caught := 0, 0
		for seed := 1; seed <= 120 && (caught == 0 || !fault.want); seed++ {
			c := gen.Example(seed)
			tried++
			if stale(&c, fault.plant, fault.from) {
				caught++
			}
		}
		if caught > 0 != fault.want {
			t.Errorf("%s: %d of %d policies show it", name, caught, tried)
		} else if fault.want {
			t.Logf("%s: shown by policy %d", name, tried)
		}
	}
}

// TestEveryLeafIsInTheStagesKey changes every leaf in turn under a policy that keeps what it computes of it, and shows
// by leaving it out of the key that the comparison would find a fault.
func TestEveryLeafIsInTheStagesKey(t *testing.T) {
	for l := range leafCount {
		modules := module("kept := [x | x := " + expression(l) + "]\n\n" + `decision := {"effect": "deny", "reasons": [crypto.sha256(json.marshal(kept))]}`)
		if one := (&field{leaf: l}); one.volatile() {
			continue // it is in no stage
		}
		for _, fault := range []bool{false, true} {
			p := compile(t, modules)
			if fault {
				p.program.key = slices.DeleteFunc(p.program.key, func(f field) bool { return f.leaf == l })
			}
			e := inUse(using(p))
			differs := false
			for _, change := range []func(*routing.Input){func(*routing.Input) {}, changes[l]} {
				in := supportInput(t)
				in.Prices = testPrices(t)
				change(in)
				got, err := e.run(context.Background(), in)
				want, wantErr := plain(p, in)
				if err != nil || wantErr != nil {
					t.Fatalf("%s: %v, plain %v", leafPaths[l], err, wantErr)
				}
				want.Revision = got.Revision
				differs = differs || !reflect.DeepEqual(got, want)
			}
			if differs != fault {
				t.Errorf("%s left out of the key: %v, stale: %v", leafPaths[l], fault, differs)
			}
		}
	}
}

// TestStagesFollowTheEpoch changes what an epoch decides under a policy whose rules are all staged.
func TestStagesFollowTheEpoch(t *testing.T) {
	p := compile(t, module(`decision := {"effect": "deny", "reasons": [input.charter.team, concat(",", input.catalog.tiers), sprintf("%v", [input.request.input_tokens])]}`))
	e := inUse(using(p))
	in := supportInput(t)
	for epoch, team := range []string{"support", "sales", "support"} {
		other := *in.Charter
		other.Team = team
		in.Charter, in.Epoch = &other, int64(epoch)
		for range 2 {
			in.Call.Estimate.InputTokens++
			plan, err := e.run(context.Background(), in)
			if err != nil || plan.Reasons[0] != team {
				t.Errorf("at epoch %d the plan is %+v, %v", epoch, plan, err)
			}
		}
	}
	if p.program.staged == 0 && e.stages.size() != 3 {
		t.Errorf("%d stages", e.stages.size())
	}
}
