package calibrate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

var (
	from = time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC)
	to   = from.Add(48 * time.Hour)
)

const (
	name    = "meta-llama/Llama-3.3-70B-Instruct"
	inTime  = 0.00025 // GPU-seconds of a token
	outTime = 0.0015
)

// world is two days of a model on two replicas of four GPUs, the second from the second day on.
type world struct {
	scrape
	cluster
	in, out, calls int64 // counted in the window, as clients saw it
	busy           float64
	lost           int64 // before a scrape could see them
}

// newWorld scrapes every minute. mix gives the share of output among tokens at an hour.
func newWorld(mix func(hour int) float64) *world {
	w := &world{cluster: cluster{from: from, to: to}}
	rng := rand.New(rand.NewPCG(1, 2))
	for replica, start := range []time.Time{from.Add(-time.Hour), from.Add(24 * time.Hour)} {
		pod := fmt.Sprintf("llama-6d5f-%d", replica)
		labels := []string{"model_name", name, "namespace", "inference", "pod", pod, "engine", "0"}
		add := func(at time.Time, v int64, metric string, more ...string) {
			w.scrape.add(at, float64(v), append(append([]string{metric}, labels...), more...)...)
		}
		var in, out, calls int64
		for at := start; !at.After(to); at = at.Add(time.Minute) {
			var i, o int64
			if at.After(start) { // an engine loads its model when it starts
				load := 120_000 + 80_000*math.Sin(2*math.Pi*float64(at.Hour())/24) + 20_000*rng.Float64()
				o = int64(load * mix(at.Hour()) * (0.8 + 0.4*rng.Float64()))
				i = int64(load) * 2
			}
			busy := inTime*float64(i) + outTime*float64(o)
			if at.After(from) {
				w.in, w.out, w.busy, w.calls = w.in+i, w.out+o, w.busy+busy, w.calls+i/400
			}
			in, out, calls = in+i, out+o, calls+i/400
			if replica == 0 && at.Equal(from.Add(10*time.Hour)) {
				w.lost += i + o // a crash between two scrapes
				in, out, calls, i, o = 0, 0, 0, 0, 0
			}
			add(at, in, inputTokens)
			add(at, out, outputTokens)
			add(at, calls*9/10, "vllm:request_success_total", "finished_reason", "stop")
			add(at, calls-calls*9/10, "vllm:request_success_total", "finished_reason", "length")
			running := int64(0)
			if busy > 0 {
				running = 12
			}
			add(at, running, "vllm:num_requests_running")
			for gpu := range 4 {
				w.scrape.add(at, busy/4/60*(0.98+0.04*rng.Float64()), "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gpu", fmt.Sprint(gpu), "UUID", fmt.Sprintf("GPU-%d-%d", replica, gpu),
					"modelName", "NVIDIA H100 80GB HBM3", "pod", "dcgm-exporter-x", "exported_pod", pod, "exported_namespace", "inference")
			}
		}
		w.scrape.add(from.Add(time.Hour), 5, inputTokens, "model_name", "other", "pod", "other-1")
		w.scrape.add(from.Add(time.Hour), 5, outputTokens, "model_name", "other", "pod", "other-1")
	}
	w.container("inference", "llama-6d5f-0", "vllm", 48, 192, 499.2, 23.04375, 11.5202, 4.8, 1.20001)
	w.container("inference", "llama-6d5f-1", "vllm", 24, 96, 249.6, 11.52188, 5.7601, 2.4, 0.6)
	w.container("web", "shop-1", "shop", 48, 0, 0, 40.33333, 21.00001, 0, 3)
	w.container("training", "job-1", "train", 48, 96, 249.6, 12, 6, 0, 0)
	w.idle(124.80004, 17.25, 8.125)
	return w
}

// daily is traffic whose share of output goes up and down by the hour.
func daily(hour int) float64 { return 0.2 + 0.15*math.Cos(2*math.Pi*float64(hour)/12) }

func (w *world) options(t *testing.T) Options {
	return Options{
		Prometheus: Endpoint{URL: serve(t, &w.scrape)}, OpenCost: &Endpoint{URL: serve(t, &w.cluster)},
		VLLMModel: name, From: from, To: to, Step: 5 * time.Minute, Busy: BusyAuto, Ratio: 2.5, Idle: IdleProportional,
		Model: "llama-3.3-70b-instruct", Effective: to, Currency: "USD",
	}
}

func run(t *testing.T, o Options) *Result {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*math.Abs(want) {
		t.Errorf("%s is %v, want %v within %.2f%%", what, got, want, 100*tolerance)
	}
}

