package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/server/preflight"
)

// maxRootSeries bounds the root budgets that /metrics shows, in the order of their ids.
const maxRootSeries = 200

// batchEntries are the bounds of the histogram of batch sizes; a batch has at most 256 entries.
var batchEntries = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}

// clusterMetrics are what happens between replicas.
type clusterMetrics struct {
	entries      prometheus.Histogram
	commit       prometheus.Histogram
	refused      prometheus.Counter
	refusedNanos prometheus.Counter
	events       [preflight.EventReclaim + 1]prometheus.Counter
}

func newClusterMetrics(registry prometheus.Registerer) *clusterMetrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		registry.MustRegister(c)
		return c
	}
	m := &clusterMetrics{
		entries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "chartergate_journal_batch_entries", Help: "Settlements, releases and usage records in one committed batch.", Buckets: batchEntries,
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "chartergate_journal_commit_seconds", Help: "Time to commit one batch, its repetitions included.", Buckets: seconds,
		}),
		refused: counter("chartergate_refused_elsewhere_total",
			"Reserves refused that would have fitted, had what other live replicas were granted and are not known to have settled (idle, or held by their calls) been here."),
		refusedNanos: counter("chartergate_refused_elsewhere_nanos_total", "What those reserves asked for, in nanos of each call's currency."),
	}
	registry.MustRegister(m.entries, m.commit)
	for event, what := range map[preflight.Event][2]string{
		preflight.EventConflict: {"chartergate_grant_conflicts_total", "Transactions that wrote nothing because another replica changed a grant or budget first; they are made anew."},
		preflight.EventUnknown:  {"chartergate_unknown_outcomes_total", "Transactions without an answer from etcd, whose outcome had to be found out."},
		preflight.EventTakeover: {"chartergate_takeovers_total", "Replicas that are gone and whose holds this one took over."},
		preflight.EventReclaim:  {"chartergate_reclaims_total", "Replicas that are gone and whose grants this one gave back, after their quarantine."},
	} {
		m.events[event] = counter(what[0], what[1])
	}
	return m
}

// Batch records a batch that was committed.
func (m *Metrics) Batch(entries int, seconds float64) {
	m.cluster.entries.Observe(float64(entries))
	m.cluster.commit.Observe(seconds)
}

// RefusedElsewhere counts a refusal of an amount that other replicas may have had idle.
func (m *Metrics) RefusedElsewhere(x money.Nanos) {
	m.cluster.refused.Inc()
	m.cluster.refusedNanos.Add(float64(x))
}

// Event counts an event.
func (m *Metrics) Event(e preflight.Event) { m.cluster.events[e].Inc() }

// Cluster registers the gauges of this replica and of those that it knows. At each scrape standing tells how it stands.
// The first 200 root budgets by id are shown. To be called once.
func (m *Metrics) Cluster(standing func() *preflight.Standing) {
	m.registry.MustRegister(&clusterCollector{standing})
}

// Peers registers the counters of calls that other replicas had to answer. To be called once.
func (m *Metrics) Peers(p *Peers) { m.registry.MustRegister(p.forwards) }

type clusterCollector struct{ standing func() *preflight.Standing }

var clusterGauges = []struct {
	desc *prometheus.Desc
	of   func(*preflight.Standing) float64
}{
	{gauge("chartergate_replicas_live", "Replicas whose session lives, by the last heartbeat."), func(s *preflight.Standing) float64 { return float64(s.Live) }},
	{gauge("chartergate_replicas_gone", "Replicas that ended without returning their grants, and that no other looks after yet."), func(s *preflight.Standing) float64 { return float64(s.Gone) }},
	{gauge("chartergate_replicas_quarantined", "Replicas that are gone and whose grants are not given back yet."), func(s *preflight.Standing) float64 { return float64(s.Quarantined) }},
	{gauge("chartergate_deadline_left_seconds", "How long this replica takes reserves without an answer from etcd. 0: it does not, or only what --without-etcd allows."), func(s *preflight.Standing) float64 { return s.Deadline.Seconds() }},
	{gauge("chartergate_without_etcd_used_nanos", "Held since the deadline passed, without etcd, in nanos of each call's currency."), func(s *preflight.Standing) float64 { return float64(s.OfflineUsed) }},
	{gauge("chartergate_without_etcd_limit_nanos", "What --without-etcd allows, in nanos."), func(s *preflight.Standing) float64 { return float64(s.Offline) }},
	{gauge("chartergate_settlements_waiting", "Settlements, releases and usage records that are queued and not committed."), func(s *preflight.Standing) float64 { return float64(s.QueuedEntries) }},
	{gauge("chartergate_accounts_open", "Accounts of budgets, keys and allowances in memory."), func(s *preflight.Standing) float64 { return float64(s.Accounts) }},
	{gauge("chartergate_accounts_tight", "Open accounts near their ceiling, where one replica holds what is left."), func(s *preflight.Standing) float64 { return float64(s.Tight) }},
	{gauge("chartergate_accounts_draining", "Open accounts with more granted than a lowered ceiling allows."), func(s *preflight.Standing) float64 { return float64(s.Draining) }},
	{gauge("chartergate_ceiling_acknowledgements_pending", "Replicas that have not acknowledged the latest ceiling, summed over the open accounts."), func(s *preflight.Standing) float64 { return float64(s.Pending) }},
}

var rootGauges = []struct {
	desc *prometheus.Desc
	of   func(*preflight.RootMoney) money.Nanos
}{
	{gauge("chartergate_root_granted_nanos", "Granted to this replica and not settled, in nanos of the root budget's currency.", "budget", "currency"), func(r *preflight.RootMoney) money.Nanos { return r.Granted }},
	{gauge("chartergate_root_idle_nanos", "The part of the granted that no call uses, in nanos.", "budget", "currency"), func(r *preflight.RootMoney) money.Nanos { return r.Idle }},
	{gauge("chartergate_root_held_nanos", "The part of the granted that calls of this replica hold, in nanos.", "budget", "currency"), func(r *preflight.RootMoney) money.Nanos { return r.Held }},
	{gauge("chartergate_root_quarantined_nanos", "Granted to replicas that are gone, and not settled, in nanos.", "budget", "currency"), func(r *preflight.RootMoney) money.Nanos { return r.Quarantined }},
	{gauge("chartergate_root_forced_nanos", "Forced spend of all replicas in the current period, in nanos.", "budget", "currency"), func(r *preflight.RootMoney) money.Nanos { return r.Forced }},
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func (c *clusterCollector) Describe(out chan<- *prometheus.Desc) {
	for i := range clusterGauges {
		out <- clusterGauges[i].desc
	}
	for i := range rootGauges {
		out <- rootGauges[i].desc
	}
}

func (c *clusterCollector) Collect(out chan<- prometheus.Metric) {
	st := c.standing()
	for i := range clusterGauges {
		out <- prometheus.MustNewConstMetric(clusterGauges[i].desc, prometheus.GaugeValue, clusterGauges[i].of(st))
	}
	for j := range st.Roots[:min(len(st.Roots), maxRootSeries)] {
		r := &st.Roots[j]
		for i := range rootGauges {
			out <- prometheus.MustNewConstMetric(rootGauges[i].desc, prometheus.GaugeValue, float64(rootGauges[i].of(r)), r.Budget, r.Currency)
		}
	}
}
