package convert_test

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Every field of a message survives the way into core and back, but those that are named: what the server sets or
// handles itself.
func TestRoundTrip(t *testing.T) {
	meta := charter.Meta{Revision: 4711, Created: time.Unix(1700000000, 123).UTC(), Updated: time.Unix(1800000000, 456).UTC()}
	for _, test := range []struct {
		message proto.Message
		back    func(m proto.Message) (proto.Message, error)
		without []string
	}{
		{&chartergatev1.Charter{}, func(m proto.Message) (proto.Message, error) {
			r, err := convert.CharterFromProto(m.(*chartergatev1.Charter))
			return convert.CharterToProto(r), err
		}, serverSet},
		{&chartergatev1.Budget{}, func(m proto.Message) (proto.Message, error) {
			r, err := convert.BudgetFromProto(m.(*chartergatev1.Budget))
			return convert.BudgetToProto(r), err
		}, serverSet},
		{&chartergatev1.Catalog{}, func(m proto.Message) (proto.Message, error) {
			r, err := convert.CatalogFromProto(m.(*chartergatev1.Catalog))
			return convert.CatalogToProto(r), err
		}, serverSet},
		{&chartergatev1.PriceBook{}, func(m proto.Message) (proto.Message, error) {
			r, err := convert.PriceBookFromProto(m.(*chartergatev1.PriceBook))
			return convert.PriceBookToProto(r), err
		}, append([]string{"prices.price_book", "prices.currency", "prices.revision", "prices.token_factor", "prices.factor"}, serverSet...)},
		{&chartergatev1.Policy{}, func(m proto.Message) (proto.Message, error) {
			r, err := convert.PolicyFromProto(m.(*chartergatev1.Policy))
			return convert.PolicyToProto(r), err
		}, append([]string{"modules", "message", "author"}, serverSet...)},
		{&chartergatev1.PolicyRevision{}, func(m proto.Message) (proto.Message, error) {
			r, err := convert.PolicyRevisionFromProto(m.(*chartergatev1.PolicyRevision))
			return convert.PolicyRevisionToProto(r, m.(*chartergatev1.PolicyRevision).Active), err
		}, serverSet},
		{&chartergatev1.Usage{}, func(m proto.Message) (proto.Message, error) {
			u, err := convert.UsageFromProto(m.(*chartergatev1.Usage))
			return convert.UsageToProto(&u), err
		}, nil},
	} {
		name := test.message.ProtoReflect().Descriptor().Name()
		t.Run(string(name), rapid.MakeCheck(func(t *rapid.T) {
			want := proto.Clone(test.message)
			fill(t, want.ProtoReflect(), "", test.without)
			input := proto.Clone(want)
			got, err := test.back(input)
			if err != nil {
				t.Fatalf("%v: %v", want, err)
			}
			if !proto.Equal(got, want) {
				t.Fatalf("went in:\n%v\ncame out:\n%v", want, got)
			}
			if !proto.Equal(input, want) {
				t.Fatalf("the message that went in was changed to %v", input)
			}
			resource, ok := asResource(want)
			if !ok {
				return
			}
			// As the store keeps it, with its meta.
			r, err := convert.RecordFromResource(resource)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(convert.RecordToResource(r), resource) {
				t.Fatalf("as a resource: went in:\n%v\ncame out:\n%v", resource, convert.RecordToResource(r))
			}
			control, err := convert.RecordToControl(charter.WithMeta(r, meta))
			if err != nil {
				t.Fatal(err)
			}
			stored, err := convert.RecordFromControl(control, 4711)
			if err != nil {
				t.Fatal(err)
			}
			wantStored := convert.RecordToResource(charter.WithMeta(r, meta))
			if got := convert.RecordToResource(stored); !proto.Equal(got, wantStored) {
				t.Fatalf("through the store: went in:\n%v\ncame out:\n%v", wantStored, got)
			}
			if convert.Etag(stored) != "4711" || convert.Etag(r) != "" {
				t.Fatalf("etag %q when stored and %q before, want 4711 and none", convert.Etag(stored), convert.Etag(r))
			}
		}))
	}
}

