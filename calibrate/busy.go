package calibrate

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// busy gives the busy GPU-seconds of each step, and sets how many GPU-hours the replicas had.
func (r *Result) busy(ctx context.Context, p *prometheus, o *Options, grid steps, replicas []*series) (*sums, error) {
	if o.GPUsPerReplica > 0 {
		r.GPUHours = r.ReplicaHours * float64(o.GPUsPerReplica)
	} else {
		r.GPUHours = r.Cost.GPUHours
	}
	if o.Busy != BusyRequests {
		total, err := r.dcgm(ctx, p, grid, replicas)
		if err != nil || total != nil {
			return total, err
		}
		if o.Busy == BusyDCGM {
			return nil, fmt.Errorf("%s at %s has no DCGM metrics with the model's pods: take the busy time from requests", promName, p.url.Host)
		}
	}
	const running = "vllm:num_requests_running"
	if r.GPUHours <= 0 {
		return nil, errors.New("neither DCGM nor OpenCost says how many GPUs a replica has: say it")
	}
	found, err := p.samples(ctx, o.selector(running), o.From, o.To)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, p.missing(ctx, running, o.VLLMModel, o.To)
	}
	gpus := r.GPUHours / r.ReplicaHours
	total := grid.sums()
	for _, s := range found {
		total.gauge(s, func(v float64) float64 {
			if v > 0 {
				return gpus
			}
			return 0
		})
	}
	r.Busy = running
	return total, nil
}

// dcgm gives the busy GPU-seconds from DCGM, or nothing where it has none of the pods.
func (r *Result) dcgm(ctx context.Context, p *prometheus, grid steps, replicas []*series) (*sums, error) {
	pods := slices.Clone(r.Cost.names)
	for _, x := range replicas {
		if pod := podOf(x.labels); pod != "" && !slices.Contains(pods, pod) {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		return nil, nil
	}
	for i, pod := range pods {
		pods[i] = regexp.QuoteMeta(pod)
	}
	for _, metric := range []struct {
		name string
		full float64
	}{{"DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1}, {"DCGM_FI_DEV_GPU_UTIL", 100}} {
		for _, label := range []string{"exported_pod", "pod"} {
			found, err := p.samples(ctx, fmt.Sprintf("%s{%s=~%q}", metric.name, label, strings.Join(pods, "|")), grid.fromTime(), grid.toTime())
			if err != nil {
				return nil, err
			}
			if len(found) == 0 {
				continue
			}
			total := grid.sums()
			var models []string
			for _, s := range found {
				total.gauge(s, func(v float64) float64 { return min(v/metric.full, 1) })
				if m := string(s.labels["modelName"]); m != "" && !slices.Contains(models, m) {
					models = append(models, m)
				}
			}
			if r.GPUHours <= 0 {
				r.GPUHours = total.present / 3600
			}
			if r.Accelerator == "" {
				r.Accelerator = strings.Join(models, ", ")
			}
			r.Busy = metric.name
			return total, nil
		}
	}
	return nil, nil
}
