// Package calibrate makes the price of a self-hosted model from what its cluster did and cost in a window: the GPU time
// that a token takes from Prometheus counters of vLLM, the cost of the GPUs from OpenCost or Kubecost. The price times
// the window's tokens is the cost of the window.
package calibrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

// Options say what to calibrate.
type Options struct {
	Prometheus Endpoint
	OpenCost   *Endpoint   // or
	GPUHour    money.Nanos // what an hour of a GPU costs, busy or not
	Selection  Selection   // the model's pods; empty: those that the counters name

	VLLMModel      string // the counters' model_name
	From, To       time.Time
	Step           time.Duration // of the regression
	Busy           Busy
	GPUsPerReplica int     // 0: GPU-hours of OpenCost by replica-hours
	Ratio          float64 // input tokens that take as much as one output token, where a regression cannot tell
	Idle           Idle

	Model       string // of the price
	Effective   time.Time
	Currency    string
	OverheadPPM int64
	Storage     *money.Nanos // per million bytes read; storage is not in the GPU rate then
	Egress      *money.Nanos // per million bytes; network is not in the GPU rate then
	Accelerator string       // empty: as the metrics or OpenCost name it
	// ByAccelerator makes the rate one of Accelerator, for usage that names it.
	ByAccelerator bool
}

// Busy says from what the GPUs' busy time comes.
type Busy string

// Sources of busy time.
const (
	BusyAuto     Busy = "auto"     // DCGM where it has the model's pods, or else requests
	BusyDCGM     Busy = "dcgm"     // dcgm-exporter: DCGM_FI_PROF_GR_ENGINE_ACTIVE, or DCGM_FI_DEV_GPU_UTIL
	BusyRequests Busy = "requests" // a replica's GPUs are busy while vllm:num_requests_running is above 0
)

// Sources are the values of Busy.
var Sources = []Busy{BusyAuto, BusyDCGM, BusyRequests}

const (
	inputTokens  = "vllm:prompt_tokens_total"
	outputTokens = "vllm:generation_tokens_total"
	maxWindow    = 92 * 24 * time.Hour
	maxSteps     = 100_000
)

// Result is a calibration.
type Result struct {
	Model        string    `json:"model"` // of the price
	VLLMModel    string    `json:"vllm_model"`
	From         time.Time `json:"from"`
	To           time.Time `json:"to"`
	InputTokens  int64     `json:"input_tokens"` // with those read from vLLM's prefix cache
	OutputTokens int64     `json:"output_tokens"`
	Calls        int64     `json:"calls"` // 0: not counted
	Replicas     int       `json:"replicas"`
	Resets       int       `json:"counter_resets"`
	ReplicaHours float64   `json:"replica_hours"`
	GPUHours     float64   `json:"gpu_hours"`   // that the model's replicas had
	BusyHours    float64   `json:"busy_hours"`  // of them busy
	Busy         string    `json:"busy_source"` // metric
	Accelerator  string    `json:"accelerator,omitempty"`
	Fit          Fit       `json:"fit"`
	Cost         Cost      `json:"cost"`
	// GPUHourNanos is what a GPU-hour costs, BusyHourNanos what one must bring in while it is busy.
	GPUHourNanos  money.Nanos    `json:"gpu_hour_nanos"`
	BusyHourNanos money.Nanos    `json:"busy_hour_nanos"`
	Check         Check          `json:"check"`
	Price         *pricing.Price `json:"-"`
}

// Run calibrates. Errors say what is unreachable, missing or not to be believed.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	p, err := newPrometheus(o.Prometheus)
	if err != nil {
		return nil, err
	}
	r := &Result{Model: o.Model, VLLMModel: o.VLLMModel, From: o.From, To: o.To, Accelerator: o.Accelerator}
	grid := newSteps(o.From, o.To, o.Step)
	in, out, calls := grid.sums(), grid.sums(), grid.sums()
	var replicas []*series
	for _, c := range []struct {
		name string
		into *sums
	}{{inputTokens, in}, {outputTokens, out}, {"vllm:request_success_total", calls}} {
		found, err := p.samples(ctx, o.selector(c.name), o.From, o.To)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			c.into.counter(s)
		}
		if c.into == calls {
			break
		}
		if len(found) == 0 {
			return nil, p.missing(ctx, c.name, o.VLLMModel, o.To)
		}
		if err := twice(found); err != nil {
			return nil, err
		}
		r.Resets += c.into.resets
		replicas = found
	}
	r.InputTokens, r.OutputTokens, r.Calls = int64(math.Round(in.total())), int64(math.Round(out.total())), int64(math.Round(calls.total()))
	r.Replicas, r.ReplicaHours = len(replicas), out.present/3600

	if err := r.cost(ctx, &o, replicas); err != nil {
		return nil, err
	}
	busy, err := r.busy(ctx, p, &o, grid, replicas)
	if err != nil {
		return nil, err
	}
	var x, z, y []float64
	for i := range busy.by {
		if in.gap[i] || out.gap[i] || busy.gap[i] {
			r.Fit.Unused++
			continue
		}
		x, z, y = append(x, in.by[i]), append(z, out.by[i]), append(y, busy.by[i])
	}
	unused := r.Fit.Unused
	if r.Fit, err = fit(x, z, y, o.Ratio); err != nil {
		return nil, fmt.Errorf("%s: %w", o.VLLMModel, err)
	}
	r.Fit.Unused = unused
	if err := r.price(&o); err != nil {
		return nil, err
	}
	return r, nil
}

