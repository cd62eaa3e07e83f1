package server

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/chartergate/chartergate/core/routing"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func (r *rig) get(t *testing.T, path string, want int) string {
	t.Helper()
	return r.send(t, http.MethodGet, path, "", want, nil)
}

func (r *rig) send(t *testing.T, method, path, body string, want int, change func(*http.Request)) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Fatalf("%s %s gives %d, want %d: %s", method, path, resp.StatusCode, want, text)
	}
	return string(text)
}

func TestREST(t *testing.T) {
	r := start(t)
	r.company(t)
	made := r.rest(t, "POST", "/v1/budgets?request_id=one", `{"name":"budgets/beta","parent":"budgets/acme","owner":{"name":"Kim"},"limit_nanos":"5000000000","period":{"calendar":"CALENDAR_PERIOD_DAY"}}`, 200)
	if made["limit_nanos"] != "5000000000" || made["currency"] != "USD" || made["etag"] == "" {
		t.Errorf("POST gives %v", made)
	}
	if made["rollover_cap_nanos"] != "0" {
		t.Errorf("a 0 is left out: %v", made)
	}
	got := r.rest(t, "GET", "/v1/budgets/beta", "", 200)
	if got["etag"] != made["etag"] {
		t.Errorf("GET gives %v", got)
	}
	// PATCH changes what the body names, and no more.
	patched := r.rest(t, "PATCH", "/v1/budgets/beta", `{"limit_nanos":"7","owner":{"email":"kim@example.com"},"labels":{"a":"b"}}`, 200)
	if patched["limit_nanos"] != "7" || patched["parent"] != "budgets/acme" ||
		patched["owner"].(map[string]any)["name"] != "Kim" || patched["owner"].(map[string]any)["email"] != "kim@example.com" {
		t.Errorf("PATCH gives %v", patched)
	}
	stale := r.rest(t, "PATCH", "/v1/budgets/beta", `{"limit_nanos":"8","etag":"`+made["etag"].(string)+`"}`, 409)
	if stale["code"] != float64(10) || stale["details"].([]any)[0].(map[string]any)["reason"] != "ETAG_MISMATCH" {
		t.Errorf("a stale etag gives %v", stale)
	}
	if list := r.rest(t, "GET", "/v1/budgets?page_size=2", "", 200); len(list["budgets"].([]any)) != 2 || list["next_page_token"] == nil {
		t.Errorf("the list is %v", list)
	}
	r.rest(t, "DELETE", "/v1/budgets/beta?validate_only=true", "", 200)
	r.rest(t, "DELETE", "/v1/budgets/beta", "", 200)
	if gone := r.rest(t, "GET", "/v1/budgets/beta", "", 404); gone["message"] != "there is no budgets/beta" {
		t.Errorf("a missing budget gives %v", gone)
	}
	if catalog := r.rest(t, "GET", "/v1/catalog", "", 200); len(catalog["models"].([]any)) != 2 {
		t.Errorf("the catalog is %v", catalog)
	}
	if price := r.rest(t, "GET", "/v1/prices:lookup?model=small", "", 200); price["input_nanos"] != "150000000" {
		t.Errorf("the price is %v", price)
	}
	body, err := protojson.Marshal(apply(&chartergatev1.Policy{Name: routingPolicy, Modules: map[string]string{"routing.rego": regoAllow}}))
	if err != nil {
		t.Fatal(err)
	}
	if applied := r.rest(t, "POST", "/v1/manifests:apply", string(body), 200); applied["results"].([]any)[0].(map[string]any)["action"] != "APPLY_ACTION_CREATED" {
		t.Errorf("apply gives %v", applied)
	}
	active := r.rest(t, "GET", "/v1/policies/routing", "", 200)["active_revision"].(string)
	if revision := r.rest(t, "GET", "/v1/"+active, "", 200); revision["active"] != true {
		t.Errorf("the revision is %v", revision)
	}
	if again := r.rest(t, "POST", "/v1/"+active+":activate", "{}", 200); again["active_revision"] != active {
		t.Errorf("activation gives %v", again)
	}
}

