package chartergate

import (
	"github.com/chartergate/chartergate/core/complexity"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// PromptFeatures counts what the server estimates a call's complexity from, for Call.PromptFeatures. The prompt does not
// leave the process: only counts do. At most its first 64 KiB are looked at, which takes about 12 µs for each KiB.
func PromptFeatures(prompt string) *chartergatev1.PromptFeatures {
	f := complexity.Of(prompt)
	return convert.FeaturesToProto(&f)
}
