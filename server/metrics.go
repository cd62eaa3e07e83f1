package server

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
)

// seconds are the bounds of every latency histogram, from 50 µs to 5 s.
var seconds = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// maxBudgetSeries bounds the budgets that /metrics shows, in the order of their names.
const maxBudgetSeries = 1000

// Metrics is what the server tells Prometheus about decisions and money. It is safe for concurrent use.
type Metrics struct {
	registry  prometheus.Registerer
	decisions [routing.Deny + 1]prometheus.Counter
	reserve   prometheus.Histogram
	settle    prometheus.Histogram
	commit    prometheus.Histogram
	alerts    prometheus.Counter
	failures  *prometheus.CounterVec
	cluster   *clusterMetrics
}

// NewMetrics registers the metrics. It panics when they are registered already.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds})
	}
	m := &Metrics{
		registry: registry, cluster: newClusterMetrics(registry),
		reserve: histogram("chartergate_reserve_seconds", "Time to answer a Reserve, from the decoded request on."),
		settle:  histogram("chartergate_settle_seconds", "Time to answer a Settle, its durable commit included."),
		commit:  histogram("chartergate_etcd_commit_seconds", "Time of one etcd transaction of the ledger."),
		alerts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chartergate_alerts_total", Help: "Budget alerts recorded by this process.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chartergate_policy_failures_total", Help: "Calls for which the policy gave no decision, by reason; the charter's fail mode applied.",
		}, []string{"reason"}),
	}
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "chartergate_decisions_total", Help: "Decisions of Reserve, by effect.",
	}, []string{"effect"})
	for effect := range m.decisions {
		if effect := routing.Effect(effect); effect != routing.EffectUnspecified {
			m.decisions[effect] = decisions.WithLabelValues(effect.String())
		}
	}
	for _, f := range routing.PolicyFailures {
		m.failures.WithLabelValues(string(f)) // an alert on a rate needs a zero to start from
	}
	registry.MustRegister(decisions, m.reserve, m.settle, m.commit, m.alerts, m.failures)
	return m
}

// Decision counts a decision.
func (m *Metrics) Decision(effect routing.Effect) {
	if effect > routing.EffectUnspecified && effect <= routing.Deny {
		m.decisions[effect].Inc()
	}
}

// ReserveSeconds records how long a Reserve took.
func (m *Metrics) ReserveSeconds(s float64) { m.reserve.Observe(s) }

// SettleSeconds records how long a Settle took.
func (m *Metrics) SettleSeconds(s float64) { m.settle.Observe(s) }

// Commit records how long an etcd transaction took.
func (m *Metrics) Commit(d time.Duration) { m.commit.Observe(d.Seconds()) }

// PolicyFailed counts a call for which the policy gave no decision.
func (m *Metrics) PolicyFailed(why routing.PolicyFailure) {
	m.failures.WithLabelValues(string(why)).Inc()
}

// Alert counts an alert.
func (m *Metrics) Alert() { m.alerts.Inc() }

// BudgetGauge is how one budget stands in its current period.
type BudgetGauge struct {
	Budget               string // its id
	Held, Settled, Limit money.Nanos
}

// Budgets registers the gauges of budgets. At each scrape states gives those without keys; a `per` budget would have a
// series for each user. The first 1,000 by id are shown. To be called once.
func (m *Metrics) Budgets(states func() []BudgetGauge) {
	m.registry.MustRegister(&budgetCollector{states})
}

// JournalLag registers the gauges of settlements that are still in etcd. To be called once.
func (m *Metrics) JournalLag(lag func() (batches int, bytes int64)) {
	gauge := func(name, help string, value func() float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	m.registry.MustRegister(
		gauge("chartergate_journal_batches", "Batches of settlements of this process that are in etcd and not yet in the archive.",
			func() float64 { n, _ := lag(); return float64(n) }),
		gauge("chartergate_journal_bytes", "Bytes of settlements of this process that are in etcd and not yet in the archive.",
			func() float64 { _, n := lag(); return float64(n) }),
	)
}

type budgetCollector struct{ states func() []BudgetGauge }

var (
	heldDesc = prometheus.NewDesc("chartergate_budget_held_nanos",
		"Held by calls in flight, in nanos of the budget's currency.", []string{"budget"}, nil)
	settledDesc = prometheus.NewDesc("chartergate_budget_settled_nanos",
		"Settled in the current period, forced spend included, in nanos of the budget's currency.", []string{"budget"}, nil)
	limitDesc = prometheus.NewDesc("chartergate_budget_limit_nanos",
		"The ceiling in force, with what rolled over, in nanos of the budget's currency.", []string{"budget"}, nil)
)

func (c *budgetCollector) Describe(out chan<- *prometheus.Desc) {
	out <- heldDesc
	out <- settledDesc
	out <- limitDesc
}

func (c *budgetCollector) Collect(out chan<- prometheus.Metric) {
	states := slices.Clone(c.states())
	slices.SortFunc(states, func(a, b BudgetGauge) int { return cmp.Compare(a.Budget, b.Budget) })
	for _, s := range states[:min(len(states), maxBudgetSeries)] {
		gauge := func(d *prometheus.Desc, v money.Nanos) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), s.Budget)
		}
		gauge(heldDesc, s.Held)
		gauge(settledDesc, s.Settled)
		gauge(limitDesc, s.Limit)
	}
}

// callMetrics are the RPCs, by method and gRPC code.
type callMetrics struct {
	calls    *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	byMethod map[string]*methodMetrics // fixed before the first call
}

type methodMetrics struct {
	ok      prometheus.Counter
	latency prometheus.Observer // nil for streams: how long one lives is no latency
}

func newCallMetrics(registry prometheus.Registerer) *callMetrics {
	c := &callMetrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chartergate_rpcs_total", Help: "RPCs answered, by method and gRPC code.",
		}, []string{"method", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "chartergate_rpc_seconds", Help: "Time to answer a unary RPC, by method.", Buckets: seconds,
		}, []string{"method"}),
		byMethod: map[string]*methodMetrics{},
	}
	registry.MustRegister(c.calls, c.latency)
	return c
}

func (c *callMetrics) add(method string, stream bool) {
	m := &methodMetrics{ok: c.calls.WithLabelValues(method, codes.OK.String())}
	if !stream {
		m.latency = c.latency.WithLabelValues(method)
	}
	c.byMethod[method] = m
}

func (c *callMetrics) done(method string, code codes.Code, took time.Duration) {
	m := c.byMethod[method]
	if m == nil {
		return
	}
	if code == codes.OK {
		m.ok.Inc()
	} else {
		c.calls.WithLabelValues(method, code.String()).Inc()
	}
	if m.latency != nil {
		m.latency.Observe(took.Seconds())
	}
}