func TestRESTBadInput(t *testing.T) {
	r := start(t)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"unknown field":  {"POST", "/v1/budgets", `{"name":"budgets/x","limit":5}`, 400, `unknown field "limit"`},
		"unknown query":  {"DELETE", "/v1/budgets/x?validate_onli=true", ``, 400, `unknown query parameter "validate_onli"`},
		"malformed JSON": {"POST", "/v1/budgets", `{"name":`, 400, "unexpected"},
		"wrong type":     {"POST", "/v1/budgets", `{"limit_nanos":"many"}`, 400, "limitNanos"},
		"bad value":      {"POST", "/v1/budgets", `{"name":"budgets/x"}`, 400, "budget.owner"},
		"too large":      {"POST", "/v1/budgets", `{"name":"` + strings.Repeat("x", maxMessageBytes) + `"}`, 400, "larger than"},
		"unknown path":   {"GET", "/v1/nothing", "", 404, "Not Found"},
		"empty patch":    {"PATCH", "/v1/charters/chat", `{}`, 400, "charter.owner"},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.rest(t, c.method, c.path, c.body, c.status)
			if text, _ := got["message"].(string); !strings.Contains(text, c.says) || strings.HasPrefix(text, "proto") {
				t.Errorf("message is %q, want %q in it", text, c.says)
			}
			if c.status == 400 && got["details"].([]any)[0].(map[string]any)["reason"] != "INVALID" {
				t.Errorf("details are %v", got["details"])
			}
		})
	}
}

func TestOnlyThisMachinesPages(t *testing.T) {
	r := start(t)
	r.send(t, "GET", "/v1/budgets", "", http.StatusMisdirectedRequest, func(req *http.Request) { req.Host = "evil.example:7071" })
	r.send(t, "GET", "/v1/budgets", "", 200, func(req *http.Request) { req.Host = "localhost:7071" })
	r.send(t, "POST", "/v1/budgets", "{}", http.StatusForbidden, func(req *http.Request) { req.Header.Set("Sec-Fetch-Site", "cross-site") })
}

func TestOpenAPI(t *testing.T) {
	r := start(t)
	var doc struct {
		Swagger string
		Paths   map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(r.get(t, "/openapi.json", 200)), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Swagger != "2.0" {
		t.Errorf("swagger is %q", doc.Swagger)
	}
	for path, method := range map[string]string{"/v1/preflight:reserve": "post", "/v1/charters": "get", "/v1/manifests:apply": "post", "/v1/catalog": "put"} {
		if doc.Paths[path][method] == nil {
			t.Errorf("%s %s is not described", method, path)
		}
	}
}

func TestMetrics(t *testing.T) {
	var m *Metrics
	r := start(t, func(c *Config) { m = NewMetrics(c.Registry) })
	m.Budgets(func() []BudgetGauge {
		return []BudgetGauge{{Budget: "support", Held: 5, Settled: 7, Limit: 100}, {Budget: "acme", Limit: 1000}}
	})
	m.Decision(routing.Deny)
	m.Decision(routing.Allow)
	m.Decision(routing.Allow)
	m.Decision(routing.EffectUnspecified)
	m.ReserveSeconds(.002)
	m.SettleSeconds(.02)
	m.Commit(3e6)
	m.Alert()
	text := r.get(t, "/metrics", 200)
	for _, line := range []string{
		`chartergate_decisions_total{effect="allow"} 2`, `chartergate_decisions_total{effect="deny"} 1`,
		`chartergate_decisions_total{effect="throttle"} 0`,
		`chartergate_reserve_seconds_bucket{le="0.0025"} 1`, `chartergate_settle_seconds_count 1`,
		`chartergate_etcd_commit_seconds_sum 0.003`, `chartergate_alerts_total 1`,
		`chartergate_budget_held_nanos{budget="support"} 5`, `chartergate_budget_settled_nanos{budget="support"} 7`,
		`chartergate_budget_limit_nanos{budget="acme"} 1000`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("metrics do not have %s:\n%s", line, text)
		}
	}
}

func TestMetricsShowAtMostAThousandBudgets(t *testing.T) {
	var m *Metrics
	r := start(t, func(c *Config) { m = NewMetrics(c.Registry) })
	states := make([]BudgetGauge, maxBudgetSeries+5)
	for i := range states {
		states[i].Budget = strings.Repeat("b", i+1)
	}
	m.Budgets(func() []BudgetGauge { return states })
	if n := strings.Count(r.get(t, "/metrics", 200), "chartergate_budget_held_nanos{"); n != maxBudgetSeries {
		t.Errorf("%d budgets are shown", n)
	}
}
