// Package manifest reads and writes the resources of the API as YAML for people.
//
// A file has one or more documents, each one resource: its `kind` and the fields of the API's message, in snake_case or
// camelCase. Beyond that:
//
//   - names may be the bare id: `name: support-copilot`, `budget: support-copilot`, `parent: acme`;
//   - a field that ends in `_nanos` may be written without it, in whole units of the currency with at most nine
//     decimals: `limit: 5000.00`, `tool_call: {web_search: 10000}`;
//   - a field that ends in `_permille` or `_ppm` may be written without it, in per cent: `alert_thresholds: [80%, 95%]`;
//   - enums go by their short name in any case (`stage: production`), durations as `15m`, times as RFC 3339 or a date;
//   - a Policy may name its Rego files, relative to the manifest: `files: [routing.rego]`.
//
// Every error has file, line and column.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	maxFileBytes = 4 << 20
	maxResources = 1000 // of one file: it is applied in one transaction
)

// File is one manifest.
type File struct {
	// Path as it was found; `-` for the standard input.
	Path string
	// Resources in the order of the file, at least one.
	Resources []*chartergatev1.Resource
}

// Error is a mistake in a manifest.
type Error struct {
	File         string
	Line, Column int // from 1; 0 when the file as a whole is meant
	Problem      string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Problem
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Problem)
}

// Load reads the manifest at path, every *.yaml and *.yml under it in the order of their paths when it is a folder
// (hidden folders are left out), or the standard input when it is `-`. No resource may be there twice. It reads all
// files before it fails: the error joins one *Error for each mistake.
func Load(path string) ([]File, error) {
	if path == "-" {
		f, err := Read(path, os.Stdin)
		if err != nil {
			return nil, err
		}
		return []File{f}, nil
	}
	paths, err := find(path)
	if err != nil {
		return nil, err
	}
	var files []File
	var problems []error
	first := map[string]string{} // the file of each resource
	for _, p := range paths {
		resources, lines, err := load(p)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		for i, r := range resources {
			if other := first[Name(r)]; other != "" {
				problems = append(problems, &Error{p, lines[i].Line, lines[i].Column, Name(r) + " is in " + other + " too: remove one"})
			}
			first[Name(r)] = p
		}
		files = append(files, File{p, resources})
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return files, nil
}

func find(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var paths []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != path && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.IsDir() && slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(p)):
			paths = append(paths, p)
		}
		return nil
	})
	if err == nil && len(paths) == 0 {
		err = &Error{File: path, Problem: "there are no *.yaml or *.yml files in this folder"}
	}
	return paths, err
}

// Read reads one manifest of at most 4 MiB. name stands in errors, as in Parse.
func Read(name string, r io.Reader) (File, error) {
	data, err := read(name, r)
	if err != nil {
		return File{}, err
	}
	resources, err := Parse(name, data)
	return File{name, resources}, err
}

func load(path string) ([]*chartergatev1.Resource, []*yaml.Node, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	data, err := read(path, f)
	if err != nil {
		return nil, nil, err
	}
	return parse(path, data)
}

func read(name string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, &Error{File: name, Problem: "the file is larger than 4 MiB: split it"}
	}
	return data, nil
}

// Parse reads one manifest of at most 1000 resources. name stands in errors, and Rego files are found relative to it.
// The error joins one *Error for each mistake, at most 20.
func Parse(name string, data []byte) ([]*chartergatev1.Resource, error) {
	resources, _, err := parse(name, data)
	return resources, err
}

// parse is Parse, and gives the document of each resource.
func parse(name string, data []byte) (resources []*chartergatev1.Resource, at []*yaml.Node, err error) {
	documents, err := documents(name, data)
	if err != nil {
		return nil, nil, err
	}
	d := &decoder{file: name}
	seen := map[string]int{}
	for _, doc := range documents {
		r := d.resource(doc)
		if r == nil {
			continue
		}
		resources, at = append(resources, r), append(at, doc)
		if id := Name(r); id != "" {
			if line := seen[id]; line > 0 {
				d.errorf(doc, "%s is there twice: first on line %d", id, line)
			}
			seen[id] = doc.Line
		}
	}
	if len(d.problems) == 0 && len(resources) == 0 {
		d.problems = append(d.problems, &Error{File: name, Problem: "there is no resource in it: write one with `kind: Charter`, Budget, Catalog, PriceBook or Policy"})
	}
	if len(resources) > maxResources {
		d.errorf(documents[0], "the file has %d resources; at most %d are applied together: split it", len(resources), maxResources)
	}
	if len(d.problems) > 0 {
		return nil, nil, errors.Join(d.problems...)
	}
	return resources, at, nil
}

// documents parses YAML into the top nodes of its documents; empty documents are left out.
func documents(name string, data []byte) ([]*yaml.Node, error) {
	if at := invalidUTF8(data); at >= 0 {
		line, column := position(data, at)
		return nil, &Error{name, line, column, "the file is not UTF-8 text"}
	}
	var all []*yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			line, column := malformed(data)
			return nil, &Error{name, line, column, "malformed YAML: " + withoutPlace(err)}
		}
		if top := doc.Content[0]; top.Kind != yaml.ScalarNode || top.Tag != "!!null" {
			all = append(all, top)
		}
	}
}

// Message is the message that a resource holds; nil for an empty one.
func Message(r *chartergatev1.Resource) proto.Message {
	m := r.ProtoReflect()
	f := m.WhichOneof(m.Descriptor().Oneofs().ByName("resource"))
	if f == nil {
		return nil
	}
	return m.Get(f).Message().Interface()
}

// Name is a resource's name, such as `budgets/acme`.
func Name(r *chartergatev1.Resource) string {
	m := Message(r)
	if named, ok := m.(interface{ GetName() string }); ok {
		return named.GetName()
	}
	return ""
}
