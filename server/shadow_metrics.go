package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/chartergate/chartergate/server/shadow"
)

// Shadow adds what candidates of policies decide beside them.
func (m *Metrics) Shadow(s *shadow.Shadow) { m.registry.MustRegister(shadowCollector{s}) }

type shadowCollector struct{ shadow *shadow.Shadow }

var shadowCalls = prometheus.NewDesc("chartergate_policy_shadow_calls",
	"Calls since the candidate shadows, by policy and result: same, changed, failed (it gave no decision), dropped (the server was busy).",
	[]string{"policy", "revision", "result"}, nil)

// Describe implements prometheus.Collector.
func (c shadowCollector) Describe(out chan<- *prometheus.Desc) { out <- shadowCalls }

// Collect implements prometheus.Collector.
func (c shadowCollector) Collect(out chan<- prometheus.Metric) {
	for _, r := range c.shadow.Reports() {
		for _, n := range []struct {
			result string
			calls  int64
		}{{"same", r.Calls - r.Differing}, {"changed", r.Differing}, {"failed", r.Failed}, {"dropped", r.Dropped}} {
			out <- prometheus.MustNewConstMetric(shadowCalls, prometheus.GaugeValue, float64(n.calls), r.Policy, r.Revision, n.result)
		}
	}
}
