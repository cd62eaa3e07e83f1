package main

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// record is one row of CSV: names and values.
type record struct{ names, values []string }

func (r *record) text(name, value string) {
	r.names, r.values = append(r.names, name), append(r.values, value)
}
func (r *record) count(name string, n int64) { r.text(name, strconv.FormatInt(n, 10)) }
func (r *record) time(name string, t *timestamppb.Timestamp) {
	text := ""
	if t != nil {
		text = t.AsTime().UTC().Format(time.RFC3339)
	}
	r.text(name, text)
}

// money adds an amount twice: exact nanos, and the exact decimal.
func (r *record) money(name string, nanos int64) {
	r.count(name+"_nanos", nanos)
	r.text(name, money.Nanos(nanos).String())
}

// optional adds a count, or nothing where there is none.
func (r *record) optional(name string, n *int64) {
	if n == nil {
		r.text(name, "")
		return
	}
	r.count(name, *n)
}

func (r *record) scope(s *pb.ReportScope, currency string) {
	r.time("start_time", s.GetStartTime())
	r.time("end_time", s.GetEndTime())
	r.text("currency", currency)
}

// cell is a key or name as it can stand in a file that people open: what would act on a terminal is escaped, and what a
// spreadsheet would take for a formula begins with an apostrophe.
func cell(key string) string {
	if key != "" && strings.ContainsRune("=+-@", rune(key[0])) {
		key = "'" + key
	}
	return visible(key)
}

// keys adds a column for each dimension; kind tells keys, rest and total apart.
func (r *record) keys(by []string, kind string, keys []string) {
	r.text("row", kind)
	for i, d := range by {
		key := ""
		if i < len(keys) {
			key = cell(keys[i])
		}
		r.text(d, key)
	}
}

// csvTable makes the rows of a file; head gives the names where there are no rows.
func csvTable(records []*record, head *record) [][]string {
	if len(records) == 0 {
		return [][]string{head.names}
	}
	rows := [][]string{records[0].names}
	for _, r := range records {
		rows = append(rows, r.values)
	}
	return rows
}

// allocationRows has a row for each row of the report, and the rest; no total, so that a column adds up to it.
func allocationRows(a *pb.Allocation) [][]string {
	one := func(currency, kind string, x *pb.AllocationRow) *record {
		r, t := &record{}, x.GetTotals()
		u, c := t.GetUsage(), t.GetComponents()
		r.scope(a.GetScope(), currency)
		r.keys(a.GetBy(), kind, x.GetKeys())
		r.money("cost", t.GetCostNanos())
		r.count("share_permille", int64(x.GetSharePermille()))
		for _, n := range []struct {
			name string
			n    int64
		}{
			{"combinations", x.GetCombinations()}, {"calls", t.GetCalls()}, {"refused_calls", t.GetRefusedCalls()}, {"successes", t.GetSuccesses()}, {"failures", t.GetFailures()},
			{"input_nanos", c.GetInputNanos()}, {"context_overhead_nanos", c.GetContextOverheadNanos()}, {"output_nanos", c.GetOutputNanos()},
			{"retrieval_nanos", c.GetRetrievalNanos()}, {"tools_nanos", c.GetToolsNanos()}, {"compute_nanos", c.GetComputeNanos()}, {"other_nanos", c.GetOtherNanos()},
			{"forced_nanos", t.GetForcedNanos()}, {"saved_cache_read_nanos", t.GetSavedCacheReadNanos()},
			{"cache_write_premium_nanos", t.GetCacheWritePremiumNanos()}, {"saved_downgrade_nanos", t.GetSavedDowngradeNanos()},
			{"input_tokens", u.GetInputTokens()}, {"cache_read_tokens", u.GetCacheReadTokens()}, {"cache_write_5m_tokens", u.GetCacheWrite_5MTokens()},
			{"cache_write_1h_tokens", u.GetCacheWrite_1HTokens()}, {"output_tokens", u.GetOutputTokens()}, {"reasoning_tokens", u.GetReasoningTokens()},
			{"audio_input_tokens", u.GetAudioInputTokens()}, {"audio_output_tokens", u.GetAudioOutputTokens()}, {"context_overhead_tokens", u.GetContextOverheadTokens()},
			{"retrieval_hops", u.GetRetrievalHops()}, {"embedding_tokens", u.GetEmbeddingTokens()}, {"vector_queries", u.GetVectorQueries()},
			{"tool_calls", toolCalls(u)}, {"gpu_milliseconds", u.GetGpuMilliseconds()}, {"storage_bytes", u.GetStorageBytes()}, {"egress_bytes", u.GetEgressBytes()},
		} {
			r.count(n.name, n.n)
		}
		return r
	}
	var records []*record
	for _, t := range a.GetTables() {
		for _, x := range t.GetRows() {
			records = append(records, one(t.GetCurrency(), "keys", x))
		}
		if t.GetRest() != nil {
			records = append(records, one(t.GetCurrency(), "rest", t.GetRest()))
		}
	}
	return csvTable(records, one("", "", nil))
}

