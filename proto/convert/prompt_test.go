package convert_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/chartergate/chartergate/core/complexity"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func TestFeaturesKeepEveryField(t *testing.T) {
	n := int32(0)
	var fill func(m protoreflect.Message)
	fill = func(m protoreflect.Message) {
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			switch n++; f.Kind() {
			case protoreflect.MessageKind:
				fill(m.Mutable(f).Message())
			case protoreflect.Int64Kind:
				m.Set(f, protoreflect.ValueOfInt64(int64(n)))
			default:
				m.Set(f, protoreflect.ValueOfInt32(n))
			}
		}
	}
	in := new(chartergatev1.PromptFeatures)
	fill(in.ProtoReflect())
	f := convert.FeaturesFromProto(in)
	if out := convert.FeaturesToProto(&f); !proto.Equal(in, out) {
		t.Errorf("went in: %v\ncame out: %v", in, out)
	}
}

func TestComplexityOfACall(t *testing.T) {
	const prompt = "Prove that there are infinitely many primes congruent to 3 modulo 4."
	f := complexity.Of(prompt)
	features := convert.FeaturesToProto(&f)
	estimate := &chartergatev1.Estimate{InputTokens: 20}
	for _, c := range []struct {
		name string
		call *chartergatev1.Call
		want int32
	}{
		{"neither", &chartergatev1.Call{TaskClass: "math", Estimate: estimate}, 0},
		{"features", &chartergatev1.Call{TaskClass: "math", Estimate: estimate, PromptFeatures: features}, complexity.Score(&f, "math", 20)},
		{"a complexity goes before features", &chartergatev1.Call{TaskClass: "math", Estimate: estimate, Complexity: 7, PromptFeatures: features}, 7},
	} {
		var got routing.Call
		if err := convert.CallFromProto(&got, c.call); err != nil || got.Complexity != c.want {
			t.Errorf("%s: %d, want %d (%v)", c.name, got.Complexity, c.want, err)
		}
	}
}
