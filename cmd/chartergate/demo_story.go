package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

// story writes the demo for people: with colours on a terminal (NO_COLOR turns them off), plain text otherwise.
type story struct {
	w     io.Writer
	color bool

	mu    sync.Mutex // guards what follows and the order of lines
	start time.Time
	told  map[string]bool
}

func newStory(w io.Writer) *story {
	return &story{w: w, color: isTerminal(w) && os.Getenv("NO_COLOR") == "", told: map[string]bool{}, start: time.Now()}
}

const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (s *story) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *story) title(text string) {
	fmt.Fprintf(s.w, "\n%s\n%s\n", s.paint(bold, text), s.paint(dim, strings.Repeat("=", len(text))))
}

func (s *story) chapter(text string) {
	fmt.Fprintf(s.w, "\n%s\n", s.paint(bold+";"+cyan, text))
}

func (s *story) tell(format string, args ...any) {
	fmt.Fprintf(s.w, "  "+format+"\n", args...)
}

func (s *story) startClock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start = time.Now()
	maps.DeleteFunc(s.told, func(key string, _ bool) bool { return !strings.HasPrefix(key, "alert ") })
	fmt.Fprintln(s.w)
}

// once tells an event the first time that it happens.
func (s *story) once(key, color, what, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told[key] {
		return
	}
	s.told[key] = true
	fmt.Fprintf(s.w, "  %s  %s %s\n", s.paint(dim, fmt.Sprintf("%6.2f s", time.Since(s.start).Seconds())),
		s.paint(bold+";"+color, fmt.Sprintf("%-10s", what)), fmt.Sprintf(format, args...))
}

// company tells what was applied.
func (s *story) company(resources []*pb.Resource) {
	charters := newGrid("CHARTER", "OWNER", "BUDGET", "AT 100%")
	var budgets, tiers, models, prices int
	for _, r := range resources {
		switch {
		case r.GetCharter() != nil:
			c := r.GetCharter()
			charters.add(bareID(c.GetName()), c.GetOwner().GetName(), c.GetBudget(), exhaustedName(c.GetExhausted()))
		case r.GetBudget() != nil:
			budgets++
		case r.GetCatalog() != nil:
			tiers, models = len(r.GetCatalog().GetTiers()), len(r.GetCatalog().GetModels())
		case r.GetPriceBook() != nil:
			prices += len(r.GetPriceBook().GetPrices())
		}
	}
	s.tell("%d charters, a tree of %d budgets, %d models in %d tiers, %d prices: applied in one transaction.",
		len(charters.rows)-1, budgets, models, tiers, prices)
	fmt.Fprintln(s.w)
	charters.write(s.w, "  ")
}

func exhaustedName(e *pb.Exhausted) string {
	switch e.GetMode() {
	case pb.ExhaustedMode_EXHAUSTED_MODE_DOWNGRADE:
		return "cheapest tier, from an overflow allowance"
	case pb.ExhaustedMode_EXHAUSTED_MODE_TRICKLE:
		return fmt.Sprintf("%d calls a minute on the cheapest tier, from an overflow allowance", e.GetRequestsPerMinute())
	}
	return "deny"
}

func periodName(p *pb.Period) string {
	if p.GetCalendar() == pb.CalendarPeriod_CALENDAR_PERIOD_UNSPECIFIED {
		return "window"
	}
	return short(p.GetCalendar(), "CALENDAR_PERIOD_")
}

// served tells which tiers the features were given.
func (d *demo) served(took time.Duration) {
	g := newGrid("FEATURE", "TIER", "MODEL", ">CALLS", ">INPUT TOKENS", ">CACHED", ">OUTPUT TOKENS", ">COST USD", ">PER 1,000 CALLS")
	var calls int64
	for _, f := range demoFeatures {
		for _, r := range d.results[f.name] {
			calls += r.Requests
			for _, c := range r.ByTier {
				g.add(f.name, c.Tier, c.Model, thousands(c.Requests), thousands(c.InputTokens), percent(c.CachedTokens, c.InputTokens),
					thousands(c.OutputTokens), amount(c.SettledNanos), amount(perThousand(c.SettledNanos, c.Requests)))
			}
			for _, x := range r.Refusals {
				g.add(f.name, strings.ToLower(x.Effect), x.Reason, thousands(x.Requests), "", "", "", "", "")
			}
		}
	}
	d.tell("%s calls reserved and settled in %.1f s:", thousands(calls), took.Seconds())
	fmt.Fprintln(d.w)
	g.write(d.w, "  ")
}

