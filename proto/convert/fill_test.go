package convert_test

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

var serverSet = []string{"etag", "create_time", "update_time"}

// text has the fields whose form matters.
var text = map[protoreflect.FullName]string{
	"chartergate.v1.Charter.name":             "charters/support-copilot",
	"chartergate.v1.Charter.budget":           "budgets/support",
	"chartergate.v1.Budget.name":              "budgets/support",
	"chartergate.v1.Budget.parent":            "budgets/acme",
	"chartergate.v1.Catalog.name":             "catalog",
	"chartergate.v1.PriceBook.name":           "priceBooks/openai",
	"chartergate.v1.Policy.name":              "policies/team.support",
	"chartergate.v1.Policy.active_revision":   "policies/team.support/revisions/5f2a77c0",
	"chartergate.v1.Policy.earlier_revisions": "policies/team.support/revisions/5f2a77c1",
	"chartergate.v1.Policy.shadow_revision":   "policies/team.support/revisions/5f2a77c2",
	"chartergate.v1.PolicyRevision.name":      "policies/team.support/revisions/5f2a77c0",
}

// fill gives every field of m a value that is not its zero, but the fields in without, which are named by their path.
// A field that is new in the contract is filled too, so that a conversion that forgets it fails.
func fill(t *rapid.T, m protoreflect.Message, path string, without []string) {
	switch m.Interface().(type) {
	case *timestamppb.Timestamp:
		seconds := rapid.Int64Range(1, 4_000_000_000).Draw(t, path)
		proto.Merge(m.Interface(), timestamppb.New(time.Unix(seconds, 1)))
		return
	case *durationpb.Duration:
		proto.Merge(m.Interface(), durationpb.New(time.Duration(rapid.Int64Range(1, 1e15).Draw(t, path))))
		return
	case *chartergatev1.PriceVariant: // not every mix of conditions makes sense
		v := rapid.SampledFrom(variants).Draw(t, path)
		rates := &chartergatev1.PriceRates{}
		if !v.ExcessOnly {
			fill(t, rates.ProtoReflect(), path, nil)
		} else {
			rates.InputNanos = proto.Int64(rapid.Int64Range(0, 1e9).Draw(t, path))
		}
		v = proto.CloneOf(v)
		v.Region, v.Rates = rapid.StringMatching("[a-z]{12}").Draw(t, path), rates // no two alike
		proto.Merge(m.Interface(), v)
		return
	case *chartergatev1.Period:
		proto.Merge(m.Interface(), rapid.SampledFrom(periods).Draw(t, path))
		return
	}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		at := path + string(f.Name())
		switch {
		case slices.Contains(without, at):
		case f.IsMap():
			for range rapid.IntRange(1, 3).Draw(t, at) {
				key := protoreflect.ValueOfString(rapid.StringMatching("[a-z]{1,8}").Draw(t, at)).MapKey()
				m.Mutable(f).Map().Set(key, scalar(t, f.MapValue(), at))
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range rapid.IntRange(1, 3).Draw(t, at) {
				if f.Message() == nil {
					list.Append(scalar(t, f, at))
					continue
				}
				fill(t, list.AppendMutable().Message(), at+".", without)
			}
		case f.Message() != nil:
			fill(t, m.Mutable(f).Message(), at+".", without)
		default:
			m.Set(f, scalar(t, f, at))
		}
	}
	// Shares of another count.
	switch m := m.Interface().(type) {
	case *chartergatev1.Usage:
		m.ContextOverheadTokens = rapid.Int64Range(1, m.InputTokens).Draw(t, "overhead")
	case *chartergatev1.Estimate:
		m.InputTokens = max(m.InputTokens, 3)
		m.CachedInputTokens = rapid.Int64Range(1, m.InputTokens-2).Draw(t, "cached")
		m.CacheWrite_5MTokens = rapid.Int64Range(1, m.InputTokens-m.CachedInputTokens-1).Draw(t, "written for 5 minutes")
		m.CacheWrite_1HTokens = m.InputTokens - m.CachedInputTokens - m.CacheWrite_5MTokens
	}
}

func scalar(t *rapid.T, f protoreflect.FieldDescriptor, at string) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		if s, ok := text[f.FullName()]; ok {
			return protoreflect.ValueOfString(s)
		}
		return protoreflect.ValueOfString(rapid.StringMatching("[A-Za-z0-9 é]{1,12}").Draw(t, at))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32Range(1, 1000).Draw(t, at))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64Range(1, 1_000_000_000).Draw(t, at))
	case protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64Min(1).Draw(t, at))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.IntRange(1, f.Enum().Values().Len()-1).Draw(t, at)))
	}
	t.Fatalf("%s is of a kind that no conversion has met yet: %s", f.FullName(), f.Kind())
	return protoreflect.Value{}
}

var variants = []*chartergatev1.PriceVariant{
	{ServiceTier: "batch", MultiplierPpm: 500_000},
	{StartTime: "16:30", EndTime: "00:30:15", Weekdays: []int32{1, 5, 7}},
	{OverInputTokens: 200_000, TokenFactor: &chartergatev1.Ratio{Numerator: 1, Denominator: 3}},
	{OverInputTokens: 200_000, ExcessOnly: true},
}

// periods are of both kinds, for one message cannot be both.
var periods = []*chartergatev1.Period{
	{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_DAY},
	{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_WEEK, TimeZone: "Europe/Zurich"},
	{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_MONTH, TimeZone: "America/New_York"},
	{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_QUARTER, TimeZone: "UTC"},
	{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_YEAR, TimeZone: "Asia/Kolkata"},
	{StartTime: timestamppb.New(time.Unix(1_700_000_000, 1)), EndTime: timestamppb.New(time.Unix(1_800_000_000, 2)), TimeZone: "Europe/Zurich"},
}

func asResource(m proto.Message) (*chartergatev1.Resource, bool) {
	switch m := m.(type) {
	case *chartergatev1.Charter:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Charter{Charter: m}}, true
	case *chartergatev1.Budget:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Budget{Budget: m}}, true
	case *chartergatev1.Catalog:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Catalog{Catalog: m}}, true
	case *chartergatev1.PriceBook:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_PriceBook{PriceBook: m}}, true
	case *chartergatev1.Policy:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Policy{Policy: m}}, true
	}
	return nil, false
}
