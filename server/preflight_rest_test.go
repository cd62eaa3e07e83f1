package server

import (
	"net/url"
	"strings"
	"testing"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// What curl sends and gets.
func TestRESTPreflight(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9, daily("each", "acme", 1e9, perKey(chartergatev1.BudgetKey_BUDGET_KEY_USER)), allTiers("agents", "each"))
	const reserve = `{"call":{"feature":"chat","tier":"economy","estimate":{"input_tokens":1000,"max_output_tokens":500}},"ttl":"60s","request_id":"r-1"}`
	r := g.rest(t, "POST", "/v1/preflight:reserve", reserve, 200)
	decision, hold := r["decision"].(map[string]any), r["hold"].(map[string]any)
	if decision["effect"] != "EFFECT_ALLOW" || decision["model"] != "small" || decision["tier"] != "economy" || decision["estimated_cost_nanos"] != "2000000" ||
		decision["max_output_tokens"] != "500" || decision["currency"] != "USD" {
		t.Errorf("the decision is %v", decision)
	}
	token, _ := hold["token"].(string)
	if token == "" || hold["amount_nanos"] != "2000000" || hold["expire_time"] != "2026-11-23T12:01:00Z" {
		t.Errorf("the hold is %v", hold)
	}
	if again := g.rest(t, "POST", "/v1/preflight:reserve", reserve, 200); again["hold"].(map[string]any)["token"] != token {
		t.Errorf("again gives %v", again)
	}
	s := g.rest(t, "POST", "/v1/preflight:settle", `{"hold":"`+token+`","usage":{"input_tokens":"1000","output_tokens":100}}`, 200)["settlement"].(map[string]any)
	if s["cost_nanos"] != "1200000" || s["released_nanos"] != "800000" || s["late"] != false || len(s["lines"].([]any)) != 2 {
		t.Errorf("the settlement is %v", s)
	}
	if st := g.rest(t, "GET", "/v1/budgets/support:status", "", 200); st["settled_nanos"] != "1200000" || st["remaining_nanos"] != "998800000" {
		t.Errorf("the status is %v", st)
	}
	if list := g.rest(t, "GET", "/v1/budgets:statuses?budget=budgets/acme&page_size=1", "", 200); len(list["statuses"].([]any)) != 1 || list["next_page_token"] == "" {
		t.Errorf("the statuses are %v", list)
	}
	if d := g.rest(t, "POST", "/v1/preflight:check", `{"call":{"feature":"chat","estimate":{"input_tokens":1000000}}}`, 200)["decision"].(map[string]any); d["effect"] != "EFFECT_DENY" ||
		d["reasons"].([]any)[0] == nil {
		t.Errorf("a refusal is %v", d)
	}

	for _, key := range oddKeys {
		if key == ".." { // paths are cleaned of it on their way
			continue
		}
		g.rest(t, "POST", "/v1/usage:record", `{"feature":"agents","model":"small","user":"`+key+`","usage":{"input_tokens":1},"request_id":"`+url.QueryEscape(key)[:min(60, len(url.QueryEscape(key)))]+`"}`, 200)
		if st := g.rest(t, "GET", "/v1/budgets/each/keys/"+url.PathEscape(key)+":status", "", 200); st["name"] != "budgets/each/keys/"+key || st["settled_nanos"] != "1000" {
			t.Errorf("the status of key %q is %v", key, st)
		}
	}

	for name, c := range map[string]struct {
		path, body string
		status     int
		code       float64
		reason     string
		metadata   map[string]any
		says       string
	}{
		"an unknown feature": {"reserve", `{"call":{"feature":"nobody","estimate":{}}}`, 404, 5, "FEATURE_UNKNOWN", map[string]any{"feature": "nobody"}, "apply one"},
		"no call":            {"reserve", `{}`, 400, 3, "INVALID", map[string]any{"field": "call"}, "call: value is required"},
		"negative tokens": {"reserve", `{"call":{"feature":"chat","estimate":{"input_tokens":-1}}}`, 400, 3, "INVALID",
			map[string]any{"field": "call.estimate.input_tokens"}, "greater than or equal to 0"},
		"another body":       {"reserve", strings.Replace(reserve, "1000", "1001", 1), 409, 6, "REQUEST_ID_CONFLICT", map[string]any{"request_id": "r-1"}, "take a new id"},
		"garbage for a hold": {"settle", `{"hold":"garbage","usage":{}}`, 404, 5, "HOLD_UNKNOWN", nil, "not one of this ledger's"},
		"settled for something else": {"settle", `{"hold":"` + token + `","usage":{"input_tokens":1}}`, 400, 9, "HOLD_SETTLED",
			map[string]any{"settled_nanos": "1200000"}, "a hold settles once"},
		"tokens of a fraction": {"settle", `{"hold":"` + token + `","usage":{"input_tokens":1.5}}`, 400, 3, "INVALID", nil, "inputTokens"},
	} {
		t.Run(name, func(t *testing.T) {
			e := g.rest(t, "POST", "/v1/preflight:"+c.path, c.body, c.status)
			info := e["details"].([]any)[0].(map[string]any)
			if e["code"] != c.code || info["reason"] != c.reason || info["domain"] != ErrorDomain || !strings.Contains(e["message"].(string), c.says) {
				t.Errorf("the error is %v", e)
			}
			for k, v := range c.metadata {
				if got := info["metadata"].(map[string]any)[k]; got != v {
					t.Errorf("metadata %s is %v, want %v", k, got, v)
				}
			}
		})
	}
}
