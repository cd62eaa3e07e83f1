package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/policy/decisionlog"
	"github.com/chartergate/chartergate/server/metering"
	"github.com/chartergate/chartergate/store"
)

// maxLogged bounds the policies that are kept compiled for the decision log.
const maxLogged = 64

// decisionEvents turns kept decisions into events of OPA's decision log. It is for one goroutine.
type decisionEvents struct {
	labels map[string]string
	inUse  func(revision string) *policy.Policy // that need not be stored, as one of a bundle; nil: none
	known  map[string]*policy.Policy
}

// of gives an event for each policy that decided. Input is rebuilt from what is kept, and the charter, catalog and prices
// of a snapshot; custom says of which revisions these are and of which they were.
func (l *decisionEvents) of(ctx context.Context, snap *charter.Snapshot, d *usage.Decision) ([]decisionlog.Event, error) {
	call, revisions, err := metering.Kept(d)
	if err != nil {
		return nil, err
	}
	var kept struct {
		Answer          map[string]any `json:"answer"`
		Epoch           int64          `json:"epoch"`
		CharterRevision int64          `json:"charter_revision"`
	}
	numbers := json.NewDecoder(bytes.NewReader(d.Data))
	numbers.UseNumber() // money stays exact
	if err := numbers.Decode(&kept); err != nil {
		return nil, err
	}
	if n, ok := kept.Answer["prompt_cache"].(json.Number); ok {
		i, err := n.Int64()
		if err != nil {
			return nil, fmt.Errorf("decision %s: prompt_cache: %w", d.ID, err)
		}
		kept.Answer["prompt_cache"] = routing.PromptCache(i).String()
	}
	var mapped any // a nil map would be told as null
	if kept.Answer != nil {
		mapped = kept.Answer
	}
	event := decisionlog.Event{
		Labels: l.labels, DecisionID: d.ID, Path: decisionlog.Path, MappedResult: mapped, Timestamp: d.Time,
		Custom: map[string]any{"charter_revision": kept.CharterRevision, "control_revision": kept.Epoch},
	}
	c := snap.Charter(call.Call.Feature)
	if c == nil || revisions == "" {
		return []decisionlog.Event{event}, nil
	}
	in := &routing.Input{Now: call.Time, Call: call.Call, Charter: c, Budgets: call.Budgets, Catalog: snap.Catalog(), Prices: snap.Prices(), Epoch: snap.Epoch}
	for i := range in.Budgets {
		b := &in.Budgets[i]
		if b.Budget = snap.Budget(b.ID); b.Budget != nil {
			if span, ok := b.Budget.Period.At(call.Time); ok {
				b.Start, b.End = span.Start.Unix(), span.End.Unix()
			}
		}
	}
	if snap.Epoch > 0 { // a snapshot that a client put together has no revisions
		event.Custom["input_charter_revision"], event.Custom["input_control_revision"] = c.Revision, snap.Epoch
	}
	names := strings.Split(revisions, routing.RevisionSeparator)
	events := make([]decisionlog.Event, 0, len(names))
	for i, name := range names {
		e := event
		if len(names) > 1 {
			e.DecisionID, e.BatchDecisionID = fmt.Sprintf("%s/%d", d.ID, i+1), d.ID
		}
		attached, _, _ := strings.Cut(name, "/revisions/")
		e.Bundles = map[string]decisionlog.Bundle{attached: {Revision: name}}
		if p := l.policy(snap, name); p == nil {
			if e.Input, err = policy.Input(in); err != nil {
				return nil, err
			}
		} else {
			// A policy that gave no decision then gives none now: the event has no result.
			e.Input, e.Result, _ = p.Ask(ctx, in)
		}
		events = append(events, e)
	}
	return events, nil
}

// policy compiles the revision that decided; nil where it is neither in use nor stored.
func (l *decisionEvents) policy(snap *charter.Snapshot, name string) *policy.Policy {
	if l.inUse != nil {
		if p := l.inUse(name); p != nil {
			return p
		}
	}
	if p, ok := l.known[name]; ok {
		return p
	}
	var modules map[string]string
	if r, ok := snap.Record(name).(*charter.PolicyRevision); ok {
		modules = r.Modules
	} else if name == policy.BuiltinPrefix+policy.Hash(policy.Builtin()) {
		modules = policy.Builtin()
	}
	if modules == nil {
		return nil
	}
	p, err := policy.Compile(modules)
	if err != nil {
		return nil
	}
	if l.known == nil || len(l.known) >= maxLogged {
		l.known = map[string]*policy.Policy{}
	}
	l.known[name] = p
	return p
}

// logDecisions sends decisions to a file or URL as they are kept, until stop, which sends what waits still. Empty: to
// nowhere.
func logDecisions(location string, meter *metering.Meter, control store.Control, decider *policy.Decider, registry prometheus.Registerer, log *slog.Logger) (stop func(), err error) {
	if location == "" {
		return func() {}, nil
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	events := &decisionEvents{labels: map[string]string{"app": "chartergate", "version": version(), "host": host}, inUse: decider.Policy}
	sink, err := decisionlog.NewSink(location, log, func(ctx context.Context, d usage.Decision) ([]decisionlog.Event, error) {
		return events.of(ctx, control.Snapshot(), &d)
	})
	if err != nil {
		return nil, fmt.Errorf("--decision-log: %w", err)
	}
	meter.Kept = func(list []usage.Decision) { sink.Add(list...) }
	count := func(name, help string, n func() int64) prometheus.CounterFunc {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(n()) })
	}
	registry.MustRegister(
		count("chartergate_decision_log_sent_total", "Decisions that were sent to the decision log.", func() int64 { n, _ := sink.Counts(); return n }),
		count("chartergate_decision_log_dropped_total", "Decisions that were to be sent to the decision log and were dropped.", func() int64 { _, n := sink.Counts(); return n }),
	)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		sink.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}, nil
}
