package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/policy"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// kind is what get and delete are asked for.
type kind struct {
	plural  string
	others  []string // other words for it
	prefix  string   // of names
	get     func(context.Context, *request) error
	named   bool // NAME may be given
	explain string
}

func (k *kind) name(s string) string {
	if s == "" || strings.HasPrefix(s, k.prefix) {
		return s
	}
	return k.prefix + s
}

func kinds() []kind {
	return []kind{
		{"charters", []string{"charter", "features", "feature"}, "charters/", getCharters, true, "features: stage, owner, budget, tiers"},
		{"budgets", []string{"budget"}, "budgets/", getBudgets, true, "the tree of ceilings and how it stands"},
		{"catalog", []string{"models", "tiers"}, "", getCatalog, false, "tiers and models"},
		{"prices", []string{"price", "pricebooks", "pricebook"}, "priceBooks/", getPrices, true, "price books, per million units"},
		{"policies", []string{"policy"}, "policies/", getPolicies, true, "the policies of organisation, teams and features, and what decides"},
		{"status", []string{"statuses"}, "budgets/", getStatus, true, "every account of a budget and below: keys, overflow, forced spend"},
		{"decisions", []string{"decision"}, "", getDecisions, true, "decisions of a feature that were kept, newest first; -o json shows what they were made from"},
		{"alerts", []string{"alert"}, "budgets/", getAlerts, true, "alerts of a budget, newest first"},
	}
}

func kindOf(word string) (*kind, error) {
	var words []string
	for _, k := range kinds() {
		if w := strings.ToLower(word); w == k.plural || slices.Contains(k.others, w) {
			return &k, nil
		}
		words = append(words, k.plural)
	}
	return nil, usagef("unknown kind %q: use %s", word, strings.Join(words, ", "))
}

// request is one get: what is wanted, and where the answer goes.
type request struct {
	*clientFlags
	client    *chartergate.Client
	name      string // empty: all
	w         io.Writer
	decisions *decisionFlags
}

