package calibrate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// scrape is a Prometheus that answers queries of raw samples, in its API's words.
type scrape struct {
	series []*scraped
	byKey  map[string]*scraped
	token  string
	closed bool // ranges include their start, as before Prometheus 3
}

type scraped struct {
	labels  map[string]string
	samples []sample
}

// add adds a sample to the series of a name and labels.
func (s *scrape) add(at time.Time, v float64, labels ...string) {
	key := strings.Join(labels, "\x00")
	x := s.byKey[key]
	if x == nil {
		x = &scraped{labels: map[string]string{"__name__": labels[0]}}
		for i := 1; i < len(labels); i += 2 {
			x.labels[labels[i]] = labels[i+1]
		}
		if s.byKey == nil {
			s.byKey = map[string]*scraped{}
		}
		s.series, s.byKey[key] = append(s.series, x), x
	}
	x.samples = append(x.samples, sample{at.UnixMilli(), v})
}

var (
	rangeQuery = regexp.MustCompile(`^([\w:]+)\{(.*)\}\[(\d+)ms\]$`)
	matcher    = regexp.MustCompile(`(\w+)(=~?)("(?:[^"\\]|\\.)*"),?`)
)

func (s *scrape) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "Unauthorized")
		return
	}
	if r.URL.Path != "/api/v1/query" {
		http.NotFound(w, r)
		return
	}
	type result struct {
		Metric map[string]string `json:"metric"`
		Values [][2]any          `json:"values,omitempty"`
		Value  *[2]any           `json:"value,omitempty"`
	}
	answer := func(kind string, results []result) {
		if results == nil {
			results = []result{}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": kind, "result": results}})
	}
	query := r.FormValue("query")
	at, _ := strconv.ParseFloat(r.FormValue("time"), 64)
	if query == "group by (model_name) (vllm:generation_tokens_total)" {
		var found []result
		for _, x := range s.series {
			if x.labels["__name__"] == outputTokens {
				found = append(found, result{Metric: map[string]string{"model_name": x.labels["model_name"]}, Value: &[2]any{at, "1"}})
			}
		}
		answer("vector", found)
		return
	}
	q := rangeQuery.FindStringSubmatch(query)
	if q == nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": %s"}`, "1:1: parse error")
		return
	}
	length, _ := strconv.ParseInt(q[3], 10, 64)
	var found []result
series:
	for _, x := range s.series {
		if x.labels["__name__"] != q[1] {
			continue
		}
		for _, m := range matcher.FindAllStringSubmatch(q[2], -1) {
			want, _ := strconv.Unquote(m[3])
			if m[2] == "=" && x.labels[m[1]] != want || m[2] == "=~" && !regexp.MustCompile("^(?:"+want+")$").MatchString(x.labels[m[1]]) {
				continue series
			}
		}
		out := result{Metric: x.labels}
		for _, p := range x.samples {
			if end := int64(at * 1000); (p.at > end-length || s.closed && p.at == end-length) && p.at <= end {
				out.Values = append(out.Values, [2]any{float64(p.at) / 1000, strconv.FormatFloat(p.v, 'f', -1, 64)})
			}
		}
		if len(out.Values) > 0 {
			found = append(found, out)
		}
	}
	answer("matrix", found)
}

// cluster is an OpenCost: containers with their costs, by name.
type cluster struct {
	from, to   time.Time
	containers map[string]map[string]any
	requests   []string
	raw        string // what it answers instead
	code       int
}

func (c *cluster) container(namespace, pod, name string, hours, gpuHours, gpu, cpu, ram, pv, network float64) {
	if c.containers == nil {
		c.containers = map[string]map[string]any{}
	}
	key := "acme/node-1/" + namespace + "/" + pod + "/" + name
	c.containers[key] = c.entry(key, map[string]any{
		"cluster": "acme", "node": "node-1", "container": name, "controller": "llama", "controllerKind": "deployment", "namespace": namespace,
		"pod": pod, "labels": map[string]string{"app_kubernetes_io_name": name},
	}, hours, gpuHours, gpu, cpu, ram, pv, network)
}

func (c *cluster) idle(gpu, cpu, ram float64) {
	c.containers["acme/__idle__"] = c.entry("acme/__idle__", map[string]any{"cluster": "acme"}, 48, 0, gpu, cpu, ram, 0, 0)
}

func (c *cluster) entry(name string, properties map[string]any, hours, gpuHours, gpu, cpu, ram, pv, network float64) map[string]any {
	window := map[string]any{"start": c.from.Format(time.RFC3339), "end": c.to.Format(time.RFC3339)}
	return map[string]any{
		"name": name, "properties": properties, "window": window, "start": window["start"], "end": window["end"], "minutes": hours * 60,
		"cpuCores": 8, "cpuCoreHours": 8 * hours, "cpuCost": cpu, "cpuCostAdjustment": 0, "cpuEfficiency": nil,
		"gpuCount": gpuHours / hours, "gpuHours": gpuHours, "gpuCost": gpu, "gpuCostAdjustment": 0, "gpuEfficiency": nil,
		"networkTransferBytes": 1e9, "networkCost": network, "networkCostAdjustment": 0, "loadBalancerCost": 0, "pvCost": pv, "pvCostAdjustment": 0,
		"ramCost": ram, "ramCostAdjustment": 0, "sharedCost": 0, "externalCost": 0, "totalCost": gpu + cpu + ram + pv + network, "totalEfficiency": 0.4,
	}
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.requests = append(c.requests, r.URL.Path+"?"+r.URL.RawQuery)
	w.Header().Set("Content-Type", "application/json")
	if c.code != 0 {
		w.WriteHeader(c.code)
	}
	if c.raw != "" {
		fmt.Fprint(w, c.raw)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"code": 200, "status": "success", "data": []any{c.containers}})
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
