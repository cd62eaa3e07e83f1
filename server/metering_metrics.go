package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/chartergate/chartergate/server/metering"
)

// Metering adds how the counting into the usage store does.
func (m *Metrics) Metering(meter *metering.Meter) {
	m.registry.MustRegister(&meteringCollector{meter})
}

type meteringCollector struct{ meter *metering.Meter }

var meteringMetrics = []struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*metering.Stats) float64
}{
	{meteringDesc("entries_total", "Settlements that this server has counted into the usage database."), prometheus.CounterValue, func(s *metering.Stats) float64 { return float64(s.Entries) }},
	{meteringDesc("entries_waiting", "Settlements that wait to be counted."), prometheus.GaugeValue, func(s *metering.Stats) float64 { return float64(s.QueuedEntries) }},
	{meteringDesc("failures_total", "Writes that the usage database did not take."), prometheus.CounterValue, func(s *metering.Stats) float64 { return float64(s.Failures) }},
	{meteringDesc("behind", "1 while the archive may hold settlements that are not counted."), prometheus.GaugeValue, func(s *metering.Stats) float64 {
		if s.Behind {
			return 1
		}
		return 0
	}},
	{meteringDesc("uncountable_total", "Settlements that cannot be counted, because a sum would not fit."), prometheus.CounterValue, func(s *metering.Stats) float64 { return float64(s.UncountableEntries) }},
	{meteringDesc("decisions_kept_total", "Decisions that were kept for search."), prometheus.CounterValue, func(s *metering.Stats) float64 { return float64(s.DecisionsKept) }},
	{meteringDesc("decisions_dropped_total", "Decisions that were to be kept and were not, for want of room."), prometheus.CounterValue, func(s *metering.Stats) float64 { return float64(s.DecisionsDropped) }},
}

func meteringDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("chartergate_usage_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (c *meteringCollector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range meteringMetrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *meteringCollector) Collect(out chan<- prometheus.Metric) {
	s := c.meter.Stats()
	for _, m := range meteringMetrics {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(&s))
	}
}
