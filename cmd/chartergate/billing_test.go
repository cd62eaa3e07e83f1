package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const smallBill = `BilledCost,BillingAccountId,BillingCurrency,ChargePeriodStart,EffectiveCost,ListCost,ProviderName,ServiceName,ConsumedQuantity,ConsumedUnit,SkuMeter,Tags
1.25,acc,USD,2026-09-01T00:00:00Z,1.25,1.5,OpenAI,OpenAI API,1000,Tokens,gpt-4o input,"{""feature"":""chat""}"
-0.00000000025,acc,USD,2026-09-02T00:00:00Z,-0.00000000025,,OpenAI,OpenAI API,0,Tokens,gpt-4o output,
`

func runCLI(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asChild+"=1")
	var errs strings.Builder
	cmd.Stderr = &errs
	b, err := cmd.Output()
	if err != nil {
		return errs.String(), err
	}
	return string(b), nil
}

// A running server imports what it is sent, and the command line sums up and reconciles what is in its database.
func TestBillingOverTheServerAndItsDatabase(t *testing.T) {
	dir := t.TempDir()
	c, err := startServer(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stopChild(t, c)
	file, bad := filepath.Join(dir, "bill.csv"), filepath.Join(dir, "bad.csv")
	if err := os.WriteFile(file, []byte(smallBill), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte("a,b\n1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"FOCUS 1.1, imported", "FOCUS 1.1, already imported"} {
		if out, err := runCLI(t, "billing", "import", "--server", c.grpcAddr, file); err != nil || !strings.Contains(out, state) || !strings.Contains(out, "billed 1.24999999975") {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := runCLI(t, "billing", "import", "--server", c.grpcAddr, bad); err == nil || !strings.Contains(out, "the columns are those of no FOCUS") || strings.Count(out, "\n") != 1 {
		t.Errorf("%v: %s", err, out)
	}
	data := filepath.Join(dir, "data")
	if out, err := runCLI(t, "billing", "import", "--data-dir", data, file); err != nil || !strings.Contains(out, "already imported") {
		t.Errorf("%v: %s", err, out)
	}
	out, err := runCLI(t, "billing", "totals", "--data-dir", data, "--by", "model,feature,day", "-o", "json")
	var totals []totalJSON
	if err != nil || json.Unmarshal([]byte(out), &totals) != nil || len(totals) != 2 || totals[1].Billed != "1.25" || totals[1].Keys["feature"] != "chat" || totals[0].Billed != "-0.00000000025" ||
		totals[0].Lines != "0" {
		t.Errorf("%v: %s", err, out)
	}
	for path, want := range map[string]string{
		"sum":       `"billed_cost":"1.24999999975"`,
		"reconcile": `"cause":"missing_in_ledger"`,
		"accept":    `"amount_nanos":"1250000000"`,
	} {
		body := `{"from_day":"2026-09-01","to_day":"2026-10-01"}`
		if path == "accept" {
			body = `{"reconciliation":` + body + `}`
		}
		if got := post(t, "http://"+c.httpAddr+"/v1/billing:"+path, body); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	if out, err := runCLI(t, "billing", "reconcile", "--data-dir", data, "--from", "2026-09-01", "--to", "2026-10-01"); err != nil || strings.Contains(out, "proposed") {
		t.Errorf("after it was accepted: %v: %s", err, out)
	}
	if out, err := runCLI(t, "billing", "totals", "--data-dir", data, "--by", "colour"); err == nil || !strings.Contains(out, `"colour" is not known`) {
		t.Errorf("%v: %s", err, out)
	}
}

func post(t *testing.T, url, body string) string {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), `": "`, `":"`)
}
