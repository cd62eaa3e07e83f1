package calibrate

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestErrorsSayWhatToDo(t *testing.T) {
	made := newWorld(daily)
	for _, c := range []struct {
		name   string
		change func(*world, *Options)
		want   string
	}{
		{"unreachable", func(_ *world, o *Options) { o.Prometheus.URL = "http://127.0.0.1:1" }, "Prometheus at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused"},
		{"no such series", func(_ *world, o *Options) { o.VLLMModel = "lama" }, `no samples of vllm:prompt_tokens_total for model_name "lama" in the window; it has them of ` + name + ", other"},
		{"no vLLM", func(w *world, _ *Options) { w.scrape.series = nil }, "no vLLM is scraped"},
		{"not Prometheus", func(w *world, o *Options) { o.Prometheus.URL = o.OpenCost.URL }, "is no Prometheus API v1"},
		{"wrong path", func(_ *world, o *Options) { o.Prometheus.URL += "/prom" }, "answers 404 Not Found"},
		{"no token", func(w *world, _ *Options) { w.scrape.token = "s3cret" }, "answers 401 Unauthorized: give it a token"},
		{"clear text", func(_ *world, o *Options) {
			o.Prometheus.URL, o.Prometheus.Token = "http://prometheus.example", "s3cret"
		}, "would go to prometheus.example unencrypted"},
		{"user", func(_ *world, o *Options) { o.Prometheus.URL = "https://me:s3cret@prometheus.example" }, "names a user"},
		{"no DCGM", func(w *world, o *Options) { o.Selection.Namespace, o.Busy = "inference", BusyDCGM; w.dropDCGM() }, "no DCGM metrics with the model's pods"},
		{"too few GPUs", func(_ *world, o *Options) { o.GPUsPerReplica = 1 }, "give the number of GPUs of a replica"},
		{"OpenCost's error", func(w *world, _ *Options) { w.cluster.code, w.raw = 400, "Invalid 'window' parameter" }, "answers 400 Bad Request: Invalid 'window' parameter"},
		{"OpenCost's error in JSON", func(w *world, _ *Options) { w.raw = `{"code":500,"message":"no data"}` }, "answers 500 Internal Server Error: no data"},
		{"a page", func(w *world, _ *Options) { w.raw = "<html>" }, "is not the JSON of OpenCost's /allocation"},
		{"a summary", func(w *world, _ *Options) { w.raw = `{"code":200,"data":{"sets":[]}}` }, "is not the JSON of OpenCost's /allocation"},
		{"no data", func(w *world, _ *Options) { w.raw = `{"code":200,"data":[null]}` }, "has no allocations from 2026-11-16T00:00:00Z to 2026-11-18T00:00:00Z"},
		{"another window", func(w *world, _ *Options) {
			w.cluster.from = from.Add(24 * time.Hour)
			w.container("a", "b", "c", 1, 0, 0, 0, 0, 0, 0)
		},
			"answers for 2026-11-17T00:00:00Z to 2026-11-18T00:00:00Z and not for"},
		{"absurd", func(w *world, _ *Options) { w.raw = `{"code":200,"data":[{"x":{"totalCost":1e999}}]}` }, `"1e999" is no amount`},
		{"no such pods", func(_ *world, o *Options) { o.Selection.Controller = "lama" }, "OpenCost knows no such pods"},
		{"negative", func(w *world, _ *Options) { w.scrape.series[0].samples[100].v = -1 }, "no such value can be"},
		{"scraped twice", func(w *world, _ *Options) {
			double := *w.scrape.series[0]
			double.labels = maps.Clone(double.labels)
			double.labels["job"] = "vllm-again"
			w.scrape.series = append(w.scrape.series, &double)
		}, "the engine is scraped twice"},
		{"idle GPUs", func(w *world, _ *Options) { w.busyAt(0) }, "the GPUs were never busy"},
		{"half hours", func(_ *world, o *Options) { o.From = from.Add(30 * time.Minute) }, "it must be whole hours"},
		{"two costs", func(_ *world, o *Options) { o.GPUHour = 1 }, "give one of them"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := made.copy()
			o := w.options(t)
			c.change(w, &o)
			_, err := Run(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

// copy is a world to change.
func (w *world) copy() *world {
	c := &world{cluster: cluster{from: w.from, to: w.to, containers: maps.Clone(w.containers)}}
	for _, s := range w.scrape.series {
		c.scrape.series = append(c.scrape.series, &scraped{maps.Clone(s.labels), slices.Clone(s.samples)})
	}
	return c
}

func (w *world) dropDCGM() {
	for _, s := range w.scrape.series {
		if strings.HasPrefix(s.labels["__name__"], "DCGM") {
			s.labels["exported_pod"] = ""
		}
	}
}

func (w *world) busyAt(v float64) {
	for _, s := range w.scrape.series {
		if strings.HasPrefix(s.labels["__name__"], "DCGM") {
			for i := range s.samples {
				s.samples[i].v = v
			}
		}
	}
}

func TestTokenGoesToTheEndpointOnly(t *testing.T) {
	w := newWorld(daily)
	w.scrape.token = "s3cret"
	o := w.options(t)
	o.Prometheus.Token = "s3cret"
	run(t, o)

	var leaked string
	thief := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { leaked = r.Header.Get("Authorization") }))
	o.Prometheus.URL = serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, thief, http.StatusTemporaryRedirect)
	}))
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "it redirects to "+thief) || leaked != "" {
		t.Errorf("%v; leaked %q", err, leaked)
	}
}

func TestLongAnswerIsNotRead(t *testing.T) {
	w := newWorld(daily)
	o := w.options(t)
	o.OpenCost.URL = serve(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write([]byte(`{"code":200,"data":[{"`))
		for range maxResponse>>20 + 1 {
			if _, err := rw.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	if _, err := Run(t.Context(), o); err == nil {
		t.Error("no error")
	}
}
