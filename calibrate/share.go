package calibrate

import (
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/money"
)

// Idle says which part of the cluster's idle cost the model's pods carry.
type Idle string

// Rules.
const (
	// IdleProportional shares the idle cost of GPUs by the workloads' GPU cost, of CPUs by CPU cost, of memory by memory
	// cost, and the rest by their total cost. What no workload pays for is shared by total cost too.
	IdleProportional Idle = "proportional"
	IdleEven         Idle = "even" // each pod of the cluster carries the same
	IdleNone         Idle = "none" // none: prices do not recover the cluster's cost
)

// Idles are the rules.
var Idles = []Idle{IdleProportional, IdleEven, IdleNone}

// Selection picks the pods that serve the model. Every field that is set must fit.
type Selection struct {
	Namespace  string
	Controller string // a Deployment, StatefulSet …
	Labels     map[string]string
}

// labelName writes a label as OpenCost does.
var labelName = strings.NewReplacer("/", "_", ".", "_", "-", "_")

func (s *Selection) matches(a *allocation) bool {
	p := &a.Properties
	if s.Namespace != "" && s.Namespace != p.Namespace || s.Controller != "" && s.Controller != p.Controller {
		return false
	}
	for k, v := range s.Labels {
		if p.Labels[k] != v && p.Labels[labelName.Replace(k)] != v {
			return false
		}
	}
	return true
}

// Cost is what the model's pods cost in the window, with their share of idle cost.
type Cost struct {
	Currency  string      `json:"currency"`
	Direct    money.Nanos `json:"direct_nanos"`
	Idle      money.Nanos `json:"idle_nanos"` // their share
	Storage   money.Nanos `json:"storage_nanos"`
	Network   money.Nanos `json:"network_nanos"`
	Recovered money.Nanos `json:"recovered_nanos"` // what GPU time has to bring in: direct and idle, less what has a rate of its own
	Cluster   money.Nanos `json:"cluster_nanos"`   // all workloads and idle cost
	IdleAll   money.Nanos `json:"cluster_idle_nanos"`
	Rule      Idle        `json:"idle_rule"`
	Pods      int         `json:"pods"`
	GPUHours  float64     `json:"gpu_hours"`
	gpuModel  []string
	names     []string
}

// costOf sums the allocations that mine picks and gives them their share of what is idle.
func costOf(all []*allocation, mine func(*allocation) bool, rule Idle) (*Cost, error) {
	c := &Cost{Rule: rule}
	var idle, others, ours parts
	pods, allPods := map[string]bool{}, map[string]bool{}
	for _, a := range all {
		if a.idle() {
			idle.add(a)
			continue
		}
		others.add(a) // ours too
		pod := a.Properties.Namespace + "/" + a.Properties.Pod
		if a.Properties.Pod != "" {
			allPods[pod] = true
		}
		if !mine(a) {
			continue
		}
		ours.add(a)
		pods[pod] = true
		c.GPUHours += a.GPUHours
		if a.Properties.Pod != "" && !slices.Contains(c.names, a.Properties.Pod) {
			c.names = append(c.names, a.Properties.Pod)
		}
		if g := a.GPUAllocation; g != nil && g.Model != "" && !slices.Contains(c.gpuModel, g.Model) {
			c.gpuModel = append(c.gpuModel, g.Model)
		}
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("OpenCost knows no such pods: none of its %d has that namespace, controller, label or name", len(allPods))
	}
	var share *big.Rat
	switch rule {
	case IdleNone:
		share = new(big.Rat)
	case IdleEven:
		share = new(big.Rat).Mul(&idle.total, big.NewRat(int64(len(pods)), int64(max(len(pods), len(allPods)))))
	default:
		share = new(big.Rat)
		rest := new(big.Rat).Set(&idle.total)
		for i := range idle.by {
			if others.by[i].Sign() <= 0 {
				continue
			}
			share.Add(share, part(&idle.by[i], &ours.by[i], &others.by[i]))
			rest.Sub(rest, &idle.by[i])
		}
		if others.total.Sign() > 0 {
			share.Add(share, part(rest, &ours.total, &others.total))
		}
	}
	c.Pods = len(pods)
	for _, f := range []struct {
		into *money.Nanos
		n    *big.Rat
	}{
		{&c.Direct, &ours.total}, {&c.Idle, share}, {&c.Storage, &ours.storage}, {&c.Network, &ours.network},
		{&c.Cluster, new(big.Rat).Add(&others.total, &idle.total)}, {&c.IdleAll, &idle.total},
	} {
		n, err := round(f.n)
		if err != nil {
			return nil, err
		}
		*f.into = n
	}
	return c, nil
}

// part is x times mine of all.
func part(x, mine, all *big.Rat) *big.Rat {
	r := new(big.Rat).Quo(mine, all)
	return r.Mul(r, x)
}

// round rounds nanos half up.
func round(r *big.Rat) (money.Nanos, error) {
	r = new(big.Rat).Add(r, big.NewRat(1, 2))
	q := new(big.Int)
	q.DivMod(r.Num(), r.Denom(), new(big.Int)) // Euclidean: towards minus infinity, as the denominator is positive
	if !q.IsInt64() {
		return 0, money.ErrOverflow
	}
	return money.Nanos(q.Int64()), nil
}

// parts are sums of costs in nanos.
type parts struct {
	by               [3]big.Rat // GPU, CPU, memory
	storage, network big.Rat
	total            big.Rat
}

func (p *parts) add(a *allocation) {
	for _, f := range []struct {
		into *big.Rat
		n    [2]amount
	}{
		{&p.by[0], [2]amount{a.GPUCost, a.GPUAdjustment}}, {&p.by[1], [2]amount{a.CPUCost, a.CPUAdjustment}},
		{&p.by[2], [2]amount{a.RAMCost, a.RAMAdjustment}}, {&p.storage, [2]amount{a.PVCost, a.PVAdjustment}},
		{&p.network, [2]amount{a.NetworkCost, a.NetworkAdjustment}}, {&p.total, [2]amount{*a.TotalCost}},
	} {
		for _, n := range f.n {
			f.into.Add(f.into, new(big.Rat).SetInt64(int64(n)))
		}
	}
}