func toolCalls(u *pb.Usage) (n int64) {
	for _, c := range u.GetToolCalls() {
		n += c
	}
	return n
}

// trendRows has a row for each point of each series, and of the total.
func trendRows(a *pb.Trend) [][]string {
	one := func(currency, kind string, s *pb.TrendSeries, p *pb.TrendPoint) *record {
		r := &record{}
		r.text("currency", currency)
		r.keys(a.GetBy(), kind, s.GetKeys())
		r.time("start_time", p.GetStartTime())
		r.text("partial", strconv.FormatBool(p.GetPartial()))
		r.money("cost", p.GetCostNanos())
		var delta *int64
		if p != nil {
			delta = p.ChangeNanos
		}
		r.optional("change_nanos", delta)
		r.count("calls", p.GetCalls())
		return r
	}
	var records []*record
	for _, t := range a.GetTables() {
		for _, s := range t.GetSeries() {
			for _, p := range s.GetPoints() {
				records = append(records, one(t.GetCurrency(), "keys", s, p))
			}
		}
		for _, p := range t.GetTotal().GetPoints() {
			records = append(records, one(t.GetCurrency(), "total", t.GetTotal(), p))
		}
	}
	return csvTable(records, one("", "", nil, nil))
}

func unitRows(a *pb.UnitEconomics) [][]string {
	one := func(currency, kind string, x *pb.UnitEconomicsRow) *record {
		r := &record{}
		r.scope(a.GetScope(), currency)
		r.keys(a.GetBy(), kind, x.GetKeys())
		r.unit(x)
		return r
	}
	var records []*record
	for _, t := range a.GetTables() {
		for _, x := range t.GetRows() {
			records = append(records, one(t.GetCurrency(), "keys", x))
		}
		records = append(records, one(t.GetCurrency(), "total", t.GetTotal()))
	}
	return csvTable(records, one("", "", &pb.UnitEconomicsRow{}))
}

func (r *record) unit(x *pb.UnitEconomicsRow) {
	r.money("cost", x.GetCostNanos())
	r.count("calls", x.GetCalls())
	r.count("successes", x.GetSuccesses())
	r.count("failures", x.GetFailures())
	r.optional("success_permille", x.SuccessPermille)
	r.optional("cost_per_1000_successes_nanos", x.CostPer_1000SuccessesNanos)
	r.optional("target_per_1000_successes_nanos", x.TargetPer_1000SuccessesNanos)
	r.optional("over_target_nanos", x.OverTargetNanos)
	r.optional("previous_cost_per_1000_successes_nanos", x.PreviousCostPer_1000SuccessesNanos)
	r.optional("change_permille", x.ChangePermille)
	r.optional("cost_per_call_nanos", x.CostPerCallNanos)
	r.optional("input_tokens_per_1000_calls", x.InputTokensPer_1000Calls)
	r.optional("output_tokens_per_1000_calls", x.OutputTokensPer_1000Calls)
	r.optional("retrieval_hops_per_1000_calls", x.RetrievalHopsPer_1000Calls)
	r.optional("tool_calls_per_1000_calls", x.ToolCallsPer_1000Calls)
}