func (o *Options) validate() error {
	window := o.To.Sub(o.From)
	switch {
	case o.VLLMModel == "" || o.Model == "" || len(o.Model) > 128:
		return errors.New("name the model, in at most 128 bytes")
	case !o.From.Truncate(time.Hour).Equal(o.From) || !o.To.Truncate(time.Hour).Equal(o.To):
		return fmt.Errorf("the window is %s to %s: it must be whole hours", o.From.Format(time.RFC3339), o.To.Format(time.RFC3339))
	case window < time.Hour || window > maxWindow:
		return fmt.Errorf("the window is %v: it must be an hour to %d days", window, maxWindow/(24*time.Hour))
	case o.Step < time.Minute || window/o.Step > maxSteps:
		return fmt.Errorf("the step is %v: it must be a minute or more, and the window at most %d steps", o.Step, maxSteps)
	case o.OpenCost == nil && o.GPUHour <= 0, o.OpenCost != nil && o.GPUHour != 0:
		return errors.New("the cost is of OpenCost, or of a rate above 0 by the GPU-hour: give one of them")
	case !(o.Ratio > 0 && o.Ratio <= 1000):
		return fmt.Errorf("the ratio of output to input tokens is %v: it must be above 0, at most 1000", o.Ratio)
	case o.ByAccelerator && (o.Accelerator == "" || utf8.RuneCountInString(o.Accelerator) > 64):
		return errors.New("a rate by accelerator needs the accelerator's name, of at most 64 characters, as usage will name it")
	case o.GPUsPerReplica < 0 || o.GPUsPerReplica > 10_000:
		return fmt.Errorf("%d GPUs of a replica: it must be 1 to 10000", o.GPUsPerReplica)
	case !slices.Contains(Idles, o.Idle):
		return fmt.Errorf("unknown rule for idle cost %q: it must be one of %v", o.Idle, Idles)
	case !slices.Contains(Sources, o.Busy):
		return fmt.Errorf("unknown source of busy time %q: it must be one of %v", o.Busy, Sources)
	case o.OverheadPPM < 0 || o.OverheadPPM > 10_000_000:
		return fmt.Errorf("the overhead is %d parts per million: it must be 0 to 10000000", o.OverheadPPM)
	case o.Storage != nil && *o.Storage < 0 || o.Egress != nil && *o.Egress < 0:
		return errors.New("a rate is below 0")
	}
	return nil
}

func (o *Options) selector(metric string) string {
	s := fmt.Sprintf("%s{model_name=%q", metric, o.VLLMModel)
	if o.Selection.Namespace != "" {
		s += fmt.Sprintf(",namespace=%q", o.Selection.Namespace)
	}
	return s + "}"
}

// missing says what series there are instead.
func (p *prometheus) missing(ctx context.Context, metric, name string, at time.Time) error {
	hint := "no vLLM is scraped: add its /metrics to Prometheus"
	if known := p.models(ctx, at); len(known) > 0 {
		hint = "it has them of " + strings.Join(known[:min(len(known), 10)], ", ")
	}
	return fmt.Errorf("%s at %s has no samples of %s for model_name %q in the window; %s", promName, p.url.Host, metric, name, hint)
}

// podOf and namespaceOf name the pod of a series, whether or not Prometheus renamed the labels of the target.
func podOf(m model.Metric) string {
	return first(m, "exported_pod", "pod", "pod_name", "kubernetes_pod_name")
}
func namespaceOf(m model.Metric) string {
	return first(m, "exported_namespace", "namespace", "kubernetes_namespace")
}

func first(m model.Metric, names ...model.LabelName) string {
	for _, n := range names {
		if v := m[n]; v != "" {
			return string(v)
		}
	}
	return ""
}

// cost asks OpenCost, or takes the rate.
func (r *Result) cost(ctx context.Context, o *Options, replicas []*series) error {
	if o.OpenCost == nil {
		r.Cost = Cost{Currency: o.Currency, Rule: IdleNone}
		return nil
	}
	mine := o.Selection.matches
	if s := o.Selection; s.Controller == "" && len(s.Labels) == 0 {
		pods := map[string]bool{}
		for _, x := range replicas {
			if pod := podOf(x.labels); pod != "" {
				pods[namespaceOf(x.labels)+"/"+pod] = true
			}
		}
		if len(pods) > 0 {
			mine = func(a *allocation) bool {
				return s.matches(a) && (pods[a.Properties.Namespace+"/"+a.Properties.Pod] || pods["/"+a.Properties.Pod])
			}
		} else if s.Namespace == "" {
			return errors.New("the counters name no pods: name the namespace, controller or label of the model's pods")
		}
	}
	all, err := allocations(ctx, *o.OpenCost, o.From, o.To)
	if err != nil {
		return err
	}
	c, err := costOf(all, mine, o.Idle)
	if err != nil {
		return err
	}
	c.Currency = o.Currency
	if c.Recovered, err = money.Add(c.Direct, c.Idle); err != nil {
		return err
	}
	if o.Storage != nil {
		c.Recovered -= c.Storage
	}
	if o.Egress != nil {
		c.Recovered -= c.Network
	}
	if c.Recovered <= 0 {
		return fmt.Errorf("the %d pods cost %s %s: nothing is left for GPU time to bring in", c.Pods, c.Recovered, o.Currency)
	}
	if r.Cost = *c; r.Accelerator == "" {
		r.Accelerator = strings.Join(c.gpuModel, ", ")
	}
	return nil
}

// tokens are the window's tokens as one usage.
func (r *Result) tokens() *usage.Usage {
	return &usage.Usage{InputTokens: r.InputTokens, OutputTokens: r.OutputTokens}
}
