package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// File is a file of a policy.
type File struct{ Name, Text string }

// Format gives the files of Rego that `opa fmt` would change, as it would leave them, by name. Error: *InvalidError.
func Format(modules map[string]string) ([]File, error) {
	var changed []File
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if !strings.HasSuffix(name, ".rego") {
			continue
		}
		text, err := format.SourceWithOpts(name, []byte(modules[name]), format.Opts{RegoVersion: ast.RegoV1, Capabilities: capabilities})
		if err != nil {
			return nil, invalid(err)
		}
		if string(text) != modules[name] {
			changed = append(changed, File{name, string(text)})
		}
	}
	return changed, nil
}
