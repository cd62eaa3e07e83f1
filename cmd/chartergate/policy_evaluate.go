package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/examples"
	"github.com/chartergate/chartergate/manifest"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/policy/evaluate"
	"github.com/chartergate/chartergate/proto/convert"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

type policyEvaluate struct {
	cases, policy, server, output, at string
	manifests                         []string
}

func newPolicyEvaluateCommand() *cobra.Command {
	var o policyEvaluate
	cmd := &cobra.Command{
		Use:   "evaluate --cases FILE",
		Short: "Score a routing policy on labelled cases: what it saves, what quality it keeps",
		Long: `Ask a routing policy about cases of which it is known which tiers sufficed, and tell what it saves and what it keeps. A case is
a JSON line; the prompt may be left out, the tiers are those of the catalog, or without -f may be called small, medium and
large or the like:

  {"id":"1","task_class":"chat","prompt":"Hi!","input_tokens":9,"output_tokens":{"economy":20,"premium":31},"sufficient":{"economy":true,"premium":true}}

Cost saved is 1 - the cost / the cost of the dearest tier for every case. Quality kept is the share of the cases that the
dearest tier solves which the chosen tier solves too. A tier costs what the first of its models with a price costs. A tier
without output_tokens is taken to write as much as the one of the case that writes the most. A call that the policy refuses,
or whose answer its max_output_tokens cuts off, is not solved.

The policy is asked as a server would ask it, for a charter that permits all tiers, with no budget near its end; it sees of
the prompt what clients send: its complexity, by core/complexity. The curve is the policy with every call taken to be easier
or harder by a number of points. Random has the policy's mix of tiers, as it is on average; the oracle knows the answers and
takes the cheapest tier that suffices. No server is needed, unless --policy names a stored revision.`,
		Example: `  chartergate policy evaluate --cases cases.jsonl
  chartergate policy evaluate --cases cases.jsonl --policy ./policy -f catalog.yaml -f prices.yaml -o json
  chartergate policy evaluate --cases - --policy policies/routing/revisions/5f2a77c0 < cases.jsonl`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.cases, "cases", "", "file of cases, JSON lines, or - for the standard input (required)")
	f.StringVar(&o.policy, "policy", "", "directory or file of Rego, or a stored revision (default the shipped policy)")
	f.StringArrayVarP(&o.manifests, "file", "f", nil, "manifest, or folder of manifests, with the catalog and the price books (default those of the example company); repeatable")
	f.StringVar(&o.at, "at", "", "prices of this day, such as 2026-11-23 (default today)")
	addOutputFlag(cmd, &o.output, "table", "json", "csv")
	addServerFlag(cmd, &o.server)
	return cmd
}

func (o *policyEvaluate) run(cmd *cobra.Command) error {
	if err := checkOutput(o.output, "table", "json", "csv"); err != nil {
		return err
	}
	if o.cases == "" {
		return usagef("--cases is required: a file of JSON lines, or -")
	}
	at, err := parseDay("--at", o.at)
	if err != nil {
		return err
	}
	if at.IsZero() {
		at = time.Now()
	}
	catalog, book, err := o.catalog()
	if err != nil {
		return err
	}
	decider, name, err := o.decider(cmd)
	if err != nil {
		return err
	}
	e, err := evaluate.New(evaluate.Patient(decider.Decide), catalog, book, at)
	if err != nil {
		return err
	}
	if len(o.manifests) == 0 {
		e.RenameTiers()
	}
	if err := o.read(cmd, e); err != nil {
		return err
	}
	r, err := e.Result()
	if errors.Is(err, evaluate.ErrNoCases) {
		return fmt.Errorf("%s: %w", o.cases, err)
	}
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	switch o.output {
	case "json":
		return writeEvaluationJSON(w, r)
	case "csv":
		return writeEvaluationCSV(w, r)
	}
	return writeEvaluation(w, o.cases, name, at, r)
}