// answered tells the first answer of each kind.
func (s *story) answered(a *replay.Answer) {
	dec := a.Decision
	reason := replay.Decisive(dec).GetMessage()
	switch dec.GetEffect() {
	case pb.Effect_EFFECT_ALLOW:
		s.once("allow "+dec.GetTier(), green, "allow", "call %s runs on %s (%s)", thousands(a.Number), dec.GetModel(), dec.GetTier())
	case pb.Effect_EFFECT_DOWNGRADE:
		for _, r := range dec.GetReasons() {
			if r.GetCode() == pb.ReasonCode_REASON_CODE_OVERFLOW {
				s.once("overflow", yellow, "overflow", "call %s runs on %s (%s): %s", thousands(a.Number), dec.GetModel(), dec.GetTier(), r.GetMessage())
				return
			}
		}
		s.once("downgrade "+dec.GetTier(), yellow, "downgrade", "call %s runs on %s (%s): %s", thousands(a.Number), dec.GetModel(), dec.GetTier(), reason)
	case pb.Effect_EFFECT_THROTTLE:
		s.once("throttle "+replay.Decisive(dec).GetCode().String(), red, "throttle", "call %s: %s; try again in %s", thousands(a.Number), reason, wait(dec.GetRetryDelay().AsDuration()))
	case pb.Effect_EFFECT_DENY:
		s.once("deny", red, "deny", "call %s: %s; try again in %s", thousands(a.Number), reason, wait(dec.GetRetryDelay().AsDuration()))
	}
}

// alerted tells each alert the first time that it is seen.
func (s *story) alerted(alerts []*pb.BudgetAlert) {
	for _, a := range alerts {
		s.once(fmt.Sprintf("alert %s %d", a.GetBudget(), a.GetThresholdPermille()), yellow, "alert", "%s is at %s: %s of %s settled. Owner: %s",
			a.GetBudget(), threshold(a), amount(a.GetSettledNanos()), amount(a.GetLimitNanos()), ownerText(a.GetOwner()))
	}
}

// threshold writes an alert's threshold as 80% or 99.5%.
func threshold(a *pb.BudgetAlert) string {
	return strings.Replace(percent(int64(a.GetThresholdPermille()), 1000), ".0%", "%", 1)
}

// refused sums a run up.
func (s *story) refused(r *replay.Result) {
	fmt.Fprintln(s.w)
	s.tell("%s calls in %.1f s: %s allowed, %s downgraded, %s throttled, %s denied. Reserve p99 %s, settle p99 %s.", thousands(r.Requests),
		r.DurationSeconds, thousands(r.Allowed), thousands(r.Downgraded), thousands(r.Throttled), thousands(r.Denied), millis(r.ReserveP99ms), millis(r.SettleP99ms))
	if len(r.Refusals) > 0 {
		fmt.Fprintln(s.w)
		refusalGrid(r.Refusals).write(s.w, "  ")
	}
}

// tree shows every budget under its parent. Keys of a `per` budget are summed up in one line.
func (s *story) tree(budgets []*pb.Budget, statuses map[string]*pb.BudgetStatus) {
	children := map[string][]*pb.Budget{}
	for _, b := range budgets {
		children[b.GetParent()] = append(children[b.GetParent()], b)
	}
	g := newGrid("BUDGET", "OWNER", "PERIOD", ">LIMIT", ">SETTLED", ">HELD", ">USED", "", "ALERTS")
	var add func(parent, indent string)
	add = func(parent, indent string) {
		for _, b := range children[parent] {
			s.addBudget(g, b, indent, statuses)
			add(b.GetName(), indent+"  ")
		}
	}
	add("", "")
	g.write(s.w, "  ")
}

