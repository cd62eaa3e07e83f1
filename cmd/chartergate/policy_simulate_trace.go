package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/simulate"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/proto/convert"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
	"github.com/chartergate/chartergate/server"
)

// simulateTrace replays a trace that begins at a time here. client may be nil with manifests.
func (f *simulateFlags) simulateTrace(cmd *cobra.Command, client *chartergate.Client, req *pb.SimulatePolicyRequest, begin time.Time) (*pb.PolicySimulation, error) {
	t := &f.trace
	if !slices.Contains(replay.Formats, replay.Format(t.format)) {
		return nil, usagef("unknown trace format %q: use one of %v", t.format, replay.Formats)
	}
	t.options.Feature, t.options.RunID = f.feature, "simulate"
	if err := t.mixes(); err != nil {
		return nil, err
	}
	if err := t.options.Check(); err != nil {
		return nil, usagef("%v", err)
	}
	ctx := cmd.Context()
	snap, err := f.snapshot(ctx, cmd, client)
	if err != nil {
		return nil, err
	}
	for _, feature := range t.options.AllFeatures() {
		if snap.Charter(feature) == nil {
			return nil, fmt.Errorf("no charter has the id %q", feature)
		}
	}
	revision, err := candidateRevision(ctx, client, req)
	if err != nil {
		return nil, err
	}
	changed, err := snap.Activated(revision)
	if err != nil {
		return nil, err
	}
	active, err := policiesOf(snap)
	if err != nil {
		return nil, err
	}
	candidate, err := policiesOf(changed)
	if err != nil {
		return nil, err
	}
	source, err := openTrace(cmd, t.file)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	rows, err := replay.Read(replay.Format(t.format), t.file, source)
	if err != nil {
		return nil, err
	}
	progress := newBar(cmd.ErrOrStderr(), max(source.size, -1))
	defer progress.finish()
	begun := time.Now()
	s := simulate.New(simulate.Config{Snapshot: snap, Active: active, Candidate: candidate})
	number, last := int64(0), begin
	for row, err := range replay.Limit(rows, t.limit) {
		if err != nil {
			return nil, err
		}
		number++
		call, used := t.options.Call(row, number)
		step := simulate.Call{Time: begin.Add(row.At), Call: new(routing.Call)}
		if step.Time.Before(last) { // rows of a trace may be out of order: they come when they stand there
			step.Time = last
		}
		last = step.Time
		if err := convert.CallFromProto(step.Call, call); err != nil {
			return nil, fmt.Errorf("row %d: %w", number, err)
		}
		spent, err := convert.UsageFromProto(used)
		if err != nil {
			return nil, fmt.Errorf("row %d: %w", number, err)
		}
		step.Used = &spent
		if err := s.Step(ctx, &step); err != nil {
			return nil, fmt.Errorf("row %d: %w", number, err)
		}
		if number%1000 == 0 && source.size > 0 {
			progress.set(min(source.read.Load(), source.size-1))
		}
	}
	r, err := s.Result()
	if err != nil {
		return nil, err
	}
	if r.Decisions+r.Skipped == 0 {
		return nil, fmt.Errorf("%s: the file has no rows", t.file)
	}
	return convert.SimulationToProto(r, time.Since(begun)), nil
}

// candidateRevision is the candidate of a request, compiled once to tell what is wrong with it.
func candidateRevision(ctx context.Context, client *chartergate.Client, req *pb.SimulatePolicyRequest) (*charter.PolicyRevision, error) {
	modules := req.GetModules()
	if req.GetRevision() != "" {
		if client == nil {
			return nil, usagef("a stored revision is the server's: give a folder with -f")
		}
		r, err := client.Policies.GetPolicyRevision(ctx, &pb.GetPolicyRevisionRequest{Name: req.GetRevision()})
		if err != nil {
			return nil, err
		}
		modules = r.GetModules()
	}
	if _, err := policy.Compile(modules); err != nil {
		return nil, err
	}
	return &charter.PolicyRevision{Policy: req.GetName()[len("policies/"):], Hash: policy.Hash(modules), Modules: modules}, nil
}

