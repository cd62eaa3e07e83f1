package manifest

import (
	"testing"

	"google.golang.org/protobuf/proto"
)

func TestExamplesRoundTrip(t *testing.T) {
	files, err := Load("../examples/acme")
	if err != nil {
		t.Fatal(err)
	}
	resources := 0
	for _, f := range files {
		for _, r := range f.Resources {
			resources++
			data, err := Format(r)
			if err != nil {
				t.Fatalf("%s: %v", Name(r), err)
			}
			back, err := Parse("formatted.yaml", data)
			if err != nil {
				t.Fatalf("%s: %v\n%s", Name(r), err, data)
			}
			if len(back) != 1 || !proto.Equal(back[0], r) {
				t.Errorf("%s changed:\n%s", Name(r), data)
			}
		}
	}
	if len(files) != 4 || resources != 15 {
		t.Errorf("%d files with %d resources; want 4 with 15", len(files), resources)
	}
}