func (s *story) addBudget(g *grid, b *pb.Budget, indent string, statuses map[string]*pb.BudgetStatus) {
	id := bareID(b.GetName())
	if st := statuses[b.GetName()]; b.GetPer() == pb.BudgetKey_BUDGET_KEY_UNSPECIFIED {
		g.add(indent+id, b.GetOwner().GetName(), st.GetPeriod(), amount(st.GetLimitNanos()), amount(st.GetSettledNanos()), amount(st.GetHeldNanos()),
			percent(st.GetSettledNanos()+st.GetHeldNanos(), st.GetLimitNanos()), gauge(st), alertNames(st))
	} else {
		var keys, full, settled int64
		for _, st := range statuses {
			if strings.HasPrefix(st.GetName(), b.GetName()+"/keys/") {
				keys++
				settled += st.GetSettledNanos()
				if st.GetUtilizationPermille() >= 990 {
					full++
				}
			}
		}
		g.add(indent+id, b.GetOwner().GetName(), periodName(b.GetPeriod()), amount(b.GetLimitNanos()), amount(settled), "", "", "",
			fmt.Sprintf("limit for each %s; %d seen, %d used up", short(b.GetPer(), "BUDGET_KEY_"), keys, full))
	}
	for _, st := range sortedStatuses(statuses, b.GetName()+"/overflow/") {
		g.add(indent+"  overflow of "+st.GetName()[strings.LastIndexByte(st.GetName(), '/')+1:], "", st.GetPeriod(), amount(st.GetLimitNanos()),
			amount(st.GetSettledNanos()), amount(st.GetHeldNanos()), percent(st.GetSettledNanos()+st.GetHeldNanos(), st.GetLimitNanos()), gauge(st), "")
	}
}

func sortedStatuses(statuses map[string]*pb.BudgetStatus, prefix string) []*pb.BudgetStatus {
	var found []*pb.BudgetStatus
	for name, st := range statuses {
		if strings.HasPrefix(name, prefix) {
			found = append(found, st)
		}
	}
	slices.SortFunc(found, func(a, b *pb.BudgetStatus) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return found
}

func alertNames(st *pb.BudgetStatus) string {
	var names []string
	for _, a := range st.GetAlerts() {
		names = append(names, threshold(a))
	}
	return strings.Join(names, ", ")
}

// gauge draws how much of a budget is used.
func gauge(st *pb.BudgetStatus) string {
	const width = 20
	full := min(width, int(st.GetUtilizationPermille())*width/1000)
	return strings.Repeat("#", full) + strings.Repeat(".", width-full)
}

// costs shows what the clients saw settled, by feature and tier.
func (d *demo) costs() {
	type key struct{ feature, tier, model string }
	sums := map[key]*replay.TierCost{}
	var total int64
	for feature, results := range d.results {
		for _, r := range results {
			for _, c := range r.ByTier {
				k := key{feature, c.Tier, c.Model}
				if sums[k] == nil {
					sums[k] = &replay.TierCost{}
				}
				sums[k].Requests += c.Requests
				sums[k].SettledNanos += c.SettledNanos
				total += c.SettledNanos
			}
		}
	}
	keys := make([]key, 0, len(sums))
	for k := range sums {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.feature, b.feature), cmp.Compare(sums[b].SettledNanos, sums[a].SettledNanos))
	})
	g := newGrid("FEATURE", "TIER", "MODEL", ">CALLS", ">COST USD", ">SHARE", ">PER 1,000 CALLS")
	for _, k := range keys {
		c := sums[k]
		g.add(k.feature, k.tier, k.model, thousands(c.Requests), amount(c.SettledNanos), percent(c.SettledNanos, total), amount(perThousand(c.SettledNanos, c.Requests)))
	}
	d.chapter("Cost by feature and tier")
	g.write(d.w, "  ")
}

func (s *story) agreed(busy, all int64) {
	fmt.Fprintln(s.w)
	checked := s.paint(bold+";"+green, "Checked:")
	s.tell("%s %s's clients saw %s nanos settled; its budget and overflow say the same, to the nano.", checked, busyFeature, thousands(busy))
	s.tell("%s all clients saw %s nanos settled; the company's budget says the same, to the nano.", checked, thousands(all))
}

func (s *story) whatNext() {
	s.chapter("Try next")
	for _, line := range []string{
		"bin/chartergate serve                                  a server that keeps its data in ./chartergate-data",
		"bin/chartergate apply -f examples/acme                 in a second terminal: the same company",
		"bin/chartergate check --feature support-copilot --task-class chat --input-tokens 1200 --max-output-tokens 400",
		"bin/chartergate get budgets                            how the budgets stand",
		"bin/chartergate replay --help                          send a trace of your own through the gate",
		"bin/chartergate bench                                  what a decision costs in time",
	} {
		s.tell("%s", line)
	}
}
