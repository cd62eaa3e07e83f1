package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// DataFile is the file of a policy that Rego sees as `data`: an object with the one field `config`.
const DataFile = "data.json"

var configRoot = ast.MustParseRef("data.config")

// Data gives what Rego sees as `data` beside its rules: the library's configuration with a policy's own, if it has one,
// laid over it field by field. Error: *InvalidError.
func Data(modules map[string]string) (map[string]any, error) {
	text, err := shippedFiles.ReadFile("rego/" + DataFile)
	if err != nil {
		panic(err)
	}
	data, err := decodeData(string(text))
	if err != nil {
		panic(err)
	}
	text2, ok := modules[DataFile]
	if !ok {
		return data, nil
	}
	own, err := decodeData(text2)
	if err != nil {
		return nil, err
	}
	config := data["config"].(map[string]any)
	if err := lay(own["config"].(map[string]any), config, "config"); err != nil {
		return nil, err
	}
	return data, nil
}

func decodeData(text string) (map[string]any, error) {
	if len(text) > MaxModuleBytes {
		return nil, refuse(DataFile, nil, "the file has %d bytes, at most %d are allowed", len(text), MaxModuleBytes)
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value any
	err := decoder.Decode(&value)
	if err == nil {
		if _, err = decoder.Token(); err == io.EOF {
			err = nil
		} else {
			err = errors.New("there is more than one value")
		}
	}
	if err != nil {
		at := ast.NewLocation(nil, DataFile, 1, 1)
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			before := []byte(text)[:max(syntax.Offset-1, 0)]
			at.Row, at.Col = bytes.Count(before, []byte("\n"))+1, len(before)-bytes.LastIndexByte(before, '\n')
		}
		return nil, refuse(DataFile, at, "%s", err)
	}
	data, _ := value.(map[string]any)
	config, ok := data["config"].(map[string]any)
	if !ok || len(data) != 1 {
		return nil, refuse(DataFile, nil, `it must be an object with the one field config, which is an object: {"config": {…}}`)
	}
	for key := range config {
		if !identifier.MatchString(key) || slices.Contains(ast.KeywordsForRegoVersion(ast.RegoV1), key) {
			return nil, refuse(DataFile, nil, "config.%s: a name in config is made of letters, digits and _, and is no keyword of Rego", key)
		}
	}
	return data, nil
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// lay lays an object over another. Where below is the library's, a field has to be one of it, of the same type; an object
// or array that is empty there takes anything.
func lay(above, below map[string]any, path string) error {
	for _, key := range slices.Sorted(maps.Keys(above)) {
		at := path + "." + key
		old, known := below[key]
		object, _ := old.(map[string]any)
		fields, isObject := above[key].(map[string]any)
		switch {
		case !known && path != "config": // a policy can have sections of its own
			return refuse(DataFile, nil, "there is no %s%s", at, didYouMean(key, slices.Sorted(maps.Keys(below))))
		case known && jsonKind(old) != jsonKind(above[key]):
			return refuse(DataFile, nil, "%s is %s, it must be %s", at, jsonKind(above[key]), jsonKind(old))
		case isObject && len(object) > 0 && path == "config":
			if err := lay(fields, object, at); err != nil {
				return err
			}
		default:
			below[key] = above[key]
		}
	}
	return nil
}

func jsonKind(v any) string {
	switch v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "an array"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "true or false"
	}
	return "null"
}

// configModule is the configuration as rules, so that paths into it are checked.
func configModule(config map[string]any) (*ast.Module, error) {
	text := "package config\n"
	for _, key := range slices.Sorted(maps.Keys(config)) {
		value, err := ast.InterfaceToValue(config[key])
		if err != nil {
			return nil, refuse(DataFile, nil, "config.%s: %s", key, err)
		}
		text += fmt.Sprintf("\n%s := %s\n", key, value)
	}
	module, err := ast.ParseModuleWithOpts(DataFile, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, refuse(DataFile, nil, "%s", err)
	}
	return module, nil
}

