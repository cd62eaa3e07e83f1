package policy

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// capabilities are what a policy may call: functions of their arguments alone, so that an answer can be remembered, and
// such that take time and memory in proportion to them. No clock, chance, network, environment or file.
var capabilities = func() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return !allowed[b.Name] || b.Nondeterministic || b.IsDeprecated()
	})
	c.AllowNet = []string{} // schemas are not fetched either
	return c
}()

var allowed = func() map[string]bool {
	set := map[string]bool{}
	for _, name := range strings.Fields(`
		eq assign internal.member_2 internal.member_3 internal.template_string print
		gt gte lt lte neq equal
		plus minus mul div round ceil floor abs rem bits.or bits.and bits.negate bits.xor bits.rsh numbers.range
		and or intersection union set_diff
		count sum product max min sort
		array.concat array.flatten array.slice array.reverse
		to_number is_number is_string is_boolean is_array is_set is_object is_null type_name
		regex.match regex.is_valid regex.find_n regex.find_all_string_submatch_n regex.split regex.replace
		glob.match glob.quote_meta
		concat format_int indexof indexof_n substring contains startswith endswith lower upper split sprintf
		replace strings.replace_n strings.any_prefix_match strings.any_suffix_match strings.count strings.reverse
		trim trim_left trim_right trim_prefix trim_suffix trim_space
		units.parse units.parse_bytes semver.is_valid semver.compare
		object.get object.keys object.subset object.union object.union_n object.remove object.filter
		json.filter json.remove json.marshal json.unmarshal json.is_valid
		base64.encode base64.decode base64.is_valid hex.encode hex.decode
		crypto.md5 crypto.sha1 crypto.sha256
		time.parse_ns time.parse_rfc3339_ns time.parse_duration_ns time.format time.date time.clock time.weekday
		time.add_date time.diff
		walk graph.reachable
	`) {
		set[name] = true
	}
	return set
}()

// Capabilities is what a policy and its tests may call, as OPA's capabilities.json.
func Capabilities() []byte {
	text, err := json.MarshalIndent(testCapabilities(), "", "  ")
	if err != nil {
		panic(err)
	}
	return append(text, '\n')
}
