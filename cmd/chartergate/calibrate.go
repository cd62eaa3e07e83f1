package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/calibrate"
	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/proto/convert"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// calibrateOptions are the flags of calibrate, as they are written.
type calibrateOptions struct {
	calibrate.Options
	prometheus, opencost     endpointFlags
	from, to, effective      string
	last                     time.Duration
	gpuHour, storage, egress string
	overhead                 float64
	busy, idle               string
	labels                   map[string]string
	book, output             string
	timeout                  time.Duration
	now                      func() time.Time
}

type endpointFlags struct{ url, tokenFile string }

func newCalibrateCommand() *cobra.Command {
	o := calibrateOptions{now: time.Now}
	cmd := &cobra.Command{
		Use:   "calibrate",
		Short: "Make the price of a self-hosted model from what its GPUs did and cost",
		Long: `Make the price of a model that you serve with vLLM yourself, from a window in the past. Prometheus says how many tokens it
read and wrote and how long its GPUs were busy; OpenCost or Kubecost says what its pods cost, with their share of what
the cluster had idle. The price charges a call by the GPU time of its tokens, so that the window's tokens come to the
window's cost.

GPU time of input and output tokens: least squares of busy GPU-seconds on both, over steps of the window, neither below
0. Where the steps cannot tell the two apart, an output token counts as --output-ratio input tokens, and the output says so.

Idle cost: 'proportional' shares idle GPUs by the workloads' GPU cost, CPUs by CPU cost and memory by memory cost; 'even'
gives every pod of the cluster the same; 'none' leaves it out.

Tokens for the two APIs come from files or from ` + prometheusTokenVariable + ` and ` + opencostTokenVariable + `. Certificates are
checked against the system's; SSL_CERT_FILE names others.`,
		Example: `  chartergate calibrate --prometheus http://localhost:9090 --opencost http://localhost:9003 --model meta-llama/Llama-3.3-70B-Instruct
  chartergate calibrate … --last 168h --as llama-3.3-70b-instruct --overhead 12 -o yaml | chartergate apply -f -
  chartergate calibrate --prometheus http://localhost:9090 --gpu-hour 2.60 --gpus-per-replica 4 --model qwen3-32b`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.prometheus.url, "prometheus", "", "address of Prometheus, or of what has its API")
	f.StringVar(&o.prometheus.tokenFile, "prometheus-token-file", "", "file with the bearer token for Prometheus; default "+prometheusTokenVariable+" of the environment, if set")
	f.StringVar(&o.opencost.url, "opencost", "", "address of OpenCost (http://localhost:9003), or of Kubecost with its path (http://localhost:9090/model)")
	f.StringVar(&o.opencost.tokenFile, "opencost-token-file", "", "file with the bearer token for OpenCost; default "+opencostTokenVariable+" of the environment, if set")
	f.StringVar(&o.gpuHour, "gpu-hour", "", "what an hour of one GPU costs, instead of OpenCost, such as 2.60")
	f.StringVar(&o.VLLMModel, "model", "", "the model_name of vLLM's metrics")
	f.StringVar(&o.Model, "as", "", "the model's id in the catalog and the price (default --model)")
	f.DurationVar(&o.last, "last", 7*24*time.Hour, "window: so long until --to, whole hours")
	f.StringVar(&o.from, "from", "", "start of the window, such as 2026-11-01T00:00:00Z, instead of --last")
	f.StringVar(&o.to, "to", "", "end of the window (default the last whole hour)")
	f.DurationVar(&o.Step, "step", 5*time.Minute, "steps of the regression")
	f.StringVar(&o.busy, "busy", string(calibrate.BusyAuto), "busy time: dcgm (dcgm-exporter), requests (a replica with a running request is busy), auto (dcgm where it has the pods)")
	f.IntVar(&o.GPUsPerReplica, "gpus-per-replica", 0, "GPUs of one vLLM engine (default OpenCost's GPU-hours by the engines' hours, or as many as DCGM has)")
	f.Float64Var(&o.Ratio, "output-ratio", 2.5, "input tokens that take as long as one output token, where the regression cannot tell; 2.5 is OpenCost's")
	f.StringVar(&o.idle, "idle", string(calibrate.IdleProportional), "how idle cost is shared: proportional, even, none")
	f.StringVar(&o.Selection.Namespace, "namespace", "", "only pods of this namespace")
	f.StringVar(&o.Selection.Controller, "controller", "", "the cost of this Deployment's or StatefulSet's pods (default the pods that vLLM's metrics name)")
	f.StringToStringVar(&o.labels, "label", nil, "the cost of the pods with this label, app=llama")
	f.Float64Var(&o.overhead, "overhead", 0, "operational overhead on everything, in per cent")
	f.StringVar(&o.storage, "storage-rate", "", "what reading a million bytes from storage costs; the pods' storage is not in the GPU rate then")
	f.StringVar(&o.egress, "egress-rate", "", "what a million bytes of egress cost; the pods' network is not in the GPU rate then")
	f.StringVar(&o.Accelerator, "accelerator", "", "for the price's source (default as DCGM or OpenCost name it)")
	f.BoolVar(&o.ByAccelerator, "by-accelerator", false, "charge usage that names --accelerator; usage that names none then has no price")
	f.StringVar(&o.Currency, "currency", "USD", "OpenCost's currency, ISO 4217")
	f.StringVar(&o.effective, "effective", "", "when the price takes effect (default the end of the window)")
	f.StringVar(&o.book, "book", "", "name of the price book (default from the model and the date, so that no older price is replaced)")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait for an answer")
	f.StringVarP(&o.output, "output", "o", "table", "table, json, or yaml: the price book, for apply")
	completeFlag(cmd, "output", func() []string { return outputs })
	completeFlag(cmd, "idle", func() []string { return texts(calibrate.Idles) })
	completeFlag(cmd, "busy", func() []string { return texts(calibrate.Sources) })
	return cmd
}