func newGetCommand() *cobra.Command {
	about := facts{}
	var words []string
	for _, k := range kinds() {
		about.add("  "+k.plural, k.explain)
		words = append(words, k.plural)
	}
	var lines strings.Builder
	about.write(&lines)
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "Show charters, budgets, models, prices, policies and alerts",
		Long: `Show what is there. Kinds:

` + lines.String() + `
With -o yaml charters, budgets, the catalog, prices and policies are written as manifests that apply reads again.`,
		Example: `  chartergate get budgets
  chartergate get status research-agent-run
  chartergate get charter support-copilot -o yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return usagef("write KIND [NAME], where KIND is %s", strings.Join(words, ", "))
			}
			return nil
		},
	}
	c := addClientFlags(cmd)
	d := &decisionFlags{}
	d.add(cmd.Flags())
	cmd.ValidArgsFunction = completeResources(&c.server, words...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		k, err := kindOf(args[0])
		if err != nil {
			return err
		}
		r := &request{clientFlags: c, w: cmd.OutOrStdout(), decisions: d}
		if len(args) == 2 {
			if !k.named {
				return usagef("%s takes no NAME", k.plural)
			}
			r.name = k.name(args[1])
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			r.client = client
			return k.get(ctx, r)
		})
	}
	return cmd
}

// show writes resources as manifests, a message as JSON, or a table.
func (r *request) show(resources []*pb.Resource, m proto.Message, g *grid, empty string) error {
	if r.output == "yaml" && resources != nil {
		return writeManifests(r.w, resources)
	}
	return r.print(r.w, m, func(w io.Writer) {
		if len(g.rows) == 1 {
			io.WriteString(w, empty+"\n")
			return
		}
		g.write(w, "")
	})
}

const pageSize = 1000

// pages reads every page of a list.
func pages[R any, P interface{ GetNextPageToken() string }](page func(token string) (P, error), items func(P) []R) ([]R, error) {
	var all []R
	for token := ""; ; {
		p, err := page(token)
		if err != nil {
			return nil, err
		}
		all = append(all, items(p)...)
		if token = p.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

func getCharters(ctx context.Context, r *request) error {
	var all []*pb.Charter
	var err error
	if r.name != "" {
		one, getErr := r.client.Charters.GetCharter(ctx, &pb.GetCharterRequest{Name: r.name})
		all, err = []*pb.Charter{one}, getErr
	} else {
		all, err = pages(func(token string) (*pb.ListChartersResponse, error) {
			return r.client.Charters.ListCharters(ctx, &pb.ListChartersRequest{PageSize: pageSize, PageToken: token})
		}, (*pb.ListChartersResponse).GetCharters)
	}
	if err != nil {
		return err
	}
	resources := make([]*pb.Resource, len(all))
	g := newGrid("CHARTER", "STAGE", "OWNER", "TEAM", "BUDGET", "TIERS", "MODELS", "AT 100%", ">TARGET PER 1,000")
	for i, c := range all {
		resources[i] = &pb.Resource{Resource: &pb.Resource_Charter{Charter: c}}
		target := ""
		if n := c.GetTargetCostPer_1000SuccessesNanos(); n > 0 {
			target = amount(n)
		}
		g.add(bareID(c.GetName()), short(c.GetStage(), "STAGE_"), c.GetOwner().GetName(), c.GetTeam(), bareID(c.GetBudget()),
			orAll(c.GetPermittedTiers()), orAll(c.GetPermittedModels()), short(exhaustedMode(c), "EXHAUSTED_MODE_"), target)
	}
	var m proto.Message = &pb.ListChartersResponse{Charters: all}
	if r.name != "" {
		m = all[0]
	}
	return r.show(resources, m, g, "There are no charters: create some with `chartergate apply -f`.")
}

func exhaustedMode(c *pb.Charter) pb.ExhaustedMode {
	return max(c.GetExhausted().GetMode(), pb.ExhaustedMode_EXHAUSTED_MODE_DENY)
}

func orAll(permitted []string) string {
	if len(permitted) == 0 {
		return "all"
	}
	return strings.Join(permitted, ", ")
}

func getCatalog(ctx context.Context, r *request) error {
	c, err := r.client.Catalog.GetCatalog(ctx, &pb.GetCatalogRequest{})
	if err != nil {
		return err
	}
	g := newGrid("TIER", "MODEL", "PROVIDER", ">CONTEXT", ">MAX OUTPUT", "CAPABILITIES", "REGIONS")
	for _, t := range c.GetTiers() {
		models := 0
		for _, m := range c.GetModels() {
			if m.GetTier() == t.GetId() {
				models++
				g.add(t.GetId(), m.GetId(), m.GetProvider(), thousands(m.GetContextTokens()), thousands(m.GetMaxOutputTokens()),
					strings.Join(m.GetCapabilities(), " "), strings.Join(m.GetRegions(), " "))
			}
		}
		if models == 0 {
			g.add(t.GetId(), "(no model)", "", "", "", "", "")
		}
	}
	return r.show([]*pb.Resource{{Resource: &pb.Resource_Catalog{Catalog: c}}}, c, g, "The catalog is empty: create it with `chartergate apply -f`.")
}

func getPrices(ctx context.Context, r *request) error {
	var all []*pb.PriceBook
	var err error
	if r.name != "" {
		one, getErr := r.client.Prices.GetPriceBook(ctx, &pb.GetPriceBookRequest{Name: r.name})
		all, err = []*pb.PriceBook{one}, getErr
	} else {
		all, err = pages(func(token string) (*pb.ListPriceBooksResponse, error) {
			return r.client.Prices.ListPriceBooks(ctx, &pb.ListPriceBooksRequest{PageSize: pageSize, PageToken: token})
		}, (*pb.ListPriceBooksResponse).GetPriceBooks)
	}
	if err != nil {
		return err
	}
	resources := make([]*pb.Resource, len(all))
	g := newGrid("BOOK", "MODEL", "FROM", "CURRENCY", ">INPUT", ">CACHE READ", ">CACHE WRITE", ">OUTPUT", ">GPU-HOUR", "ALSO", "SOURCE")
	for i, b := range all {
		resources[i] = &pb.Resource{Resource: &pb.Resource_PriceBook{PriceBook: b}}
		for _, p := range b.GetPrices() {
			g.add(bareID(b.GetName()), p.GetModel(), date(p.GetEffectiveTime()), b.GetCurrency(), rate(p.InputNanos), rate(p.CacheReadNanos),
				rate(p.CacheWrite_5MNanos), rate(p.OutputNanos), rate(p.GpuHourNanos), furtherRates(p), p.GetSource())
		}
	}
	var m proto.Message = &pb.ListPriceBooksResponse{PriceBooks: all}
	if r.name != "" {
		m = all[0]
	}
	return r.show(resources, m, g, "There are no prices, so every call is denied: create some with `chartergate apply -f`.")
}

// furtherRates names the rates of a price that have no column.
func furtherRates(p *pb.Price) string {
	var also []string
	for _, r := range []struct {
		name string
		set  bool
	}{
		{"1h cache write", p.CacheWrite_1HNanos != nil}, {"reasoning", p.ReasoningNanos != nil},
		{"audio", p.AudioInputNanos != nil || p.AudioOutputNanos != nil || p.AudioCacheReadNanos != nil},
		{"image", p.ImageInputNanos != nil || p.ImageOutputNanos != nil}, {"request", p.RequestNanos != nil},
		{"embedding", p.EmbeddingNanos != nil}, {"vector query", p.VectorQueryNanos != nil}, {"tools", len(p.GetToolCallNanos()) > 0},
		{"GPU-hours by accelerator", len(p.GetGpuHourByAcceleratorNanos()) > 0},
		{"storage", p.StorageMegabyteNanos != nil}, {"egress", p.EgressMegabyteNanos != nil}, {"overhead", p.GetOverheadPpm() > 0},
	} {
		if r.set {
			also = append(also, r.name)
		}
	}
	if len(also) == 0 {
		return ""
	}
	return "+ " + strings.Join(also, ", ")
}

func rate(nanos *int64) string {
	if nanos == nil {
		return "-"
	}
	return amount(*nanos)
}

func getPolicies(ctx context.Context, r *request) error {
	var all []*pb.Policy
	var err error
	if r.name != "" {
		one, getErr := r.client.Policies.GetPolicy(ctx, &pb.GetPolicyRequest{Name: r.name})
		all, err = []*pb.Policy{one}, getErr
	} else {
		all, err = pages(func(token string) (*pb.ListPoliciesResponse, error) {
			return r.client.Policies.ListPolicies(ctx, &pb.ListPoliciesRequest{PageSize: pageSize, PageToken: token})
		}, (*pb.ListPoliciesResponse).GetPolicies)
	}
	if err != nil {
		return err
	}
	resources := make([]*pb.Resource, len(all))
	g := newGrid("POLICY", "OF", "REVISION", "ACTIVE SINCE", "AUTHOR", "MESSAGE", "SHADOW")
	for i, p := range all {
		resource := proto.CloneOf(p)
		resources[i] = &pb.Resource{Resource: &pb.Resource_Policy{Policy: resource}}
		message, shadow, revision := p.GetMessage(), "", hashOf(p.GetActiveRevision())
		if strings.HasPrefix(p.GetActiveRevision(), policy.BuiltinPrefix) {
			revision, message = p.GetActiveRevision(), "ships with the server"
		} else if !strings.HasPrefix(p.GetActiveRevision(), policyPrefix) { // of a bundle, whose files are not stored
			revision = p.GetActiveRevision()
		} else if r.output == "yaml" {
			v, err := r.client.Policies.GetPolicyRevision(ctx, &pb.GetPolicyRevisionRequest{Name: p.GetActiveRevision()})
			if err != nil {
				return err
			}
			resource.Modules, resource.ActiveRevision = v.GetModules(), ""
		}
		if p.GetShadowRevision() != "" {
			shadow = fmt.Sprintf("%s on %g%%", hashOf(p.GetShadowRevision()), float64(p.GetShadowPpm())/10_000)
		}
		level, _, _ := strings.Cut(bareID(p.GetName()), ".")
		if level == "routing" {
			level = "organisation"
		}
		g.add(bareID(p.GetName()), level, revision, timeText(p.GetUpdateTime()), p.GetAuthor(), message, shadow)
	}
	var m proto.Message = &pb.ListPoliciesResponse{Policies: all}
	if r.name != "" {
		m = all[0]
	}
	return r.show(resources, m, g, "")
}
