package usage

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/chartergate/chartergate/internal/dataset"
)

// real are payloads of real responses with what genai-prices reads from them.
type real struct {
	Body      json.RawMessage
	Model     string
	Extracted []struct {
		Usage      map[string]int64
		Extractors []struct {
			Provider    string       `json:"provider_id"`
			API         string       `json:"api_flavor"`
			InputPrice  *json.Number `json:"input_price"`
			OutputPrice *json.Number `json:"output_price"`
		}
	}
}

func realPayloads(t *testing.T) []real {
	t.Helper()
	data, err := os.ReadFile(dataset.File(t, "usage/real-usages.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []real
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// Every class adds up to what genai-prices counts, for each provider and API that it reads a payload as.
func TestRealPayloads(t *testing.T) {
	equal, reasons := 0, map[string]int{}
	for i, row := range realPayloads(t) {
		for _, e := range row.Extracted {
			for _, x := range e.Extractors {
				p, err := Read(x.Provider, x.API, row.Body)
				if err != nil {
					t.Errorf("row %d as %s %s: %v\n%s", i, x.Provider, x.API, err, row.Body)
					continue
				}
				u := &p.Usage
				got := [...]int64{u.AllInput(), u.AllOutput(), u.CacheReadTokens + u.AudioCacheReadTokens, u.CacheWrite5mTokens + u.CacheWrite1hTokens}
				want := [...]int64{e.Usage["input_tokens"], e.Usage["output_tokens"], e.Usage["cache_read_tokens"], e.Usage["cache_write_tokens"]}
				if want[3] == 0 && strings.Contains(string(row.Body), "cache_write_tokens") {
					got[3] = 0 // genai-prices reads it at a few of OpenAI's likes only; here it is read at all
				}
				if got == want {
					equal++
					continue
				}
				if reasons[x.Provider+" "+x.API]++; reasons[x.Provider+" "+x.API] == 1 {
					t.Logf("row %d as %s %s: %v, reference %v\n%s", i, x.Provider, x.API, got, want, row.Body)
				}
			}
		}
	}
	t.Logf("%d equal", equal)
	for _, r := range slices.Sorted(maps.Keys(reasons)) {
		t.Errorf("%s: %d differ", r, reasons[r])
	}
}