// Of a call only the way in exists: every field must arrive somewhere, so that no two calls that differ look the same.
func TestCallKeepsEveryField(t *testing.T) {
	full := rapid.Custom(func(t *rapid.T) *chartergatev1.Call {
		c := &chartergatev1.Call{}
		fill(t, c.ProtoReflect(), "", nil)
		return c
	}).Example(1)
	call := func(p *chartergatev1.Call) (*routing.Call, error) {
		c := new(routing.Call)
		return c, convert.CallFromProto(c, p)
	}
	all, err := call(full)
	if err != nil {
		t.Fatal(err)
	}
	check := func(f protoreflect.FieldDescriptor, clear func(*chartergatev1.Call)) {
		less := proto.CloneOf(full)
		clear(less)
		got, err := call(less)
		if f.Name() == "input_tokens" { // the cached ones are more then
			if err == nil {
				t.Error("more cached than input tokens were accepted")
			}
			return
		}
		if f.Name() == "prefix_block_tokens" {
			if err == nil {
				t.Error("fingerprints of blocks of no size were accepted")
			}
			return
		}
		if err != nil {
			t.Errorf("without %s: %v", f.FullName(), err)
		} else if reflect.DeepEqual(all, got) {
			t.Errorf("%s makes no difference", f.FullName())
		}
	}
	for i := range full.ProtoReflect().Descriptor().Fields().Len() {
		f := full.ProtoReflect().Descriptor().Fields().Get(i)
		if f.Name() == "prompt_features" { // complexity goes before them
			continue
		}
		check(f, func(c *chartergatev1.Call) { c.ProtoReflect().Clear(f) })
	}
	for i := range full.Estimate.ProtoReflect().Descriptor().Fields().Len() {
		f := full.Estimate.ProtoReflect().Descriptor().Fields().Get(i)
		check(f, func(c *chartergatev1.Call) { c.Estimate.ProtoReflect().Clear(f) })
	}
}

func TestRefusals(t *testing.T) {
	owner := &chartergatev1.Owner{Name: "Ada Bauer"}
	year := &chartergatev1.Period{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_YEAR}
	early, late := timestamppb.New(time.Unix(1000, 0)), timestamppb.New(time.Unix(2000, 0))
	never := &timestamppb.Timestamp{Seconds: math.MaxInt64}
	budget := func(change func(*chartergatev1.Budget)) error {
		b := &chartergatev1.Budget{Name: "budgets/acme", Owner: owner, Period: proto.CloneOf(year)}
		change(b)
		_, err := convert.BudgetFromProto(b)
		return err
	}
	feature := func(change func(*chartergatev1.Charter)) error {
		c := &chartergatev1.Charter{Name: "charters/chat", Budget: "budgets/acme"}
		change(c)
		_, err := convert.CharterFromProto(c)
		return err
	}
	for _, test := range []struct {
		err   error
		field string
	}{
		{budget(func(b *chartergatev1.Budget) { b.Name = "acme" }), "name"},
		{budget(func(b *chartergatev1.Budget) { b.Name = "budgets/" }), "name"},
		{budget(func(b *chartergatev1.Budget) { b.Parent = "charters/chat" }), "parent"},
		{budget(func(b *chartergatev1.Budget) { b.Period = nil }), "period"},
		{budget(func(b *chartergatev1.Budget) { b.Period.TimeZone = "Europe/Zuerich" }), "period"},
		{budget(func(b *chartergatev1.Budget) { b.Period.TimeZone = "Local" }), "period"},
		{budget(func(b *chartergatev1.Budget) { b.Period.StartTime = early }), "period"},
		{budget(func(b *chartergatev1.Budget) { b.Period = &chartergatev1.Period{StartTime: late, EndTime: early} }), "period"},
		{budget(func(b *chartergatev1.Budget) { b.Period = &chartergatev1.Period{StartTime: never, EndTime: late} }), "period.start_time"},
		{budget(func(b *chartergatev1.Budget) { b.Period = &chartergatev1.Period{StartTime: early, EndTime: never} }), "period.end_time"},
		{feature(func(c *chartergatev1.Charter) { c.Budget = "acme" }), "budget"},
		{feature(func(c *chartergatev1.Charter) {
			c.Escalation = []*chartergatev1.EscalationStep{{Owner: owner}, {Owner: owner, After: &durationpb.Duration{Seconds: math.MaxInt64}}}
		}), "escalation[1].after"},
		{feature(func(c *chartergatev1.Charter) {
			c.Escalation = []*chartergatev1.EscalationStep{{Owner: owner, After: &durationpb.Duration{Seconds: 300 * 365 * 86400}}}
		}), "escalation[0].after"},
		{feature(func(c *chartergatev1.Charter) {
			c.CapabilityEvaluations = []*chartergatev1.CapabilityEvaluation{{ExpireTime: never}}
		}), "capability_evaluations[0].expire_time"},
		{second(convert.PriceBookFromProto(&chartergatev1.PriceBook{
			Name: "priceBooks/a", Prices: []*chartergatev1.Price{{Model: "m", EffectiveTime: never}},
		})), "prices[0].effective_time"},
		{second(convert.PolicyFromProto(&chartergatev1.Policy{Name: "policies/routing", ActiveRevision: "builtin/5f2a77c0"})), "active_revision"},
		{second(convert.PolicyFromProto(&chartergatev1.Policy{Name: "policies/routing", ActiveRevision: "policies/team.a/revisions/5f2a77c0"})), "active_revision"},
		{second(convert.PolicyFromProto(&chartergatev1.Policy{Name: "policies/team.a", ShadowRevision: "policies/team.b/revisions/5f2a77c0"})), "shadow_revision"},
		{second(convert.PolicyFromProto(&chartergatev1.Policy{Name: "policies/team.a", EarlierRevisions: []string{"5f2a77c0"}})), "earlier_revisions"},
		{second(convert.PolicyRevisionFromProto(&chartergatev1.PolicyRevision{Name: "5f2a77c0"})), "name"},
		{second(convert.EstimateFromProto(&chartergatev1.Estimate{InputTokens: 10, CachedInputTokens: 11})), "estimate.cached_input_tokens"},
		{second(convert.RecordFromResource(&chartergatev1.Resource{})), "resource"},
	} {
		invalid := (*charter.InvalidError)(nil)
		if !errors.As(test.err, &invalid) || invalid.Field != test.field {
			t.Errorf("error %v, want an InvalidError of %s", test.err, test.field)
			continue
		}
		if !strings.Contains(test.err.Error(), test.field) {
			t.Errorf("the error %q does not name %s", test.err, test.field)
		}
	}
	if period := (*charter.PeriodError)(nil); !errors.As(budget(func(b *chartergatev1.Budget) { b.Period.TimeZone = "Mars" }), &period) {
		t.Error("a bad time zone is no PeriodError")
	}
	if err := second(convert.UsageFromProto(&chartergatev1.Usage{InputTokens: 1, ContextOverheadTokens: 2})); !errors.Is(err, usage.ErrInvalid) {
		t.Errorf("more overhead than input: error %v, want ErrInvalid", err)
	}
	// What the server sets is not the caller's to get wrong.
	if err := feature(func(c *chartergatev1.Charter) { c.Etag, c.CreateTime, c.UpdateTime = "mine", never, never }); err != nil {
		t.Errorf("server-set fields are looked at: %v", err)
	}
}