func riskRows(a *pb.BudgetsAtRisk) [][]string {
	one := func(x *pb.BudgetRisk) *record {
		r := &record{}
		r.text("severity", short(x.GetSeverity(), "RISK_SEVERITY_"))
		r.text("budget", visible(x.GetBudget()))
		r.text("owner", cell(x.GetOwner().GetName()))
		r.text("owner_email", cell(x.GetOwner().GetEmail()))
		r.text("period", x.GetPeriod())
		r.time("end_time", x.GetEndTime())
		r.text("currency", x.GetCurrency())
		r.money("limit", x.GetLimitNanos())
		r.money("settled", x.GetSettledNanos())
		r.money("forced", x.GetForcedNanos())
		r.count("threshold_permille", int64(x.GetThresholdPermille()))
		f := x.GetForecast()
		if f == nil {
			f = &pb.Forecast{}
		}
		r.count("forecast_nanos", f.GetExpectedNanos())
		r.optional("forecast_low_nanos", f.LowNanos)
		r.optional("forecast_high_nanos", f.HighNanos)
		r.text("forecast_method", f.GetMethod())
		r.count("run_rate_nanos", x.GetRunRateNanos())
		r.count("affordable_rate_nanos", x.GetAffordableRateNanos())
		r.time("run_out_time", x.GetRunOutTime())
		var why []string
		for _, reason := range x.GetReasons() {
			why = append(why, strings.TrimPrefix(reason.String(), "RISK_REASON_"))
		}
		r.text("reasons", strings.Join(why, " "))
		r.text("actions", visible(strings.Join(x.GetActions(), " ")))
		return r
	}
	var records []*record
	for _, x := range a.GetBudgets() {
		records = append(records, one(x))
	}
	return csvTable(records, one(nil))
}

// executiveRows has a row for each figure: its section, what it is of, its name and its value.
func executiveRows(a *pb.ExecutiveSummary) [][]string {
	rows := [][]string{{"section", "of", "currency", "figure", "value"}}
	add := func(section, of, currency string, r *record) {
		for i, name := range r.names {
			if r.values[i] != "" {
				rows = append(rows, []string{section, cell(of), currency, name, r.values[i]})
			}
		}
	}
	for _, t := range a.GetTables() {
		r := &record{}
		x := t.GetTotals()
		r.count("cost_nanos", x.GetCostNanos())
		r.count("previous_cost_nanos", t.GetPreviousCostNanos())
		r.count("change_nanos", t.GetChangeNanos())
		r.optional("change_permille", t.ChangePermille)
		r.count("calls", x.GetCalls())
		r.count("refused_calls", x.GetRefusedCalls())
		r.count("forced_nanos", x.GetForcedNanos())
		r.count("saved_nanos", t.GetSavedNanos())
		r.count("adjustments_nanos", t.GetAdjustmentsNanos())
		r.count("targets_met", t.GetTargetsMet())
		r.count("targets_missed", t.GetTargetsMissed())
		if f := t.GetForecast(); f != nil {
			r.count("forecast_nanos", f.GetExpectedNanos())
			r.optional("forecast_low_nanos", f.LowNanos)
			r.optional("forecast_high_nanos", f.HighNanos)
		}
		add("spend", "", t.GetCurrency(), r)
		for _, m := range t.GetMovers() {
			r := &record{}
			r.count("cost_nanos", m.GetCostNanos())
			r.count("previous_cost_nanos", m.GetPreviousCostNanos())
			r.count("change_nanos", m.GetChangeNanos())
			add("mover", m.GetFeature(), t.GetCurrency(), r)
		}
		for _, u := range t.GetTargets() {
			r := &record{}
			r.unit(u)
			add("unit_economics", strings.Join(u.GetKeys(), "/"), t.GetCurrency(), r)
		}
	}
	for _, b := range a.GetBudgetsAtRisk() {
		r := &record{}
		r.text("severity", short(b.GetSeverity(), "RISK_SEVERITY_"))
		r.text("owner", cell(b.GetOwner().GetName()))
		r.count("limit_nanos", b.GetLimitNanos())
		r.count("settled_nanos", b.GetSettledNanos())
		r.time("run_out_time", b.GetRunOutTime())
		add("budget_at_risk", b.GetBudget(), b.GetCurrency(), r)
	}
	for _, s := range a.GetStages() {
		name := short(s.GetStage(), "STAGE_")
		add("stage", name, "", &record{[]string{"features"}, []string{strconv.FormatInt(s.GetFeatures(), 10)}})
		for _, c := range s.GetCosts() {
			add("stage", name, c.GetCurrency(), &record{[]string{"cost_nanos"}, []string{strconv.FormatInt(c.GetCostNanos(), 10)}})
		}
	}
	return rows
}
