package policy

import (
	"embed"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

//go:embed rego
var shippedFiles embed.FS

// Library gives the Rego files that every policy can import, by path, with their tests: `lib/tiers.rego` is
// data.chartergate.lib.tiers, `shipped/minimum_tier.rego` is data.chartergate.shipped.minimum_tier. `data.json` is the
// configuration that a policy's own is laid over.
func Library() map[string]string {
	files := map[string]string{}
	err := fs.WalkDir(shippedFiles, "rego", func(path string, entry fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, "rego/")
		if err != nil || entry.IsDir() || strings.HasPrefix(name, "routing") {
			return err
		}
		text, err := shippedFiles.ReadFile(path)
		files[name] = string(text)
		return err
	})
	if err != nil {
		panic(err) // embedded: it is there
	}
	return files
}

// Builtin gives the files of the policy that ships with the server, by path, with its library and without their tests.
func Builtin() map[string]string {
	files := Library()
	maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasSuffix(name, testSuffix) })
	text, err := shippedFiles.ReadFile("rego/routing.rego")
	if err != nil {
		panic(err)
	}
	files["routing.rego"] = string(text)
	return files
}

var libraryFiles = func() map[string]string {
	files := Library()
	delete(files, DataFile)
	return files
}()

// libraryModule is a file of the library.
type libraryModule struct{ name, text string }

// library has the modules of the library, by package.
var library = func() map[string]libraryModule {
	modules := map[string]libraryModule{}
	for name, text := range libraryFiles {
		if !strings.HasSuffix(name, testSuffix) {
			path := "data.chartergate." + strings.ReplaceAll(strings.TrimSuffix(name, ".rego"), "/", ".")
			modules[path] = libraryModule{name, text}
		}
	}
	return modules
}()

// libraryRoots are the packages that a policy cannot have.
var libraryRoots = []ast.Ref{ast.MustParseRef("data.chartergate.lib"), ast.MustParseRef("data.chartergate.shipped")}

func ofLibrary(path ast.Ref) bool {
	return slices.ContainsFunc(libraryRoots, path.HasPrefix)
}

// isLibraryFile says whether a module has the package that the library has in a file of this name. A policy that comes
// with such a file has its own instead of the library's.
func isLibraryFile(name string, m *ast.Module) bool {
	return library[m.Package.Path.String()].name == name
}

// addLibrary adds the modules of the library that modules import or name, and those that these do.
func addLibrary(parsed map[string]*ast.Module) error {
	var problems []Problem
	for todo := slices.Sorted(maps.Keys(parsed)); len(todo) > 0; todo = todo[1:] {
		ast.WalkRefs(parsed[todo[0]], func(r ast.Ref) bool {
			if !ofLibrary(r) {
				return false
			}
			const depth = 4 // data.chartergate.lib.tiers
			path := r.ConstantPrefix()
			path = path[:min(len(path), depth)]
			module, ok := library[path.String()]
			switch {
			case !ok:
				problems = append(problems, refuse(todo[0], r[0].Location, "there is no %s in the library%s", path,
					didYouMean(path.String(), slices.Sorted(maps.Keys(library)))).Problems...)
			case parsed[module.name] == nil:
				parsed[module.name] = parseShipped(module)
				todo = append(todo, module.name)
			}
			return false
		})
	}
	if len(problems) > 0 {
		return &InvalidError{problems}
	}
	return nil
}

func parseShipped(m libraryModule) *ast.Module {
	module, err := ast.ParseModuleWithOpts(m.name, m.text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities})
	if err != nil {
		panic(err) // embedded: a test parses it
	}
	return module
}