// Tokens, where no file names them.
const (
	prometheusTokenVariable = "CHARTERGATE_PROMETHEUS_TOKEN"
	opencostTokenVariable   = "CHARTERGATE_OPENCOST_TOKEN"
)

func texts[T ~string](values []T) []string {
	var s []string
	for _, v := range values {
		s = append(s, string(v))
	}
	return s
}

func (o *calibrateOptions) run(cmd *cobra.Command) error {
	if err := o.parse(); err != nil {
		return err
	}
	r, err := calibrate.Run(cmd.Context(), o.Options)
	if err != nil {
		return err
	}
	book := convert.PriceBookToProto(&charter.PriceBook{ID: o.book, Currency: o.Currency, Prices: []*pricing.Price{r.Price}})
	return o.write(cmd.OutOrStdout(), r, book)
}

// parse reads what flags cannot check themselves.
func (o *calibrateOptions) parse() error {
	var err error
	if o.prometheus.url == "" || o.VLLMModel == "" {
		return usagef("--prometheus and --model are needed")
	}
	if (o.opencost.url == "") == (o.gpuHour == "") {
		return usagef("give --opencost, or --gpu-hour where no OpenCost runs")
	}
	if !slices.Contains(outputs, o.output) {
		return usagef("unknown output %q: use %s", o.output, strings.Join(outputs, ", "))
	}
	if o.Prometheus, err = o.prometheus.endpoint("--prometheus-token-file", prometheusTokenVariable, o.timeout); err != nil {
		return err
	}
	if o.opencost.url != "" {
		e, err := o.opencost.endpoint("--opencost-token-file", opencostTokenVariable, o.timeout)
		if err != nil {
			return err
		}
		o.OpenCost = &e
	}
	o.To = o.now().UTC().Truncate(time.Hour)
	for _, t := range []struct {
		flag, text string
		into       *time.Time
	}{{"--to", o.to, &o.To}, {"--from", o.from, &o.From}, {"--effective", o.effective, &o.Effective}} {
		if t.text == "" {
			continue
		}
		if *t.into, err = time.Parse(time.RFC3339, t.text); err != nil {
			return usagef("%s %q: use a time such as 2026-11-01T00:00:00Z", t.flag, t.text)
		}
	}
	if o.from == "" {
		o.From = o.To.Add(-o.last)
	}
	if o.effective == "" {
		o.Effective = o.To
	}
	for _, a := range []struct {
		flag, text string
		set        func(money.Nanos)
	}{
		{"--gpu-hour", o.gpuHour, func(n money.Nanos) { o.GPUHour = n }},
		{"--storage-rate", o.storage, func(n money.Nanos) { o.Storage = &n }},
		{"--egress-rate", o.egress, func(n money.Nanos) { o.Egress = &n }},
	} {
		if a.text == "" {
			continue
		}
		n, err := money.Parse(a.text)
		if err != nil || n < 0 {
			return usagef("%s is %q: write an amount such as 2.60", a.flag, a.text)
		}
		a.set(n)
	}
	if !(o.overhead >= 0 && o.overhead <= 1000) {
		return usagef("--overhead is %v: write per cent from 0 to 1000", o.overhead)
	}
	o.OverheadPPM = int64(o.overhead*10_000 + 0.5)
	o.Busy, o.Idle, o.Selection.Labels = calibrate.Busy(o.busy), calibrate.Idle(o.idle), o.labels
	o.Model = cmp.Or(o.Model, o.VLLMModel)
	o.book = cmp.Or(strings.TrimPrefix(o.book, "priceBooks/"), bookName(o.Model, o.Effective))
	if !regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`).MatchString(o.book) {
		return usagef("--book is %q: write a lower-case letter, then at most 62 letters, digits and hyphens", o.book)
	}
	if !regexp.MustCompile(`^[A-Z]{3}$`).MatchString(o.Currency) {
		return usagef("--currency is %q: write an ISO 4217 code such as USD", o.Currency)
	}
	return nil
}

func (e *endpointFlags) endpoint(flag, variable string, timeout time.Duration) (calibrate.Endpoint, error) {
	token := os.Getenv(variable)
	if e.tokenFile != "" {
		data, err := os.ReadFile(e.tokenFile)
		if err != nil {
			return calibrate.Endpoint{}, fmt.Errorf("%s: %w", flag, err)
		}
		if token = strings.TrimSpace(string(data)); token == "" || len(token) > 16<<10 {
			return calibrate.Endpoint{}, fmt.Errorf("%s: %s holds no token", flag, e.tokenFile)
		}
	}
	return calibrate.Endpoint{URL: e.url, Token: token, Timeout: timeout}, nil
}

// bookName is a price book of one calibration.
func bookName(model string, effective time.Time) string {
	name := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(model[strings.LastIndexByte(model, '/')+1:]), "-"), "-")
	return "calibrated-" + strings.TrimRight(name[:min(len(name), 40)], "-") + effective.UTC().Format("-20060102t15")
}

func (o *calibrateOptions) write(w io.Writer, r *calibrate.Result, book *pb.PriceBook) error {
	switch o.output {
	case "yaml":
		var b strings.Builder
		calibrationFacts(r).write(&b)
		for line := range strings.Lines(b.String()) {
			if _, err := fmt.Fprint(w, "# ", line); err != nil {
				return err
			}
		}
		return writeManifests(w, []*pb.Resource{{Resource: &pb.Resource_PriceBook{PriceBook: book}}})
	case "json":
		var b strings.Builder
		if err := writeJSON(&b, book); err != nil {
			return err
		}
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(struct {
			*calibrate.Result
			PriceBook json.RawMessage `json:"price_book"`
		}{r, json.RawMessage(b.String())})
	}
	calibrationFacts(r).write(w)
	_, err := fmt.Fprintln(w, "\nWith -o yaml this is the price book "+bareID(book.GetName())+", for `chartergate apply -f -`.")
	return err
}

// calibrationFacts are what people check a calibration by.
func calibrationFacts(r *calibrate.Result) facts {
	var f facts
	cost, currency := r.Cost, r.Cost.Currency
	f.add("model", r.VLLMModel+" as "+r.Model)
	f.add("window", r.From.UTC().Format(time.RFC3339)+" to "+r.To.UTC().Format(time.RFC3339))
	f.add("tokens", fmt.Sprintf("%s in, %s out, %s calls", thousands(r.InputTokens), thousands(r.OutputTokens), thousands(r.Calls)))
	f.add("replicas", fmt.Sprintf("%d for %.1f hours in all, %d counters restarted", r.Replicas, r.ReplicaHours, r.Resets))
	gpus := fmt.Sprintf("%.1f hours, of them %.1f busy (%.1f%%), by %s", r.GPUHours, r.BusyHours, 100*r.BusyHours/r.GPUHours, r.Busy)
	if r.Accelerator != "" {
		gpus = r.Accelerator + ", " + gpus
	}
	f.add("GPUs", gpus)
	if cost.Cluster != 0 {
		f.add("cost", fmt.Sprintf("%s %s: %s of %d pods, and %s of %s idle (%s)", cost.Recovered, currency, cost.Direct, cost.Pods, cost.Idle, cost.IdleAll, cost.Rule))
		f.add("cluster", fmt.Sprintf("%s %s", cost.Cluster, currency))
	} else {
		f.add("cost", fmt.Sprintf("%s %s by the rate given", cost.Recovered, currency))
	}
	method := fmt.Sprintf("1 output token taken as %.4g input tokens: %s", r.Fit.Output/r.Fit.Input, r.Fit.Why)
	if r.Fit.Method == calibrate.Regression {
		method = fmt.Sprintf("regression over %d steps (%d with gaps left out), R2 %.3f", r.Fit.Steps, r.Fit.Unused, *r.Fit.R2)
	}
	f.add("method", method)
	f.add("GPU time", fmt.Sprintf("1,000 input tokens %.4g s%s, output %.4g s%s", r.Fit.Input, rangeText(r, r.Fit.InputRange), r.Fit.Output, rangeText(r, r.Fit.OutputRange)))
	f.add("GPU-hour", fmt.Sprintf("%s %s, while busy %s: what the price charges", r.GPUHourNanos, currency, r.BusyHourNanos))
	f.add("check", fmt.Sprintf("the price gives %s for the tokens, rounding of the rate allows %d nanos; calls rounded up to a millisecond add at most %s", r.Check.Price, r.Check.Allowed, r.Check.PerCall))
	return f
}

// rangeText is the range of a regression.
func rangeText(r *calibrate.Result, of *[2]float64) string {
	if r.Fit.Method != calibrate.Regression || of == nil {
		return ""
	}
	return fmt.Sprintf(" (%.4g to %.4g)", of[0], of[1])
}
