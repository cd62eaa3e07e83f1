package calibrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

const (
	chunk      = 6 * time.Hour   // of raw samples in one query
	stale      = 5 * time.Minute // a series without a sample for longer has a gap, as in Prometheus
	maxSamples = 20_000_000
	promName   = "Prometheus"
)

// prometheus reads raw samples: increase() and rate() extrapolate, sums of tokens must not.
type prometheus struct {
	api promv1.API
	url *url.URL
	n   int // samples read
}

func newPrometheus(e Endpoint) (*prometheus, error) {
	client, u, err := e.client(promName)
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(api.Config{Address: e.URL, Client: client})
	if err != nil {
		return nil, err
	}
	return &prometheus{api: promv1.NewAPI(c), url: u}, nil
}

type sample struct {
	at int64 // ms since 1970
	v  float64
}

type series struct {
	labels  model.Metric
	samples []sample // by time, the first at or before the window where there is one
}

// samples reads every series of a selector, with the last sample before from, if it is not stale.
func (p *prometheus) samples(ctx context.Context, selector string, from, to time.Time) ([]*series, error) {
	bySeries := map[model.Fingerprint]*series{}
	for start := from.Add(-stale); start.Before(to); {
		end := start.Add(chunk)
		if end.After(to) {
			end = to
		}
		v, err := p.query(ctx, fmt.Sprintf("%s[%dms]", selector, end.Sub(start).Milliseconds()), end)
		if err != nil {
			return nil, err
		}
		matrix, ok := v.(model.Matrix)
		if !ok {
			return nil, fmt.Errorf("%s at %s answers %s with a %s and not a matrix: it is no Prometheus API v1", promName, p.url.Host, selector, v.Type())
		}
		for _, m := range matrix {
			if p.n += len(m.Values); p.n > maxSamples {
				return nil, fmt.Errorf("the window has more than %d samples: choose a shorter one", maxSamples)
			}
			f := m.Metric.Fingerprint()
			s := bySeries[f]
			if s == nil {
				s = &series{labels: m.Metric}
				bySeries[f] = s
			}
			for _, x := range m.Values {
				at, v := int64(x.Timestamp), float64(x.Value)
				if len(s.samples) > 0 && at <= s.samples[len(s.samples)-1].at || math.IsNaN(v) {
					continue // chunks share their border where the selector includes it
				}
				if v < 0 || math.IsInf(v, 0) {
					return nil, fmt.Errorf("%s at %s is %v: no such value can be", m.Metric, x.Timestamp.Time().UTC().Format(time.RFC3339), v)
				}
				s.samples = append(s.samples, sample{at, v})
			}
		}
		start = end
	}
	all := make([]*series, 0, len(bySeries))
	for _, s := range bySeries {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *series) int { return strings.Compare(a.labels.String(), b.labels.String()) })
	return all, nil
}

func (p *prometheus) query(ctx context.Context, q string, at time.Time) (model.Value, error) {
	v, _, _, err := p.api.Query(ctx, q, at)
	if err == nil {
		return v, nil
	}
	e, ok := errors.AsType[*promv1.Error](err)
	switch {
	case !ok:
		return nil, unreachable(promName, p.url, err)
	case e.Type == promv1.ErrClient || e.Type == promv1.ErrServer:
		var code int
		if _, scanErr := fmt.Sscanf(e.Msg, "client error: %d", &code); scanErr != nil {
			_, _ = fmt.Sscanf(e.Msg, "server error: %d", &code)
		}
		if code != 0 {
			return nil, status(promName, p.url, code, e.Detail)
		}
	case e.Type == promv1.ErrBadResponse:
		return nil, fmt.Errorf("%s at %s answers what is no Prometheus API v1 (%s): is the address right?", promName, p.url.Host, e.Msg)
	}
	return nil, fmt.Errorf("%s at %s refuses the query %s: %s: %s", promName, p.url.Host, q, e.Type, strings.Join(strings.Fields(e.Msg), " "))
}

// twice says which engine's counter is scraped by two jobs, or by two Prometheus without deduplication: its tokens would
// count double.
func twice(all []*series) error {
	engines := map[[3]string]*series{}
	for _, s := range all {
		if len(s.samples) == 0 {
			continue
		}
		engine := [3]string{namespaceOf(s.labels), podOf(s.labels), string(s.labels["engine"])}
		if engine[1] == "" {
			engine[1] = string(s.labels["instance"])
		}
		o := engines[engine]
		if o != nil && o.samples[0].at < s.samples[len(s.samples)-1].at && s.samples[0].at < o.samples[len(o.samples)-1].at {
			return fmt.Errorf("the engine is scraped twice, as %s and as %s: keep one", o.labels, s.labels)
		}
		engines[engine] = s
	}
	return nil
}

// models lists the models that have counters at a time, for a message.
func (p *prometheus) models(ctx context.Context, at time.Time) []string {
	v, err := p.query(ctx, "group by (model_name) ("+outputTokens+")", at)
	vector, ok := v.(model.Vector)
	if err != nil || !ok {
		return nil
	}
	var names []string
	for _, s := range vector {
		names = append(names, string(s.Metric["model_name"]))
	}
	slices.Sort(names)
	return slices.Compact(names)
}