// foldConfig puts the values of the configuration where modules name them, so that `input.request.input_tokens >
// data.config.context.max` is a comparison with a number, and takes out what can then never be of the library's rules.
// Error: a section of the policy's own that nobody reads.
func foldConfig(modules map[string]*ast.Module, config map[string]any) *ast.Error {
	value, err := ast.InterfaceToValue(map[string]any{"config": config})
	if err != nil {
		return ast.NewError(ast.CompileErr, nil, "%s", err)
	}
	unread := maps.Clone(config)
	for name := range shippedConfig {
		delete(unread, name)
	}
	fold := func(r ast.Ref) (ast.Value, error) {
		if !r.HasPrefix(configRoot) {
			return r, nil
		}
		if len(r) == len(configRoot) || !ast.IsConstant(r[len(configRoot)].Value) {
			clear(unread)
			return r, nil
		}
		if name, ok := r[len(configRoot)].Value.(ast.String); ok {
			delete(unread, string(name))
		}
		if !r.IsGround() {
			return r, nil
		}
		if found, err := value.Find(r[1:]); err == nil {
			return found, nil
		}
		return r, nil
	}
	for _, m := range modules {
		if m.Package.Path.Equal(configRoot) {
			continue
		}
		for _, r := range m.Rules {
			if err := foldRule(r, fold); err != nil {
				return ast.NewError(ast.CompileErr, r.Location, "%s", err)
			}
		}
		if ofLibrary(m.Package.Path) {
			for i, r := range m.Rules {
				m.Rules[i] = alive(r)
			}
		}
	}
	if len(unread) > 0 {
		if err := missingSection(modules, config); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unread)) {
		return ast.NewError(ast.CompileErr, ast.NewLocation(nil, DataFile, 0, 0), "no file reads config.%s%s", name,
			didYouMean(name, slices.Sorted(maps.Keys(shippedConfig))))
	}
	return nil
}

// missingSection finds a file that reads a section that the configuration does not have: a section that no file reads may
// be meant.
func missingSection(modules map[string]*ast.Module, config map[string]any) (missing *ast.Error) {
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		ast.WalkRefs(modules[name], func(r ast.Ref) bool {
			if missing != nil || len(r) <= len(configRoot) || !r.HasPrefix(configRoot) {
				return false
			}
			section, ok := r[len(configRoot)].Value.(ast.String)
			if _, known := config[string(section)]; ok && !known {
				names := slices.Sorted(maps.Keys(config))
				missing = ast.NewError(ast.CompileErr, r[0].Location, "undefined ref: %s: data.config has no %s, it has %s%s", r, string(section),
					strings.Join(names, ", "), didYouMean(string(section), names))
			}
			return false
		})
	}
	return missing
}

var shippedConfig = func() map[string]any {
	data, err := Data(nil)
	if err != nil {
		panic(err)
	}
	return data["config"].(map[string]any)
}()

func foldRule(r *ast.Rule, fold func(ast.Ref) (ast.Value, error)) error {
	for ; r != nil; r = r.Else {
		body, err := ast.TransformRefs(r.Body, fold)
		if err != nil {
			return err
		}
		r.Body = body.(ast.Body)
		for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
			if t == nil {
				continue
			}
			folded, err := ast.TransformRefs(t.Value, fold)
			if err != nil {
				return err
			}
			t.Value = folded.(ast.Value)
		}
	}
	return nil
}

// alive is a rule without the branches whose conditions are false whatever the input. A rule of which nothing is left is
// one that is never true and reads nothing.
func alive(r *ast.Rule) *ast.Rule {
	if r.Else != nil {
		r.Else = alive(r.Else)
		if never(r.Else) {
			r.Else = nil
		}
	}
	if !slices.ContainsFunc(r.Body, isFalse) {
		return r
	}
	if r.Else != nil {
		next := *r.Else
		next.Head = next.Head.Copy()
		next.Head.Name, next.Head.Reference, next.Head.Args = r.Head.Name, r.Head.Reference, r.Head.Args
		return &next
	}
	r.Body = ast.NewBody(ast.NewExpr(ast.BooleanTerm(false)))
	if r.Head.Key != nil {
		r.Head.Key = ast.StringTerm("")
	}
	if r.Head.Value != nil {
		r.Head.Value = ast.BooleanTerm(true)
	}
	return r
}

func never(r *ast.Rule) bool { return r.Else == nil && len(r.Body) == 1 && isFalse(r.Body[0]) }

// isFalse finds conditions that are false by themselves: the value false, and comparisons of constants.
func isFalse(e *ast.Expr) bool {
	if e.Negated || len(e.With) > 0 {
		return false
	}
	switch terms := e.Terms.(type) {
	case *ast.Term:
		return terms.Value.Compare(ast.Boolean(false)) == 0
	case []*ast.Term:
		if len(terms) != 3 || !ast.IsConstant(terms[1].Value) || !ast.IsConstant(terms[2].Value) {
			return false
		}
		order := terms[1].Value.Compare(terms[2].Value)
		switch terms[0].Value.String() {
		case ast.Equal.Name, ast.Equality.Name:
			return order != 0
		case ast.NotEqual.Name:
			return order == 0
		case ast.GreaterThan.Name:
			return order <= 0
		case ast.GreaterThanEq.Name:
			return order < 0
		case ast.LessThan.Name:
			return order >= 0
		case ast.LessThanEq.Name:
			return order > 0
		}
	}
	return false
}
