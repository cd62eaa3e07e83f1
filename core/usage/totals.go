package usage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Columns is how many sums Totals has beside those of tools.
const Columns = 40

// MaxTotalTools is the most tools that Totals name; the others are counted as OtherKey.
const MaxTotalTools = 100

// ErrOverflow says that a sum does not fit 64 bits.
var ErrOverflow = errors.New("a sum of usage does not fit 64 bits")

// Columns gives every sum but those of tools. Stores number them by their place: new ones go to the end.
func (t *Totals) Columns() [Columns]*int64 {
	u, c, s, g := &t.Usage, &t.Cost, &t.Saved, &t.Signals
	return [...]*int64{
		&t.Calls, &u.InputTokens, &u.OutputTokens, (*int64)(&c.Input), (*int64)(&c.Output), &t.Successes, &t.Failures, &t.Refused,
		&u.CacheReadTokens, &u.CacheWrite5mTokens, &u.CacheWrite1hTokens, &u.ReasoningTokens, &u.AudioInputTokens,
		&u.AudioOutputTokens, &u.ContextOverheadTokens, &u.RetrievalHops, &u.EmbeddingTokens, &u.VectorQueries,
		&u.GPUMilliseconds, &u.StorageBytes, &u.EgressBytes,
		(*int64)(&c.ContextOverhead), (*int64)(&c.Retrieval), (*int64)(&c.Tools), (*int64)(&c.Compute), (*int64)(&c.Other),
		(*int64)(&t.Forced), (*int64)(&s.CacheRead), (*int64)(&s.CacheWrite), (*int64)(&s.Downgrade),
		&g.Repeats, &g.PrefixChanges, &g.LateRepeats, &g.ShortPrompts, &g.RepeatTokens, &g.RunGrowth, &g.RunCalls,
		&u.AudioCacheReadTokens, &u.ImageInputTokens, &u.ImageOutputTokens,
	}
}

// Add adds d, or changes nothing and gives ErrOverflow.
func (t *Totals) Add(d *Totals) error {
	to, from := t.Columns(), d.Columns()
	for i := range to {
		if _, ok := Plus(*to[i], *from[i]); !ok {
			return ErrOverflow
		}
	}
	for tool, n := range d.Usage.ToolCalls {
		if _, ok := Plus(t.Usage.ToolCalls[tool], n); !ok {
			return ErrOverflow
		}
	}
	for i := range to {
		*to[i] += *from[i]
	}
	for tool, n := range d.Usage.ToolCalls {
		t.AddTool(tool, n)
	}
	return nil
}

// AddTool counts calls of a tool.
func (t *Totals) AddTool(tool string, n int64) {
	m := t.Usage.ToolCalls
	if _, known := m[tool]; !known && len(m) >= MaxTotalTools {
		tool = OtherKey
	}
	if m == nil {
		m = map[string]int64{}
		t.Usage.ToolCalls = m
	}
	m[tool] += n
}

// Plus is a+b, and whether it fits.
func Plus(a, b int64) (int64, bool) {
	c := a + b
	return c, (c^a)&(c^b) >= 0
}

// Key is the attribution's key of a dimension; empty where the call named none.
func (a *Attribution) Key(dimension string) string {
	if f := a.field(dimension); f != nil {
		return *f
	}
	return a.Labels[strings.TrimPrefix(dimension, DimLabel)]
}

func (a *Attribution) field(dimension string) *string {
	switch dimension {
	case DimFeature:
		return &a.Feature
	case DimOwner:
		return &a.Owner
	case DimTeam:
		return &a.Team
	case DimBudget:
		return &a.Budget
	case DimBudgetPath:
		return &a.BudgetPath
	case DimCohort:
		return &a.Cohort
	case DimTier:
		return &a.Tier
	case DimModel:
		return &a.Model
	case DimProvider:
		return &a.Provider
	case DimPromptPattern:
		return &a.PromptPattern
	case DimEffect:
		return &a.Effect
	}
	return nil
}

// Dimensions are all but those of labels.
var Dimensions = []string{
	DimFeature, DimOwner, DimTeam, DimBudget, DimBudgetPath, DimCohort, DimTier, DimModel, DimProvider, DimPromptPattern, DimEffect,
}

// QueryError says what is wrong with a query.
type QueryError struct{ Field, Problem string }

func (e *QueryError) Error() string { return e.Field + " " + e.Problem }

// MaxBy is the most dimensions that a query sums by.
const MaxBy = 12

// Validate refuses what cannot be asked. Error: *QueryError.
func (q *Query) Validate() error {
	for _, t := range []struct {
		field string
		at    time.Time
	}{{"from", q.From}, {"to", q.To}} {
		if t.at.IsZero() {
			return &QueryError{t.field, "is missing"}
		}
		if !t.at.Equal(t.at.Truncate(time.Hour)) {
			return &QueryError{t.field, fmt.Sprintf("is %s, it must be a whole hour", t.at.UTC().Format(time.RFC3339Nano))}
		}
	}
	if !q.From.Before(q.To) {
		return &QueryError{"to", fmt.Sprintf("is %s, it must be after from, %s", q.To.UTC().Format(time.RFC3339), q.From.UTC().Format(time.RFC3339))}
	}
	if q.Step < Whole || q.Step > Month {
		return &QueryError{"step", "is unknown"}
	}
	if len(q.By) > MaxBy {
		return &QueryError{"by", fmt.Sprintf("has %d dimensions, it may have %d", len(q.By), MaxBy)}
	}
	for i, d := range q.By {
		if err := validDimension("by", d); err != nil {
			return err
		}
		if slices.Contains(q.By[:i], d) {
			return &QueryError{"by", d + " is named twice"}
		}
	}
	for d := range q.Where {
		if err := validDimension("where", d); err != nil {
			return err
		}
	}
	return nil
}

func validDimension(field, d string) error {
	if slices.Contains(Dimensions, d) || strings.HasPrefix(d, DimLabel) && len(d) > len(DimLabel) {
		return nil
	}
	return &QueryError{field, fmt.Sprintf("%q is no dimension: use %s or %sKEY", d, strings.Join(Dimensions, ", "), DimLabel)}
}

// Start is when the step begins that t is in; q.From for the whole.
func (q *Query) Start(t time.Time) time.Time {
	t = t.UTC()
	switch q.Step {
	case Hour:
		return t.Truncate(time.Hour)
	case Day:
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	case Month:
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	return q.From
}
