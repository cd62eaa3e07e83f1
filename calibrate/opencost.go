package calibrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// allocation is what a container cost, as OpenCost and Kubecost write it: amounts in the currency's units, with
// adjustments apart, which totalCost includes.
type allocation struct {
	Name       string `json:"name"`
	Properties struct {
		Namespace  string            `json:"namespace"`
		Pod        string            `json:"pod"`
		Controller string            `json:"controller"`
		Labels     map[string]string `json:"labels"`
	} `json:"properties"`
	Window struct {
		Start time.Time `json:"start"`
		End   time.Time `json:"end"`
	} `json:"window"`
	GPUHours          float64 `json:"gpuHours"`
	GPUCost           amount  `json:"gpuCost"`
	GPUAdjustment     amount  `json:"gpuCostAdjustment"`
	CPUCost           amount  `json:"cpuCost"`
	CPUAdjustment     amount  `json:"cpuCostAdjustment"`
	RAMCost           amount  `json:"ramCost"`
	RAMAdjustment     amount  `json:"ramCostAdjustment"`
	PVCost            amount  `json:"pvCost"`
	PVAdjustment      amount  `json:"pvCostAdjustment"`
	NetworkCost       amount  `json:"networkCost"`
	NetworkAdjustment amount  `json:"networkCostAdjustment"`
	TotalCost         *amount `json:"totalCost"`
	GPUAllocation     *struct {
		Model string `json:"gpuModel"`
	} `json:"gpuAllocation"`
}

// amount is a JSON number as nanos, rounded half away from 0. Null, OpenCost's word for not a number, is 0.
type amount money.Nanos

// UnmarshalJSON implements json.Unmarshaler.
func (a *amount) UnmarshalJSON(data []byte) error {
	s := string(data)
	if s == "null" {
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.Abs(f) > 9e9 || len(s) > 64 {
		return fmt.Errorf("%.64q is no amount", s)
	}
	if math.Abs(f) < 1e-10 {
		return nil
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return fmt.Errorf("%.64q is no amount", s)
	}
	r.Mul(r, big.NewRat(int64(money.Unit), 1))
	n, err := strconv.ParseInt(r.FloatString(0), 10, 64)
	*a = amount(n)
	return err
}

// idle says whether an allocation is what no workload asked for.
func (a *allocation) idle() bool { return strings.HasSuffix(a.Name, "__idle__") }

// allocations reads what every container of the cluster cost in a window, with idle cost apart.
func allocations(ctx context.Context, e Endpoint, from, to time.Time) ([]*allocation, error) {
	const what = "OpenCost"
	client, u, err := e.client(what)
	if err != nil {
		return nil, err
	}
	if p := strings.TrimSuffix(u.Path, "/"); strings.HasSuffix(p, "/allocation") || strings.HasSuffix(p, "/allocation/compute") {
		u.Path = p
	} else {
		u.Path = p + "/allocation"
	}
	u.RawQuery = url.Values{
		"window":      {from.UTC().Format(time.RFC3339) + "," + to.UTC().Format(time.RFC3339)},
		"accumulate":  {"true"},
		"includeIdle": {"true"}, "idle": {"true"}, // OpenCost's and Kubecost's name
		"shareIdle": {"false"},
	}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, unreachable(what, u, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, status(what, u, resp.StatusCode, string(body))
	}
	var answer struct {
		Code    int                      `json:"code"`
		Message string                   `json:"message"`
		Data    []map[string]*allocation `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		if errors.Is(err, errTooLong) {
			return nil, fmt.Errorf("%s at %s: %w", what, u.Host, err)
		}
		return nil, fmt.Errorf("%s at %s%s answers what is not the JSON of OpenCost's /allocation or Kubecost's /model/allocation: %w", what, u.Host, u.Path, err)
	}
	if answer.Code != 0 && answer.Code != http.StatusOK {
		return nil, status(what, u, answer.Code, answer.Message)
	}
	var all []*allocation
	for _, set := range answer.Data {
		for name, a := range set {
			if a == nil {
				continue
			}
			if a.Name == "" {
				a.Name = name
			}
			if a.TotalCost == nil {
				return nil, fmt.Errorf("%s at %s: the allocation %q has no totalCost", what, u.Host, a.Name)
			}
			if s, e := a.Window.Start, a.Window.End; abs(s.Sub(from)) > time.Minute || abs(e.Sub(to)) > time.Minute {
				return nil, fmt.Errorf("%s at %s answers for %s to %s and not for %s to %s: choose a window that it has, of whole hours or days", what, u.Host,
					s.UTC().Format(time.RFC3339), e.UTC().Format(time.RFC3339), from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
			}
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s at %s has no allocations from %s to %s: choose a window that it has", what, u.Host, from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	}
	return all, nil
}

func abs(d time.Duration) time.Duration { return max(d, -d) }