func TestCalibration(t *testing.T) {
	w := newWorld(daily)
	r := run(t, w.options(t))

	if got, want := r.InputTokens+r.OutputTokens, w.in+w.out-w.lost; got != want {
		t.Errorf("%d tokens, the clients saw %d but for those lost in the crash", got, want)
	}
	if r.Replicas != 2 || r.Resets != 2 || math.Abs(r.ReplicaHours-72) > 0.01 || r.GPUHours != 288 {
		t.Errorf("%d replicas, %d resets, %v replica-hours, %v GPU-hours", r.Replicas, r.Resets, r.ReplicaHours, r.GPUHours)
	}
	if r.Fit.Method != Regression || r.Busy != "DCGM_FI_PROF_GR_ENGINE_ACTIVE" || r.Accelerator != "NVIDIA H100 80GB HBM3" {
		t.Errorf("%+v of %s on %s", r.Fit, r.Busy, r.Accelerator)
	}
	near(t, "input time", r.Fit.Input, 1000*inTime, 0.01)
	near(t, "output time", r.Fit.Output, 1000*outTime, 0.01)
	near(t, "busy hours", r.BusyHours, w.busy/3600, 0.01)
	if r.Fit.R2 == nil || *r.Fit.R2 < 0.98 || r.Fit.InputRange[0] > 1000*inTime || r.Fit.InputRange[1] < 1000*inTime {
		t.Errorf("R2 %v, range of the input %v", *r.Fit.R2, r.Fit.InputRange)
	}

	// GPU idle cost by GPU cost, and so on; storage and network have none.
	want := 499.2 + 249.6 + 23.04375 + 11.52188 + 11.5202 + 5.7601 + 7.2 + 1.80001 +
		124.80004*748.8/998.4 + 17.25*34.56563/86.89896 + 8.125*17.2803/44.28031
	near(t, "cost", float64(r.Cost.Recovered)/1e9, want, 1e-8)
	theirs(t, w, r)

	// The price brings in that cost, for the tokens at once and call by call.
	once, err := r.Price.Cost(&usage.Usage{InputTokens: r.InputTokens, OutputTokens: r.OutputTokens})
	if err != nil {
		t.Fatal(err)
	}
	if d := once - r.Cost.Recovered; max(d, -d) > r.Check.Allowed || r.Check.Allowed > 145 || once != r.Check.Price {
		t.Errorf("the price gives %v for %v: more than %d nanos apart", once, r.Cost.Recovered, r.Check.Allowed)
	}
	byCall, calls := callByCall(t, r)
	most := once + money.Nanos(int64(calls)*(int64(r.BusyHourNanos)/msPerHour+2))
	if byCall < once || byCall > most {
		t.Errorf("call by call it gives %v, at once %v, at most %v", byCall, once, most)
	}
	near(t, "calls", float64(r.Calls), float64(w.calls), 0.001)
}

// theirs takes the shares of every workload: together they are the cluster.
func theirs(t *testing.T, w *world, r *Result) {
	t.Helper()
	all, err := allocations(t.Context(), Endpoint{URL: serve(t, &w.cluster)}, from, to)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []Idle{IdleProportional, IdleEven} {
		var sum money.Nanos
		for _, pods := range [][]string{{"llama-6d5f-0", "llama-6d5f-1"}, {"shop-1"}, {"job-1"}} {
			c, err := costOf(all, func(a *allocation) bool { return strings.Contains(strings.Join(pods, " "), a.Properties.Pod) }, rule)
			if err != nil {
				t.Fatal(err)
			}
			sum += c.Direct + c.Idle
		}
		if d := sum - r.Cost.Cluster; max(d, -d) > 3 {
			t.Errorf("%s: the workloads carry %v, the cluster costs %v", rule, sum, r.Cost.Cluster)
		}
	}
}

// callByCall splits the tokens into calls and adds up what each costs.
func callByCall(t *testing.T, r *Result) (sum money.Nanos, calls int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	for in, out := r.InputTokens, r.OutputTokens; in+out > 0; calls++ {
		u := usage.Usage{InputTokens: min(in, rng.Int64N(200_000)), OutputTokens: min(out, rng.Int64N(60_000))}
		in, out = in-u.InputTokens, out-u.OutputTokens
		n, err := r.Price.Cost(&u)
		if err != nil {
			t.Fatal(err)
		}
		if sum, err = money.Add(sum, n); err != nil {
			t.Fatal(err)
		}
	}
	return sum, calls
}

func TestStatedRatioWhereTokensRiseTogether(t *testing.T) {
	w := newWorld(daily)
	for _, s := range w.scrape.series { // ten input tokens with every output token
		if s.labels["__name__"] != outputTokens || s.labels["model_name"] != name {
			continue
		}
		for _, in := range w.scrape.series {
			if in.labels["__name__"] == inputTokens && in.labels["pod"] == s.labels["pod"] {
				for i := range s.samples {
					s.samples[i].v = math.Floor(in.samples[i].v / 10)
				}
			}
		}
	}
	r := run(t, w.options(t))
	if r.Fit.Method != FixedRatio || !strings.Contains(r.Fit.Why, "rise and fall together") || math.Abs(r.Fit.Output/r.Fit.Input-2.5) > 1e-9 {
		t.Errorf("%+v", r.Fit)
	}
	if d := r.Check.Price - r.Check.Cost; max(d, -d) > r.Check.Allowed {
		t.Errorf("%+v", r.Check)
	}
}

