package policy

import (
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
)

// inputs builds what Rego sees. The charter and the catalog are built once for each epoch.
type inputs struct {
	prices bool // whether models carry their prices

	mu       sync.Mutex
	epoch    int64
	minute   int64 // of the prices
	catalog  *ast.Term
	charters map[string]fixed
}

// fixed is what the epoch decides of a charter: itself, and the catalog with its evaluations.
type fixed struct{ charter, catalog *ast.Term }

// maxCharters bounds the charters that are kept built.
const maxCharters = 4096

func (b *inputs) build(in *routing.Input) ast.Value {
	known := b.fixed(in)
	states := make([]*ast.Term, len(in.Budgets))
	for i := range in.Budgets {
		states[i] = budgetTerm(&in.Budgets[i], in)
	}
	top := mostUtilized(in.Budgets)
	now := in.Now.UTC()
	return ast.NewObject(
		item("request", requestTerm(in.Call)),
		item("charter", known.charter),
		item("budgets", ast.ArrayTerm(states...)),
		item("budget", budgetTerm(&top, in)),
		item("catalog", known.catalog),
		item("able", ableTerm(in)),
		item("time", object(
			item("unix", number(minute(in)*60)),
			item("weekday", ast.StringTerm(now.Weekday().String())),
			item("hour", number(int64(now.Hour()))),
		)),
	)
}