// snapshot is what the manifests say, or else the server.
func (f *simulateFlags) snapshot(ctx context.Context, cmd *cobra.Command, client *chartergate.Client) (*charter.Snapshot, error) {
	var resources []*pb.Resource
	if client == nil {
		files, err := loadManifests(cmd, f.manifests)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			resources = append(resources, file.Resources...)
		}
	} else {
		var err error
		if resources, err = fetchResources(ctx, client); err != nil {
			return nil, err
		}
	}
	var changes []charter.Change
	for _, r := range resources {
		p := r.GetPolicy()
		if p == nil {
			record, err := convert.RecordFromResource(r)
			if err != nil {
				return nil, err
			}
			changes = append(changes, charter.Set(record))
			continue
		}
		id := p.GetName()[len("policies/"):]
		revision := &charter.PolicyRevision{Policy: id, Hash: policy.Hash(p.GetModules()), Modules: p.GetModules()}
		changes = append(changes, charter.Set(revision), charter.Set(&charter.Policy{ID: id, Active: revision.Hash}))
	}
	budgets := map[string]*charter.Budget{}
	for _, c := range changes {
		if b, ok := c.Record.(*charter.Budget); ok {
			budgets[b.ID] = b
		}
	}
	empty := new(charter.Snapshot)
	for _, b := range budgets { // as the server does
		server.FillCurrency(empty, budgets, b)
	}
	snap, err := empty.With(changes)
	if err == nil && snap.Catalog() == nil {
		return nil, fmt.Errorf("there is no catalog: no call could be served")
	}
	return snap, err
}

// fetchResources fetches what decisions depend on; policies with the modules of their active revisions.
func fetchResources(ctx context.Context, client *chartergate.Client) (all []*pb.Resource, err error) {
	pages := func(list func(token string) (next string, err error)) {
		for token, more := "", true; more && err == nil; more = token != "" {
			token, err = list(token)
		}
	}
	pages(func(token string) (string, error) {
		p, err := client.Charters.ListCharters(ctx, &pb.ListChartersRequest{PageSize: 1000, PageToken: token})
		for _, c := range p.GetCharters() {
			all = append(all, &pb.Resource{Resource: &pb.Resource_Charter{Charter: c}})
		}
		return p.GetNextPageToken(), err
	})
	pages(func(token string) (string, error) {
		p, err := client.Budgets.ListBudgets(ctx, &pb.ListBudgetsRequest{PageSize: 1000, PageToken: token})
		for _, b := range p.GetBudgets() {
			all = append(all, &pb.Resource{Resource: &pb.Resource_Budget{Budget: b}})
		}
		return p.GetNextPageToken(), err
	})
	pages(func(token string) (string, error) {
		p, err := client.Prices.ListPriceBooks(ctx, &pb.ListPriceBooksRequest{PageSize: 1000, PageToken: token})
		for _, b := range p.GetPriceBooks() {
			all = append(all, &pb.Resource{Resource: &pb.Resource_PriceBook{PriceBook: b}})
		}
		return p.GetNextPageToken(), err
	})
	pages(func(token string) (string, error) {
		p, err := client.Policies.ListPolicies(ctx, &pb.ListPoliciesRequest{PageSize: 1000, PageToken: token})
		for _, row := range p.GetPolicies() {
			if len(row.GetActiveRevision()) <= len(row.GetName()) || row.GetActiveRevision()[:len(row.GetName())] != row.GetName() {
				continue // the shipped one
			}
			r, err := client.Policies.GetPolicyRevision(ctx, &pb.GetPolicyRevisionRequest{Name: row.GetActiveRevision()})
			if err != nil {
				return "", err
			}
			all = append(all, &pb.Resource{Resource: &pb.Resource_Policy{Policy: &pb.Policy{Name: row.GetName(), Modules: r.GetModules()}}})
		}
		return p.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	catalog, err := client.Catalog.GetCatalog(ctx, &pb.GetCatalogRequest{})
	if err != nil {
		return nil, err
	}
	return append(all, &pb.Resource{Resource: &pb.Resource_Catalog{Catalog: catalog}}), nil
}