func TestDefaults(t *testing.T) {
	book, err := convert.PriceBookFromProto(&chartergatev1.PriceBook{
		Name: "priceBooks/a", Prices: []*chartergatev1.Price{{Model: "m", OutputNanos: proto.Int64(0)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if p := book.Prices[0]; book.Currency != "USD" || p.Currency != "USD" || p.Book != "priceBooks/a" {
		t.Errorf("book in %q with price %+v, want USD and its book", book.Currency, p)
	}
	if rate, ok := book.Prices[0].Rate(pricing.Output); !ok || rate != 0 {
		t.Error("a rate of 0 is not the same as none")
	}
	if _, ok := book.Prices[0].Rate(pricing.Input); ok {
		t.Error("a rate came from nowhere")
	}
	budget, err := convert.BudgetFromProto(&chartergatev1.Budget{
		Name: "budgets/acme", Period: &chartergatev1.Period{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_DAY},
	})
	if err != nil || budget.Currency != "" {
		t.Errorf("currency %q, error %v; want it left to the server", budget.Currency, err)
	}
}

// What ToProto gives may be edited without touching the record.
func TestToProtoSharesNothing(t *testing.T) {
	c := &charter.Charter{ID: "chat", PermittedTiers: []string{"economy"}, Labels: map[string]string{"a": "b"}, AlertThresholdsPermille: []int32{800}}
	p := convert.CharterToProto(c)
	p.PermittedTiers[0], p.Labels["a"], p.AlertThresholdsPermille[0] = "premium", "c", 1
	if c.PermittedTiers[0] != "economy" || c.Labels["a"] != "b" || c.AlertThresholdsPermille[0] != 800 {
		t.Errorf("the record has changed to %+v", c)
	}
}

func second[T any](_ T, err error) error { return err }

// Core and the API number their values alike: conversions only change the type.
func TestNumbering(t *testing.T) {
	for _, pair := range [][2]int32{
		{int32(charter.StageExperiment), int32(chartergatev1.Stage_STAGE_EXPERIMENT)},
		{int32(charter.StagePilot), int32(chartergatev1.Stage_STAGE_PILOT)},
		{int32(charter.StageProduction), int32(chartergatev1.Stage_STAGE_PRODUCTION)},
		{int32(charter.StageRetired), int32(chartergatev1.Stage_STAGE_RETIRED)},
		{int32(charter.ExhaustedDeny), int32(chartergatev1.ExhaustedMode_EXHAUSTED_MODE_DENY)},
		{int32(charter.ExhaustedDowngrade), int32(chartergatev1.ExhaustedMode_EXHAUSTED_MODE_DOWNGRADE)},
		{int32(charter.ExhaustedTrickle), int32(chartergatev1.ExhaustedMode_EXHAUSTED_MODE_TRICKLE)},
		{int32(charter.FailDeny), int32(chartergatev1.FailMode_FAIL_MODE_DENY)},
		{int32(charter.FailStrictestTier), int32(chartergatev1.FailMode_FAIL_MODE_STRICTEST_TIER)},
		{int32(charter.PerUser), int32(chartergatev1.BudgetKey_BUDGET_KEY_USER)},
		{int32(charter.PerCohort), int32(chartergatev1.BudgetKey_BUDGET_KEY_COHORT)},
		{int32(charter.PerAgent), int32(chartergatev1.BudgetKey_BUDGET_KEY_AGENT)},
		{int32(charter.PerRun), int32(chartergatev1.BudgetKey_BUDGET_KEY_RUN)},
		{int32(charter.OnExpiryRelease), int32(chartergatev1.OnExpiry_ON_EXPIRY_RELEASE)},
		{int32(charter.OnExpiryCharge), int32(chartergatev1.OnExpiry_ON_EXPIRY_CHARGE)},
		{int32(charter.Window), int32(chartergatev1.CalendarPeriod_CALENDAR_PERIOD_UNSPECIFIED)},
		{int32(charter.Day), int32(chartergatev1.CalendarPeriod_CALENDAR_PERIOD_DAY)},
		{int32(charter.Week), int32(chartergatev1.CalendarPeriod_CALENDAR_PERIOD_WEEK)},
		{int32(charter.Month), int32(chartergatev1.CalendarPeriod_CALENDAR_PERIOD_MONTH)},
		{int32(charter.Quarter), int32(chartergatev1.CalendarPeriod_CALENDAR_PERIOD_QUARTER)},
		{int32(charter.Year), int32(chartergatev1.CalendarPeriod_CALENDAR_PERIOD_YEAR)},
		{int32(routing.Allow), int32(chartergatev1.Effect_EFFECT_ALLOW)},
		{int32(routing.Downgrade), int32(chartergatev1.Effect_EFFECT_DOWNGRADE)},
		{int32(routing.Throttle), int32(chartergatev1.Effect_EFFECT_THROTTLE)},
		{int32(routing.Deny), int32(chartergatev1.Effect_EFFECT_DENY)},
		{int32(routing.CacheOff), int32(chartergatev1.PromptCache_PROMPT_CACHE_OFF)},
		{int32(routing.Cache5m), int32(chartergatev1.PromptCache_PROMPT_CACHE_5M)},
		{int32(routing.Cache1h), int32(chartergatev1.PromptCache_PROMPT_CACHE_1H)},
		{int32(usage.OutcomeSuccess), int32(chartergatev1.Outcome_OUTCOME_SUCCESS)},
		{int32(usage.OutcomeFailure), int32(chartergatev1.Outcome_OUTCOME_FAILURE)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("core has %d where the API has %d", pair[0], pair[1])
		}
	}
}

func TestCachedAndWrittenTokensArePartOfTheInput(t *testing.T) {
	e := &chartergatev1.Estimate{InputTokens: 10, CachedInputTokens: 4, CacheWrite_5MTokens: 5, CacheWrite_1HTokens: 1}
	if _, err := convert.EstimateFromProto(e); err != nil {
		t.Error(err)
	}
	e.CacheWrite_1HTokens = 3
	_, err := convert.EstimateFromProto(e)
	if invalid, ok := errors.AsType[*charter.InvalidError](err); !ok || invalid.Field != "estimate.cache_write_1h_tokens" ||
		!strings.Contains(invalid.Problem, "is 3, 2 more than") {
		t.Error(err)
	}
}
