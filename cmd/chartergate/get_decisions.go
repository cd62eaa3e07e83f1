package main

import (
	"context"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/timestamppb"

	"time"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// decisionFlags choose among decisions.
type decisionFlags struct {
	effect, reason, cohort, run string
	last                        time.Duration
	limit                       int32
}

func (d *decisionFlags) add(f *pflag.FlagSet) {
	f.StringVar(&d.effect, "effect", "", "decisions with this effect only: allow, downgrade, throttle or deny")
	f.StringVar(&d.reason, "reason", "", "decisions for this reason only, such as BUDGET_EXHAUSTED")
	f.StringVar(&d.cohort, "cohort", "", "decisions for this cohort only")
	f.StringVar(&d.run, "run", "", "decisions for this agent run only")
	f.DurationVar(&d.last, "last", 0, "decisions of this time until now only, such as 24h")
	f.Int32Var(&d.limit, "limit", 100, "at most this many decisions, up to 1000")
}

// request asks for the decisions of a feature, or of all.
func (d *decisionFlags) request(feature string, now time.Time) (*pb.ListDecisionsRequest, error) {
	req := &pb.ListDecisionsRequest{Feature: feature, Cohort: d.cohort, Run: d.run, PageSize: d.limit}
	if d.effect != "" {
		n, ok := pb.Effect_value["EFFECT_"+strings.ToUpper(d.effect)]
		if !ok || n == 0 {
			return nil, usagef("--effect %q: use allow, downgrade, throttle or deny", d.effect)
		}
		req.Effect = pb.Effect(n)
	}
	if d.reason != "" {
		n, ok := pb.ReasonCode_value["REASON_CODE_"+strings.ToUpper(d.reason)]
		if !ok || n == 0 {
			return nil, usagef("--reason %q is none: use one such as BUDGET_EXHAUSTED", d.reason)
		}
		req.Reason = pb.ReasonCode(n)
	}
	if d.limit < 1 || d.limit > 1000 {
		return nil, usagef("--limit is %d, it must be 1 to 1000", d.limit)
	}
	if d.last < 0 {
		return nil, usagef("--last is %s, it must not be negative", d.last)
	}
	if d.last > 0 {
		req.From = timestamppb.New(now.Add(-d.last))
	}
	return req, nil
}

func getDecisions(ctx context.Context, r *request) error {
	req, err := r.decisions.request(r.name, time.Now())
	if err != nil {
		return err
	}
	answer, err := r.client.Usage.ListDecisions(ctx, req)
	if err != nil {
		return err
	}
	g := newGrid("TIME", "FEATURE", "EFFECT", "REASON", "MODEL", "COHORT", "RUN")
	for _, d := range answer.GetDecisions() {
		reason := ""
		if d.GetReason() != pb.ReasonCode_REASON_CODE_UNSPECIFIED {
			reason = strings.TrimPrefix(d.GetReason().String(), "REASON_CODE_")
		}
		g.add(timeText(d.GetTime()), visible(d.GetFeature()), short(d.GetEffect(), "EFFECT_"), reason, visible(d.GetModel()), visible(d.GetCohort()), visible(d.GetRun()))
	}
	return r.show(nil, answer, g, "No such decision was kept: refusals and downgrades are, and a sample of the rest (serve --sample-decisions).")
}