// read takes the cases, with a bar on a terminal.
func (o *policyEvaluate) read(cmd *cobra.Command, e *evaluate.Evaluator) error {
	in, size := cmd.InOrStdin(), int64(-1)
	if o.cases != "-" {
		f, err := os.Open(o.cases)
		if err != nil {
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
		in = f
	}
	if w := cmd.ErrOrStderr(); isTerminal(w) {
		bar := progressbar.NewOptions64(size, progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(30), progressbar.OptionShowBytes(true),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond))
		defer func() { _ = bar.Finish() }()
		in = io.TeeReader(in, bar)
	}
	return evaluate.Read(o.cases, in, func(c *evaluate.Case) error {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		return e.Add(cmd.Context(), c)
	})
}

// decider gives what decides as --policy says, and how to call it.
func (o *policyEvaluate) decider(cmd *cobra.Command) (*policy.Decider, string, error) {
	decider, err := policy.NewDecider()
	if err != nil {
		return nil, "", err
	}
	if o.policy == "" {
		return decider, decider.Builtin(), nil
	}
	modules, name, err := o.modules(cmd)
	if err != nil {
		return nil, "", err
	}
	p, err := policy.Compile(modules)
	if err != nil {
		return nil, "", err
	}
	decider.Use(policy.One(p, name))
	return decider, name, nil
}

// modules reads the policy that --policy names, and how to call it.
func (o *policyEvaluate) modules(cmd *cobra.Command) (modules map[string]string, name string, err error) {
	if strings.HasPrefix(o.policy, "policies/") && strings.Contains(o.policy, "/revisions/") {
		c := &clientFlags{server: o.server, output: "table", outputs: outputs, timeout: 30 * time.Second}
		err = c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			r, err := client.Policies.GetPolicyRevision(ctx, &pb.GetPolicyRevisionRequest{Name: o.policy})
			modules = r.GetModules()
			return err
		})
		return modules, o.policy, err
	}
	if info, err := os.Stat(o.policy); err == nil && !info.IsDir() {
		text, err := readModule(o.policy)
		return map[string]string{filepath.Base(o.policy): text}, o.policy, err
	}
	modules, err = readPolicyDir(o.policy)
	return modules, o.policy, err
}

// catalog gives the catalog and the prices of the manifests, or the example company's for what they do not have.
func (o *policyEvaluate) catalog() (*charter.Catalog, *pricing.Book, error) {
	var resources []*pb.Resource
	for _, path := range o.manifests {
		files, err := manifest.Load(path)
		if err != nil {
			return nil, nil, err
		}
		for _, f := range files {
			resources = append(resources, f.Resources...)
		}
	}
	catalog, list, err := catalogAndPrices(resources)
	if err != nil {
		return nil, nil, err
	}
	theirs, prices, err := exampleCatalog()
	if err != nil {
		return nil, nil, err
	}
	if catalog == nil {
		catalog = theirs
	}
	if len(list) == 0 {
		list = prices
	}
	book, err := pricing.NewBook(list)
	return catalog, book, err
}

// exampleCatalog gives the catalog and the prices of the example company, which are in the binary.
func exampleCatalog() (*charter.Catalog, []*pricing.Price, error) {
	var resources []*pb.Resource
	for _, name := range []string{"acme/catalog.yaml", "acme/prices.yaml"} {
		text, err := examples.FS.ReadFile(name)
		if err != nil {
			return nil, nil, err
		}
		r, err := manifest.Parse(name, text)
		if err != nil {
			return nil, nil, err
		}
		resources = append(resources, r...)
	}
	return catalogAndPrices(resources)
}

func catalogAndPrices(resources []*pb.Resource) (catalog *charter.Catalog, list []*pricing.Price, err error) {
	for _, r := range resources {
		if c := r.GetCatalog(); c != nil {
			if catalog, err = convert.CatalogFromProto(c); err != nil {
				return nil, nil, err
			}
		}
		if b := r.GetPriceBook(); b != nil {
			book, err := convert.PriceBookFromProto(b)
			if err != nil {
				return nil, nil, err
			}
			for _, p := range book.Prices {
				if p.Currency == "" {
					p.Currency = book.Currency
				}
				list = append(list, p)
			}
		}
	}
	return catalog, list, nil
}
