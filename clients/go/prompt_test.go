package chartergate

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
)

// What is sent has counts and no word of the prompt.
func TestPromptFeaturesTellNothing(t *testing.T) {
	f := PromptFeatures("Summarize the Zugspitze dossier for Ada Bauer, please. Why did it fail?")
	text := prototext.Format(f)
	for _, word := range []string{"Zugspitze", "Bauer", "dossier", `"`} {
		if strings.Contains(text, word) {
			t.Errorf("%s is in %s", word, text)
		}
	}
	if f.Words != 12 || f.Cues.Summarize != 1 || f.Cues.Reason != 1 || f.Names != 3 || f.Bytes != 71 {
		t.Errorf("%v", f)
	}
}