// fixed gives the charter's and the catalog's terms. Those of an epoch before the newest seen are not kept.
func (b *inputs) fixed(in *routing.Input) fixed {
	var at int64
	if b.prices {
		at = minute(in)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.catalog == nil || in.Epoch > b.epoch || in.Epoch == b.epoch && at > b.minute {
		b.epoch, b.minute = in.Epoch, at
		b.catalog, b.charters = b.catalogTerm(in), map[string]fixed{}
	}
	if in.Epoch != b.epoch || at != b.minute {
		return fixed{charterTerm(in.Charter, in.Catalog), evaluated(b.catalogTerm(in), in.Charter)}
	}
	known, ok := b.charters[in.Charter.ID]
	if !ok {
		if len(b.charters) >= maxCharters {
			clear(b.charters)
		}
		known = fixed{charterTerm(in.Charter, in.Catalog), evaluated(b.catalog, in.Charter)}
		b.charters[in.Charter.ID] = known
	}
	return known
}

// minute is the time that policies see, in minutes.
func minute(in *routing.Input) int64 { return in.Now.Unix() / 60 }

// mostUtilized is the budget with the highest utilisation, of several the one nearest to the leaf.
func mostUtilized(budgets []routing.BudgetState) (top routing.BudgetState) {
	for i, b := range budgets {
		if i == 0 || b.UtilizationPermille > top.UtilizationPermille {
			top = b
		}
	}
	return top
}

func overAlert(b *routing.BudgetState) bool {
	return b.AlertPermille > 0 && b.UtilizationPermille >= b.AlertPermille
}

func exhausted(b *routing.BudgetState) bool { return b.UtilizationPermille >= 1000 }

var calendars = [...]string{charter.Window: "window", charter.Day: "day", charter.Week: "week", charter.Month: "month",
	charter.Quarter: "quarter", charter.Year: "year"}

var noBudget charter.Budget

func budgetTerm(b *routing.BudgetState, in *routing.Input) *ast.Term {
	record := b.Budget
	if record == nil {
		record = &noBudget
	}
	return object(
		item("id", ast.StringTerm(b.ID)),
		item("per", ast.InternedTerm(record.Per.String())),
		item("owner", ast.StringTerm(record.Owner.Name)),
		item("period", ast.InternedTerm(calendars[record.Period.Calendar])),
		item("limit_nanos", number(int64(record.Limit))),
		item("currency", ast.StringTerm(record.Currency)),
		item("start_unix", number(b.Start)),
		item("end_unix", number(b.End)),
		item("utilization", permille(int64(b.UtilizationPermille))),
		item("forecast", permille(b.Forecast(in.Now))),
		item("alert", permille(int64(b.AlertPermille))),
		item("over_alert", ast.BooleanTerm(overAlert(b))),
		item("exhausted", ast.BooleanTerm(exhausted(b))),
		item("escalated", ast.BooleanTerm(routing.Escalated(in.Charter, b.ID, in.Now))),
	)
}

func requestTerm(c *routing.Call) *ast.Term {
	e := &c.Estimate
	tools := ast.NewObject()
	for name, n := range e.ToolCalls {
		tools.Insert(ast.StringTerm(name), number(n))
	}
	return object(
		item("feature", ast.StringTerm(c.Feature)),
		item("task_class", ast.StringTerm(c.TaskClass)),
		item("complexity", number(int64(c.Complexity))),
		item("required_capabilities", stringsTerm(c.Capabilities)),
		item("input_tokens", number(e.InputTokens)),
		item("cached_input_tokens", number(e.CachedInputTokens)),
		item("max_output_tokens", number(e.MaxOutputTokens)),
		item("retrieval_hops", number(e.RetrievalHops)),
		item("tool_calls", ast.NewTerm(tools)),
		item("user", ast.StringTerm(c.User)),
		item("cohort", ast.StringTerm(c.Cohort)),
		item("agent", ast.StringTerm(c.Agent)),
		item("run", ast.StringTerm(c.Run)),
		item("prompt_pattern", ast.StringTerm(c.PromptPattern)),
		item("model", ast.StringTerm(c.Model)),
		item("tier", ast.StringTerm(c.Tier)),
		item("labels", labelsTerm(c.Labels)),
		item("latency_target_ms", number(c.LatencyTarget.Milliseconds())),
		item("residency", ast.StringTerm(c.Residency)),
		item("service_tier", ast.StringTerm(c.ServiceTier)),
		item("region", ast.StringTerm(c.Region)),
	)
}

var (
	stages = map[charter.Stage]string{charter.StageExperiment: "experiment", charter.StagePilot: "pilot",
		charter.StageProduction: "production", charter.StageRetired: "retired"}
	modes = map[charter.ExhaustedMode]string{charter.ExhaustedDowngrade: "downgrade", charter.ExhaustedTrickle: "trickle"}
)

func charterTerm(c *charter.Charter, catalog *charter.Catalog) *ast.Term {
	tiers, models := permitted(c, catalog)
	ids := make([]string, len(models))
	for i, m := range models {
		ids[i] = m.ID
	}
	stage, mode := stages[c.Stage], modes[c.Exhausted.Mode]
	if stage == "" {
		stage = "experiment"
	}
	if mode == "" {
		mode = "deny"
	}
	evaluations := make([]*ast.Term, len(c.Evaluations))
	for i := range c.Evaluations {
		e := &c.Evaluations[i]
		evaluations[i] = object(append(evaluation(e), item("model", ast.StringTerm(e.Model)))...)
	}
	steps := make([]*ast.Term, len(c.Escalation))
	for i, s := range c.Escalation {
		steps[i] = object(item("owner", ast.StringTerm(s.Owner.Name)), item("after_seconds", number(int64(s.After/time.Second))))
	}
	approved := make([]*ast.Term, len(c.ApprovedEscalations))
	for i, e := range c.ApprovedEscalations {
		approved[i] = object(
			item("id", ast.StringTerm(e.ID)),
			item("budget", ast.StringTerm(e.Budget)),
			item("approver", ast.StringTerm(e.Approver.Name)),
			item("approve_unix", number(e.Approved.Unix())),
			item("expire_unix", number(e.Expires.Unix())),
			item("reason", ast.StringTerm(e.Reason)),
		)
	}
	return object(
		item("feature", ast.StringTerm(c.ID)),
		item("owner", ast.StringTerm(c.Owner.Name)),
		item("team", ast.StringTerm(c.Team)),
		item("stage", ast.StringTerm(stage)),
		item("permitted_tiers", stringsTerm(tiers)),
		item("permitted_models", stringsTerm(ids)),
		item("exhausted", object(item("mode", ast.StringTerm(mode)))),
		item("target_cost_per_1000_successes_nanos", number(int64(c.TargetCostPer1000))),
		item("labels", labelsTerm(c.Labels)),
		item("escalation", ast.ArrayTerm(steps...)),
		item("approved_escalations", ast.ArrayTerm(approved...)),
		item("capability_evaluations", ast.ArrayTerm(evaluations...)),
	)
}

func evaluation(e *charter.Evaluation) [][2]*ast.Term {
	fields := [][2]*ast.Term{
		item("capability", ast.StringTerm(e.Capability)),
		item("passed", ast.BooleanTerm(e.Passed)),
		item("score_permille", number(int64(e.ScorePermille))),
	}
	if !e.Expires.IsZero() {
		fields = append(fields, item("expire_unix", number(e.Expires.Unix())))
	}
	return fields
}

// evaluated is the catalog's term with a charter's evaluations in its models. It shares the models that have none.
func evaluated(catalog *ast.Term, c *charter.Charter) *ast.Term {
	if len(c.Evaluations) == 0 {
		return catalog
	}
	byModel := map[string][]*ast.Term{}
	for i := range c.Evaluations {
		e := &c.Evaluations[i]
		byModel[e.Model] = append(byModel[e.Model], object(evaluation(e)...))
	}
	fields := catalog.Value.(ast.Object)
	list := fields.Get(ast.InternedTerm("models")).Value.(*ast.Array)
	models := make([]*ast.Term, list.Len())
	for i := range models {
		models[i] = list.Elem(i)
		model := models[i].Value.(ast.Object)
		if found := byModel[string(model.Get(ast.InternedTerm("id")).Value.(ast.String))]; found != nil {
			own := ast.NewObject()
			model.Foreach(func(k, v *ast.Term) { own.Insert(k, v) })
			own.Insert(ast.InternedTerm("evaluations"), ast.ArrayTerm(found...))
			models[i] = ast.NewTerm(own)
		}
	}
	return object(item("tiers", fields.Get(ast.InternedTerm("tiers"))), item("models", ast.ArrayTerm(models...)))
}

// permitted spells out what a charter permits: its tiers, cheapest first, and its models that are of them, in the
// catalog's order.
func permitted(c *charter.Charter, catalog *charter.Catalog) (tiers []string, models []*charter.Model) {
	if catalog == nil {
		return nil, nil
	}
	for _, t := range catalog.Tiers {
		if len(c.PermittedTiers) == 0 || slices.Contains(c.PermittedTiers, t.ID) {
			tiers = append(tiers, t.ID)
		}
	}
	for i := range catalog.Models {
		m := &catalog.Models[i]
		if slices.Contains(tiers, m.Tier) && (len(c.PermittedModels) == 0 || slices.Contains(c.PermittedModels, m.ID)) {
			models = append(models, m)
		}
	}
	return tiers, models
}

// ableTerm tells which models can serve the call: permitted, with all capabilities that it requires and, where they would
// serve in place of a larger one that it names, with the evidence for that.
func ableTerm(in *routing.Input) *ast.Term {
	tiers, models := permitted(in.Charter, in.Catalog)
	byTier := map[string][]string{}
	for _, m := range models {
		lacks := func(capability string) bool { return !slices.Contains(m.Capabilities, capability) }
		if slices.ContainsFunc(in.Call.Capabilities, lacks) {
			continue
		}
		if !routing.Substitutes(in.Call, in.Catalog, m) || routing.Unproven(in.Call, in.Charter, m.ID, in.Now) == "" {
			byTier[m.Tier] = append(byTier[m.Tier], m.ID)
		}
	}
	lists := ast.NewObject()
	tiers = slices.DeleteFunc(tiers, func(tier string) bool { return byTier[tier] == nil })
	for _, tier := range tiers {
		lists.Insert(ast.StringTerm(tier), stringsTerm(byTier[tier]))
	}
	return object(item("tiers", stringsTerm(tiers)), item("models", ast.NewTerm(lists)))
}

func (b *inputs) catalogTerm(in *routing.Input) *ast.Term {
	var tiers []string
	var models []*ast.Term
	if in.Catalog != nil {
		for _, t := range in.Catalog.Tiers {
			tiers = append(tiers, t.ID)
		}
		for i := range in.Catalog.Models {
			models = append(models, b.modelTerm(in, &in.Catalog.Models[i]))
		}
	}
	return object(item("tiers", stringsTerm(tiers)), item("models", ast.ArrayTerm(models...)))
}

func (b *inputs) modelTerm(in *routing.Input, m *charter.Model) *ast.Term {
	fields := [][2]*ast.Term{
		item("id", ast.StringTerm(m.ID)),
		item("provider", ast.StringTerm(m.Provider)),
		item("tier", ast.StringTerm(m.Tier)),
		item("capabilities", stringsTerm(m.Capabilities)),
		item("context_tokens", number(m.ContextTokens)),
		item("max_output_tokens", number(m.MaxOutputTokens)),
		item("regions", stringsTerm(m.Regions)),
		item("evaluations", ast.ArrayTerm()),
	}
	if b.prices {
		if p, err := in.Prices.Lookup(m.ID, time.Unix(minute(in)*60, 0)); err == nil {
			if rate, ok := p.Rate(pricing.Input); ok {
				fields = append(fields, item("input_nanos_per_mtok", number(int64(rate))))
			}
			if rate, ok := p.Rate(pricing.Output); ok {
				fields = append(fields, item("output_nanos_per_mtok", number(int64(rate))))
			}
		}
	}
	return object(fields...)
}

func item(name string, value *ast.Term) [2]*ast.Term { return ast.Item(ast.InternedTerm(name), value) }
func object(items ...[2]*ast.Term) *ast.Term         { return ast.NewTerm(ast.NewObject(items...)) }
func number(n int64) *ast.Term                       { return ast.NumberTerm(json.Number(strconv.FormatInt(n, 10))) }

// permille is n/1000 in Rego, exactly.
func permille(n int64) *ast.Term {
	return ast.NumberTerm(json.Number(strconv.FormatFloat(float64(n)/1000, 'f', -1, 64)))
}

func stringsTerm(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = ast.StringTerm(s)
	}
	return ast.ArrayTerm(terms...)
}

func labelsTerm(labels map[string]string) *ast.Term {
	o := ast.NewObject()
	for k, v := range labels {
		o.Insert(ast.StringTerm(k), ast.StringTerm(v))
	}
	return ast.NewTerm(o)
}