func TestRequestsTellBusyTimeWithoutDCGM(t *testing.T) {
	w := newWorld(daily)
	o := w.options(t)
	o.Busy, o.GPUsPerReplica = BusyRequests, 4
	r := run(t, o)
	if r.Busy != "vllm:num_requests_running" || r.Fit.Method != FixedRatio || r.Fit.Why == "" {
		t.Errorf("%s, %+v", r.Busy, r.Fit)
	}
	near(t, "busy hours", r.BusyHours, 288, 0.01) // there is always a request
}

func TestRatesOfTheirOwnAreNotInTheGPURate(t *testing.T) {
	w := newWorld(daily)
	o := w.options(t)
	storage, egress := money.Nanos(23_000), money.Nanos(50_000)
	o.Storage, o.Egress, o.OverheadPPM, o.Idle = &storage, &egress, 120_000, IdleNone
	r := run(t, o)
	if want := r.Cost.Direct - 7_200_000_000 - 1_800_010_000; r.Cost.Recovered != want || r.Cost.Idle != 0 {
		t.Errorf("%v is brought in by GPU time, want %v", r.Cost.Recovered, want)
	}
	u := usage.Usage{InputTokens: r.InputTokens, OutputTokens: r.OutputTokens, StorageBytes: 3_000_000, EgressBytes: 2_000_000}
	got, err := r.Price.Cost(&u)
	if want := float64(r.Check.Price+3*storage+2*egress) * 1.12; err != nil || math.Abs(float64(got)-want) > 2000 {
		t.Errorf("cost %v, %v, want %v", got, err, want)
	}

	// One request: GPU-hours x rate + storage + egress, and overhead on all of it.
	u = usage.Usage{InputTokens: 1200, CacheReadTokens: 3000, OutputTokens: 400, StorageBytes: 2_500_000, EgressBytes: 9_000}
	total, parts, err := r.Price.Split(&u)
	ms := math.Ceil((4200*float64(r.Price.GPUPerMInput) + 400*float64(r.Price.GPUPerMOutput)) / 1e6)
	compute := ms*float64(r.BusyHourNanos)/3_600_000 + 2.5*float64(storage) + 0.009*float64(egress)
	if err != nil || math.Abs(float64(parts.Compute)-compute) > 1 || math.Abs(float64(parts.Other)-0.12*compute) > 1 || parts.Compute+parts.Other != total {
		t.Errorf("a request costs %v in %+v, %v; want %v and 12%%", total, parts, err, compute)
	}
}

func TestARateByAccelerator(t *testing.T) {
	w := newWorld(daily)
	o := w.options(t)
	plain := run(t, o)
	o.Accelerator, o.ByAccelerator = "h100", true
	r := run(t, o)
	if _, ok := r.Price.Rate(pricing.GPUMillisecond); ok || r.Price.Accelerators["h100"] != plain.BusyHourNanos || r.Check != plain.Check {
		t.Errorf("%+v, %+v; want the rate %s", r.Price.Accelerators, r.Check, plain.BusyHourNanos)
	}
	u := usage.Usage{InputTokens: 1200, OutputTokens: 400}
	want, err := plain.Price.Cost(&u)
	u.Accelerator = "h100"
	if got, err2 := r.Price.Cost(&u); err != nil || err2 != nil || got != want {
		t.Errorf("a request costs %s, %v; want %s, %v", got, err2, want, err)
	}
	o.Accelerator = ""
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "needs the accelerator's name") {
		t.Error(err)
	}
}

func TestRangesOfPrometheus2And3CountTheSame(t *testing.T) {
	w := newWorld(daily)
	three := run(t, w.options(t))
	w.scrape.closed = true
	two := run(t, w.options(t))
	if three.InputTokens != two.InputTokens || three.OutputTokens != two.OutputTokens || three.BusyHourNanos != two.BusyHourNanos {
		t.Errorf("%d and %d input tokens", three.InputTokens, two.InputTokens)
	}
}

func TestGivenRateNeedsNoOpenCost(t *testing.T) {
	w := newWorld(daily)
	o := w.options(t)
	o.OpenCost, o.GPUHour, o.GPUsPerReplica = nil, 2_600_000_000, 4
	r := run(t, o)
	near(t, "cost", float64(r.Cost.Recovered)/1e9, 2.6*288, 0.001)
	o.GPUsPerReplica = 0 // DCGM counts them
	near(t, "cost", float64(run(t, o).Cost.Recovered)/1e9, 2.6*288, 0.001)
}

func TestKubecostPathAndSelection(t *testing.T) {
	w := newWorld(daily)
	o := w.options(t)
	o.OpenCost.URL += "/model"
	o.Selection = Selection{Namespace: "inference", Labels: map[string]string{"app.kubernetes.io/name": "vllm"}}
	if r := run(t, o); r.Cost.Pods != 2 {
		t.Errorf("%d pods", r.Cost.Pods)
	}
	want := "/model/allocation?accumulate=true&idle=true&includeIdle=true&shareIdle=false&window=2026-11-16T00%3A00%3A00Z%2C2026-11-18T00%3A00%3A00Z"
	if w.requests[0] != want {
		t.Errorf("asked %s", w.requests[0])
	}
}
