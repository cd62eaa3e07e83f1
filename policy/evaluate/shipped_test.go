package evaluate_test

import (
	"bytes"
	"context"
	"os/exec"
	"testing"

	"github.com/chartergate/chartergate/policy/evaluate"
)

// The shipped policy keeps quality and saves money on the cases that it was tuned on and on those that it was not, at
// prices of 1 to 3 to 10; and its curve is better than chance.
func TestShippedPolicy(t *testing.T) {
	for _, part := range []string{"train", "heldout", "fresh"} {
		cases, err := exec.Command("go", "run", "../testdata/cases/generate.go", "../testdata/cases/"+part+".txt").Output()
		if err != nil {
			t.Fatal(err)
		}
		c, book := catalog(t)
		e, err := evaluate.New(shipped(t), c, book, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := evaluate.Read(part, bytes.NewReader(cases), func(c *evaluate.Case) error { return e.Add(context.Background(), c) }); err != nil {
			t.Fatal(err)
		}
		r, err := e.Result()
		if err != nil {
			t.Fatal(err)
		}
		random := r.Baselines[3]
		if r.CostSaved < 0.5 || r.QualityKept < 0.95 || r.QualityKept < random.QualityKept || r.Gap.Area < 0.6 {
			t.Errorf("%s: saved %.3f, kept %.3f, by chance %.3f, area %.3f", part, r.CostSaved, r.QualityKept, random.QualityKept, r.Gap.Area)
		}
	}
}
