// Package charter holds what is enforced: charters, the tree of budgets, the catalog, prices and policies, and the rules
// by which they fit together. Snapshot is the immutable whole of them.
package charter

import (
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
)

// Record is one control record: *Charter, *Budget, *Catalog, *PriceBook, *Policy or *PolicyRevision. A record that
// stands in a Snapshot must not be changed.
type Record interface {
	// Name is the resource name, such as `charters/support-copilot`.
	Name() string
	// Etag is the store's revision of the record; 0 for one that is not stored.
	Etag() int64
	withMeta(m Meta) Record
}

// Meta is what the store knows of a record.
type Meta struct {
	Revision         int64 // the store's revision of the last change
	Created, Updated time.Time
}

// Etag is the revision.
func (m Meta) Etag() int64 { return m.Revision }

// Owner answers for money or for a feature.
type Owner struct{ Name, Email string }

// Stage says where a feature stands.
type Stage int32

// Stages, numbered as in the API.
const (
	StageUnspecified Stage = iota
	StageExperiment
	StagePilot
	StageProduction
	StageRetired
)

// ExhaustedMode says what happens to calls when a budget of the path is used up.
type ExhaustedMode int32

// Modes, numbered as in the API; the zero value denies.
const (
	ExhaustedUnspecified ExhaustedMode = iota
	ExhaustedDeny
	ExhaustedDowngrade
	ExhaustedTrickle
)

// Exhausted is the throttle at 100%.
type Exhausted struct {
	Mode              ExhaustedMode
	OverflowAllowance money.Nanos // beyond the leaf's limit, per period of the leaf
	RequestsPerMinute int32
}

// FailMode says what to do when the policy gives no answer.
type FailMode int32

// Modes, numbered as in the API; the zero value denies.
const (
	FailUnspecified FailMode = iota
	FailDeny
	FailStrictestTier
)

// EscalationStep says who is told next.
type EscalationStep struct {
	Owner Owner
	After time.Duration
}

// Evaluation is evidence that a model can do something for a feature.
type Evaluation struct {
	Capability, Model string
	Passed            bool
	ScorePermille     int32
	Expires           time.Time // zero: never
}

// Charter is the enforced record of one AI feature.
type Charter struct {
	Meta
	ID, DisplayName         string
	Owner                   Owner
	Team                    string
	Stage                   Stage
	Budget                  string // id of the leaf budget
	PermittedTiers          []string
	PermittedModels         []string
	TargetCostPer1000       money.Nanos
	AlertThresholdsPermille []int32
	Exhausted               Exhausted
	Escalation              []EscalationStep
	Evaluations             []Evaluation
	Labels                  map[string]string
	FailMode                FailMode
}

// Name is `charters/{id}`.
func (c *Charter) Name() string           { return "charters/" + c.ID }
func (c *Charter) withMeta(m Meta) Record { d := *c; d.Meta = m; return &d }

// Per says whose spend gets a ceiling of its own.
type Per int32

// Keys, numbered as in the API.
const (
	PerNone Per = iota
	PerUser
	PerCohort
	PerAgent
	PerRun
)

func (p Per) String() string { return [...]string{"", "user", "cohort", "agent", "run"}[p] }

// OnExpiry says what becomes of a hold that expires unsettled.
type OnExpiry int32

// Values, numbered as in the API; the zero value releases.
const (
	OnExpiryUnspecified OnExpiry = iota
	OnExpiryRelease
	OnExpiryCharge
)

// DefaultAlertPermille is the alert threshold where nobody sets one.
const DefaultAlertPermille = 800

// MaxDepth is the most budgets that a path may have.
const MaxDepth = 16

// Budget is a ceiling over one period with a named owner.
type Budget struct {
	Meta
	ID, DisplayName, Parent string // Parent is an id, empty for a root
	Owner                   Owner
	Limit                   money.Nanos
	Currency                string
	Period                  Period
	RolloverCap             money.Nanos
	Per                     Per
	AlertThresholdsPermille []int32
	OnExpiry                OnExpiry
	Labels                  map[string]string
}

// Name is `budgets/{id}`.
func (b *Budget) Name() string           { return "budgets/" + b.ID }
func (b *Budget) withMeta(m Meta) Record { d := *b; d.Meta = m; return &d }

// Tier is an ordered class of models.
type Tier struct{ ID, Description string }

// Model can serve calls.
type Model struct {
	ID, Provider, Tier             string
	Capabilities                   []string
	ContextTokens, MaxOutputTokens int64
	Regions                        []string
}

// Catalog has the tiers, from the cheapest to the dearest, and their models.
type Catalog struct {
	Meta
	Tiers  []Tier
	Models []Model

	rank   map[string]int
	models map[string]*Model
}

// Name is `catalog`.
func (c *Catalog) Name() string           { return "catalog" }
func (c *Catalog) withMeta(m Meta) Record { d := *c; d.Meta = m; d.index(); return &d }

func (c *Catalog) index() {
	c.rank, c.models = make(map[string]int, len(c.Tiers)), make(map[string]*Model, len(c.Models))
	for i, t := range c.Tiers {
		c.rank[t.ID] = i
	}
	for i := range c.Models {
		c.models[c.Models[i].ID] = &c.Models[i]
	}
}

// Model finds a model by id; nil if there is none.
func (c *Catalog) Model(id string) *Model {
	if c == nil {
		return nil
	}
	return c.models[id]
}

// Rank is the place of a tier, 0 for the cheapest; -1 if there is none.
func (c *Catalog) Rank(tier string) int {
	if c != nil {
		if r, ok := c.rank[tier]; ok {
			return r
		}
	}
	return -1
}

// PriceBook is prices that are kept together.
type PriceBook struct {
	Meta
	ID, Currency string
	Prices       []*pricing.Price
	Adjustments  []pricing.Adjustment
	Rates        []pricing.ExchangeRate
}

// Name is `priceBooks/{id}`.
func (b *PriceBook) Name() string { return "priceBooks/" + b.ID }
func (b *PriceBook) withMeta(m Meta) Record {
	d := *b
	d.Meta = m
	d.Prices = make([]*pricing.Price, len(b.Prices))
	for i, p := range b.Prices {
		d.Prices[i] = p.Kept(d.Name(), d.Currency, m.Revision)
	}
	return &d
}

// WithMeta gives a copy of a record with the store's knowledge of it.
func WithMeta(r Record, m Meta) Record { return r.withMeta(m) }
