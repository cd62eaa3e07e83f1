package server

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/chartergate/chartergate/core/routing"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

// What was used before leaves nothing behind.
func TestRecycledAnswers(t *testing.T) {
	full := &preflight.Decision{
		Effect: routing.Downgrade, Tier: "economy", Model: "small", Provider: "p",
		Alternates:     []preflight.Alternate{{Tier: "a", Model: "b", Cost: 1}, {Tier: "c", Model: "d", Cost: 2}},
		MaxInputTokens: 1, MaxOutputTokens: 2, TrimContextToTokens: 3, PromptCache: 1,
		Reasons:    []preflight.Reason{{Code: preflight.CodePolicy, Message: "m", Budget: "b"}, {Code: preflight.CodeOverflow, Message: "n"}},
		RetryDelay: time.Second, Cost: 4, Currency: "EUR", PolicyRevision: "r", PriceRevision: 5, CharterRevision: 6,
	}
	for field, v := range reflect.ValueOf(*full).Fields() {
		if field.IsExported() && field.Name != "Price" && v.IsZero() {
			t.Fatalf("the test's decision has no %s", field.Name)
		}
	}
	short := &preflight.Decision{Effect: routing.Allow, Reasons: full.Reasons[1:]}
	none := &preflight.Decision{}
	used := new(chartergatev1.Decision)
	for _, d := range []*preflight.Decision{full, short, none, full, none, short, full} {
		fresh := new(chartergatev1.Decision)
		fillDecision(fresh, d)
		if fillDecision(used, d); !proto.Equal(used, fresh) {
			t.Fatalf("a recycled answer is %v, want %v", used, fresh)
		}
		arrived := 0
		fresh.ProtoReflect().Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
			arrived++
			return true
		})
		if fields := fresh.ProtoReflect().Descriptor().Fields().Len(); d == full && arrived != fields {
			t.Errorf("of a full decision %d of %d fields arrive", arrived, fields)
		}
	}
	hold := fillHold(nil, &preflight.Hold{Token: "t", Amount: 1, Expires: time.Unix(1, 2)})
	if got := fillHold(hold, &preflight.Hold{Token: "u", Amount: 2, Expires: time.Unix(3, 0)}); got != hold || got.Token != "u" ||
		got.AmountNanos != 2 || !got.ExpireTime.AsTime().Equal(time.Unix(3, 0)) {
		t.Errorf("a recycled hold is %v", got)
	}
	if fillHold(hold, nil) != nil {
		t.Error("a refusal has a hold")
	}
}
