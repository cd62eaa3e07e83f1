// Package scaffold has policies to start from, with what editors and plain OPA need to work on them.
package scaffold

import (
	"embed"
	"fmt"
	"maps"
	"strings"

	"github.com/chartergate/chartergate/policy"
)

//go:embed files
var templates embed.FS

// ToolsDir is the hidden directory of a policy that has what tools need and uploads leave out: the library, the schemas
// and OPA's capabilities.
const ToolsDir = ".chartergate"

// Files gives the files of a policy to start from, by path with slashes: what is uploaded, a README and settings of
// editors, and those of Tools. name is the policy, such as `routing`, `team.support` or `feature.support-copilot`.
func Files(name string) map[string]string {
	kind, _, _ := strings.Cut(name, ".")
	files := Tools()
	for _, f := range []string{"routing.rego", "routing_test.rego"} {
		files[f] = read(kind + "/" + f)
	}
	files[policy.DataFile] = data(kind)
	files["README.md"] = strings.ReplaceAll(read("README.md"), "{{policy}}", name)
	files[".vscode/settings.json"] = read("vscode.json")
	files[".regal/config.yaml"] = read("regal.yaml")
	return files
}

// Tools gives the files of ToolsDir. The schemas have a directory each, since `opa test .` takes every JSON file for data
// and merges those of a directory.
func Tools() map[string]string {
	files := map[string]string{
		ToolsDir + "/capabilities.json":        string(policy.Capabilities()),
		ToolsDir + "/schemas/input/v1.json":    string(policy.InputSchema()),
		ToolsDir + "/schemas/decision/v1.json": string(policy.DecisionSchema()),
	}
	library := policy.Library()
	maps.DeleteFunc(library, func(name, _ string) bool { return name == policy.DataFile || strings.HasSuffix(name, "_test.rego") })
	for name, text := range library {
		files[ToolsDir+"/"+name] = text
	}
	return files
}

// data is the configuration of a kind of policy. That of the organisation has that of the shipped set too, whole: plain
// OPA knows no defaults.
func data(kind string) string {
	const open = "{\n  \"config\": {\n"
	own := read(kind + "/config.json")
	shipped, ok := strings.CutPrefix(policy.Library()[policy.DataFile], open)
	switch {
	case kind != "routing":
		return open + own + "  }\n}\n"
	case !ok:
		panic(fmt.Sprintf("%s of the library does not begin with %q", policy.DataFile, open))
	}
	return open + strings.TrimSuffix(own, "\n") + ",\n" + shipped
}

func read(name string) string {
	text, err := templates.ReadFile("files/" + name)
	if err != nil {
		panic(err) // embedded
	}
	return string(text)
}
