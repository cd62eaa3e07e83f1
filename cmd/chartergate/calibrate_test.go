package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/chartergate/chartergate/manifest"
)

// vllm answers Prometheus queries of raw samples for a model on one engine with four GPUs, whose share of output changes by
// the hour, one sample a minute since 1970.
func vllm(w http.ResponseWriter, r *http.Request) {
	q := regexp.MustCompile(`^([\w:]+)\{.*\}\[(\d+)ms\]$`).FindStringSubmatch(r.FormValue("query"))
	if r.Header.Get("Authorization") != "Bearer s3cret" || q == nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	at, _ := strconv.ParseFloat(r.FormValue("time"), 64)
	length, _ := strconv.ParseInt(q[2], 10, 64)
	labels := map[string]string{"__name__": q[1], "model_name": "meta-llama/Llama-3.3-70B-Instruct", "namespace": "inference", "pod": "llama-0"}
	if strings.HasPrefix(q[1], "DCGM") {
		labels["modelName"] = "NVIDIA H100 80GB HBM3"
	}
	hour := func(minute int64) float64 { return 2 * math.Pi * float64(minute%1440) / 60 }
	// What was counted by a minute: the integral of a rate that swings by the hour.
	read := func(m int64) float64 { return math.Floor(200_000*float64(m) + 900_000*math.Sin(hour(m))) }
	wrote := func(m int64) float64 { return math.Floor(40_000*float64(m) - 200_000*math.Cos(hour(m)) + 200_000) }
	value := func(m int64) float64 {
		switch q[1] {
		case "vllm:prompt_tokens_total":
			return read(m)
		case "vllm:generation_tokens_total":
			return wrote(m)
		case "vllm:request_success_total":
			return float64(m * 150)
		}
		return (0.0004*(read(m)-read(m-1)) + 0.0016*(wrote(m)-wrote(m-1))) / 240 * (1 + 0.02*math.Sin(float64(m*m)))
	}
	var values [][2]any
	for m := (int64(at*1000)-length)/60_000 + 1; m*60 <= int64(at); m++ {
		values = append(values, [2]any{m * 60, strconv.FormatFloat(value(m), 'f', -1, 64)})
	}
	result := []any{map[string]any{"metric": labels, "values": values}}
	if strings.Contains(q[0], "exported_pod") {
		result = []any{}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "matrix", "result": result}})
}

// opencost answers for that model's pod and another.
func opencost(w http.ResponseWriter, r *http.Request) {
	from, to, _ := strings.Cut(r.FormValue("window"), ",")
	entry := func(name, namespace, pod string, gpu, cpu, ram float64) string {
		return fmt.Sprintf(`%q:{"name":%[1]q,"properties":{"namespace":%q,"pod":%q},"window":{"start":%q,"end":%q},"gpuHours":%v,"gpuCost":%v,"cpuCost":%v,"ramCost":%v,"totalCost":%v,"cpuEfficiency":null}`,
			name, namespace, pod, from, to, gpu/2.6, gpu, cpu, ram, gpu+cpu+ram)
	}
	fmt.Fprintf(w, `{"code":200,"status":"success","data":[{%s,%s,%s}]}`, entry("acme/n1/inference/llama-0/vllm", "inference", "llama-0", 249.6, 11.52188, 5.7601),
		entry("acme/n1/web/shop-1/shop", "web", "shop-1", 0, 20.16667, 10.50001), entry("acme/__idle__", "", "", 62.4, 8.625, 4.0625))
}

func TestCalibratedPriceIsApplied(t *testing.T) {
	prometheus, costs := httptest.NewServer(http.HandlerFunc(vllm)), httptest.NewServer(http.HandlerFunc(opencost))
	defer prometheus.Close()
	defer costs.Close()
	token := writeFile(t, "s3cret\n")
	c := cli{t: t, flags: []string{"--prometheus", prometheus.URL, "--prometheus-token-file", token, "--opencost", costs.URL, "--model", "meta-llama/Llama-3.3-70B-Instruct",
		"--as", "llama-3.3-70b-instruct", "--last", "24h", "--to", "2026-11-23T00:00:00Z", "--overhead", "12"}}

	table := c.ok("calibrate")
	t.Log("\n" + table)
	c.contains(table, "288,000,000 in, 57,600,000 out, 216,000 calls", "NVIDIA H100 80GB HBM3, 96.0 hours", "regression over 288 steps",
		"cost      333.857138742 USD: 266.88198 of 1 pods, and 66.975158742 of 75.0875 idle (proportional)")
	out := c.ok("calibrate", "-o", "yaml")
	t.Log("\n" + out)
	if _, err := manifest.Parse("calibrated", []byte(out)); err != nil {
		t.Fatal(err)
	}
	var result struct {
		Cost struct {
			RecoveredNanos int64 `json:"recovered_nanos"`
		}
		Check struct {
			Price   int64 `json:"price_nanos"`
			Allowed int64 `json:"allowed_nanos"`
		}
		Book struct{ Name string } `json:"price_book"`
	}
	if err := json.Unmarshal([]byte(c.ok("calibrate", "-o", "json")), &result); err != nil {
		t.Fatal(err)
	}
	if d := result.Check.Price - result.Cost.RecoveredNanos; max(d, -d) > result.Check.Allowed || result.Book.Name != "priceBooks/calibrated-llama-3-3-70b-instruct-20261123t00" {
		t.Errorf("%+v", result)
	}

	addr, _ := startExamples(t)
	server := cli{t, []string{"--server", addr}}
	exit, applied, errs := server.run(out, "apply", "-f", "-")
	if exit != exitOK {
		t.Fatalf("exit %d: %s", exit, errs)
	}
	server.contains(applied, "+ priceBooks/calibrated-llama-3-3-70b-instruct-20261123t00 created")

	bad := cli{t: t, flags: append(c.flags, "--prometheus-token-file", writeFile(t, "wrong"))}
	bad.fails(exitFailed, []string{"answers 401 Unauthorized", "token"}, "calibrate")
	bad.flags = append(c.flags, "--last", "90m")
	bad.fails(exitFailed, []string{"whole hours"}, "calibrate")
	c.fails(exitFailed, []string{"no such file"}, "calibrate", "--opencost-token-file", token+"x")
	c.fails(exitUsage, []string{"give --opencost, or --gpu-hour"}, "calibrate", "--gpu-hour", "2.60")
	c.fails(exitUsage, []string{"--egress-rate is \"x\""}, "calibrate", "--egress-rate", "x")
}

func writeFile(t *testing.T, content string) string {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
