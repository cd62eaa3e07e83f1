package policy

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strconv"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of what functions make in one evaluation. What they make is estimated, from above, before they make it.
const (
	MaxTextBytes   = 256 << 10 // of a text that a function makes
	MaxResultBytes = 4 << 20   // of any other result
	MaxMadeBytes   = 16 << 20  // of all results of one evaluation together

	maxDigits     = 1024    // of a number, and its decimal exponent
	maxNodes      = 100_000 // of a value that is compared, merged or written out as a whole
	maxJSONDepth  = 64
	maxRegexWork  = 1 << 20 // instructions of the expression times bytes of the text
	maxRegexSize  = 4096    // instructions
	maxGlobBytes  = 256     // of the pattern
	maxGlobText   = 1024
	maxGlobMetas  = 4 // of * ? [ { in a pattern
	bytesPerTerm  = 80
	bytesPerSlot  = 16
	bytesPerEntry = 96 // of an object or set
)

// BoundError says that a function would have made or done more than an evaluation may.
type BoundError struct {
	At      string // file:line; empty: not known
	Problem string
}

func (e *BoundError) Error() string {
	if e.At == "" {
		return e.Problem
	}
	return e.At + ": " + e.Problem
}

// cost estimates, from above, the bytes that a function makes of its arguments, or refuses them.
type cost func(args []*ast.Term) (int, error)

// costs are the functions whose time or result is not bounded by the size of their arguments, and those whose arguments
// may be far larger than the memory that they take: a value can hold another one many times over.
var costs = map[string]cost{
	"concat":                           concatCost,
	"format_int":                       numbersCost,
	"indexof_n":                        perMatch(0, 1),
	"substring":                        perByte(4),
	"strings.reverse":                  perByte(5),
	"lower":                            perByte(2),
	"upper":                            perByte(2),
	"split":                            perMatch(0, 1),
	"sprintf":                          sprintfCost,
	"internal.template_string":         writtenCost,
	"replace":                          replaceCost,
	"strings.replace_n":                replaceAllCost,
	"regex.match":                      regexCost(0, 1, nil),
	"regex.is_valid":                   perByte(1),
	"regex.find_n":                     regexCost(0, 1, func(s, _ string) int { return (len(s) + 1) * bytesPerTerm }),
	"regex.split":                      regexCost(0, 1, func(s, _ string) int { return (len(s) + 1) * bytesPerTerm }),
	"regex.find_all_string_submatch_n": regexCost(0, 1, submatchBytes),
	"regex.replace":                    regexReplaceCost,
	"glob.match":                       globCost,
	"glob.quote_meta":                  perByte(2),
	"json.marshal":                     writtenCost,
	"json.unmarshal":                   unmarshalCost,
	"json.is_valid":                    unmarshalCost,
	"json.filter":                      nodesCost,
	"json.remove":                      nodesCost,
	"base64.encode":                    perByte(2),
	"base64.decode":                    perByte(1),
	"base64.is_valid":                  perByte(1),
	"hex.encode":                       perByte(2),
	"hex.decode":                       perByte(1),
	"array.concat":                     slotsCost,
	"array.flatten":                    flattenCost,
	"array.slice":                      slotsCost,
	"array.reverse":                    slotsCost,
	"numbers.range":                    rangeCost,
	"object.union":                     nodesCost,
	"object.union_n":                   nodesCost,
	"object.filter":                    entriesCost,
	"object.remove":                    entriesCost,
	"object.keys":                      entriesCost,
	"object.subset":                    nodesCost,
	"and":                              entriesCost,
	"or":                               entriesCost,
	"union":                            nodesCost,
	"intersection":                     nodesCost,
	"set_diff":                         entriesCost,
	"sort":                             nodesCost,
	"walk":                             nodesCost,
	"graph.reachable":                  nodesCost,
	"plus":                             numbersCost,
	"minus":                            numbersCost,
	"mul":                              numbersCost,
	"div":                              numbersCost,
	"rem":                              numbersCost,
	"round":                            numbersCost,
	"ceil":                             numbersCost,
	"floor":                            numbersCost,
	"abs":                              numbersCost,
	"bits.or":                          numbersCost,
	"bits.and":                         numbersCost,
	"bits.xor":                         numbersCost,
	"bits.negate":                      numbersCost,
	"bits.rsh":                         numbersCost,
	"sum":                              collectionNumbersCost,
	"product":                          collectionNumbersCost,
	"to_number":                        numeralCost,
	"units.parse":                      numeralCost,
	"units.parse_bytes":                numeralCost,
	"semver.compare":                   perByte(2),
	"semver.is_valid":                  numeralCost,
	"time.parse_ns":                    perByte(1),
	"time.parse_rfc3339_ns":            perByte(1),
	"time.parse_duration_ns":           numeralCost,
	"time.format":                      writtenCost,
	"equal":                            comparedCost,
	"neq":                              comparedCost,
	"gt":                               comparedCost,
	"gte":                              comparedCost,
	"lt":                               comparedCost,
	"lte":                              comparedCost,
	"internal.member_2":                comparedCost,
	"internal.member_3":                comparedCost,
}

// makers allocate enough that what they make is added up over an evaluation.
func makes(name string) bool {
	switch name {
	case "equal", "neq", "gt", "gte", "lt", "lte", "internal.member_2", "internal.member_3", "plus", "minus", "mul", "div",
		"rem", "round", "ceil", "floor", "abs", "bits.or", "bits.and", "bits.xor", "bits.negate", "bits.rsh", "to_number":
		return false
	}
	return true
}

// OPA keeps its functions in one table of the process, so they are bounded for every evaluation in it: of policies, of
// their tests, and of the fast path, which takes them from there.
func init() {
	for name, c := range costs {
		plain := topdown.GetBuiltin(name)
		if plain == nil || !allowed[name] {
			panic("policy: there is no function " + name)
		}
		if makes(name) {
			ast.BuiltinMap[name].CanSkipBctx = false // the sum of an evaluation is kept in its context
		}
		topdown.RegisterBuiltinFunc(name, bounded(name, c, plain))
	}
}

// made is what the functions of an evaluation have made; kept in its context under its own type.
type made struct{}

func bounded(name string, c cost, plain topdown.BuiltinFunc) topdown.BuiltinFunc {
	sums := makes(name)
	return func(b topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		n, err := c(args)
		if err == nil && sums && b.Cache != nil {
			total, _ := b.Cache[made{}].(*int)
			if total == nil {
				total = new(int)
				b.Cache[made{}] = total
			}
			if *total += n; *total > MaxMadeBytes {
				err = fmt.Errorf("the evaluation makes more than %d bytes of texts and collections", MaxMadeBytes)
			}
		}
		if err != nil {
			e := &BoundError{Problem: name + ": " + err.Error()}
			if b.Location != nil && b.Location.File != "" {
				e.At = b.Location.File + ":" + strconv.Itoa(b.Location.Row)
			}
			return topdown.Halt{Err: e}
		}
		return plain(b, args, iter)
	}
}

var errNumber = fmt.Errorf("a number has at most %d digits", maxDigits)

func textOf(t *ast.Term) string {
	s, _ := t.Value.(ast.String)
	return string(s)
}

func oneText(n int) (int, error) {
	if n > MaxTextBytes {
		return 0, fmt.Errorf("it would make a text of more than %d bytes", MaxTextBytes)
	}
	return n, nil
}

func result(n int) (int, error) {
	if n > MaxResultBytes {
		return 0, fmt.Errorf("its result would take more than %d bytes", MaxResultBytes)
	}
	return n, nil
}

// perByte is for a result in proportion to the texts that are the arguments.
func perByte(times int) cost {
	return func(args []*ast.Term) (int, error) {
		n := 0
		for _, t := range args {
			n += len(textOf(t))
		}
		return result(n * times)
	}
}

// perMatch is for a term for each place where one text is in another.
func perMatch(text, sought int) cost {
	return func(args []*ast.Term) (int, error) {
		return result((strings.Count(textOf(args[text]), textOf(args[sought])) + 1) * bytesPerTerm)
	}
}

func concatCost(args []*ast.Term) (int, error) {
	n, delimiter := 0, len(textOf(args[0]))
	each(args[1].Value, func(t *ast.Term) { n += len(textOf(t)) + delimiter })
	return oneText(n)
}

func replaceCost(args []*ast.Term) (int, error) {
	s, old, fresh := textOf(args[0]), textOf(args[1]), textOf(args[2])
	return oneText(len(s) + strings.Count(s, old)*len(fresh))
}

func replaceAllCost(args []*ast.Term) (int, error) {
	patterns, ok := args[0].Value.(ast.Object)
	if !ok {
		return 0, nil
	}
	s := textOf(args[1])
	if patterns.Len()*len(s) > maxRegexWork {
		return 0, fmt.Errorf("%d replacements in a text of %d bytes are too many", patterns.Len(), len(s))
	}
	n := len(s)
	patterns.Foreach(func(old, fresh *ast.Term) { n += strings.Count(s, textOf(old)) * len(textOf(fresh)) })
	return oneText(n)
}

// sprintfCost counts widths and precisions, and every argument for every verb.
func sprintfCost(args []*ast.Term) (int, error) {
	format, verbs, width := textOf(args[0]), 0, 0
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		verbs++
		for i++; i < len(format) && strings.IndexByte("+-# 0123456789.[]*", format[i]) >= 0; i++ {
			if format[i] == '*' {
				return 0, errors.New("a width or precision cannot be an argument (*): write it out")
			}
			n := 0
			for ; i < len(format) && format[i] >= '0' && format[i] <= '9' && n <= MaxTextBytes; i++ {
				n = 10*n + int(format[i]-'0')
			}
			if width += n; n > 0 {
				i--
			}
		}
	}
	longest, err := 0, error(nil)
	each(args[1].Value, func(t *ast.Term) {
		n, e := written(t.Value)
		longest, err = max(longest, n), errors.Join(err, e)
	})
	if err != nil {
		return 0, errNodes
	}
	return oneText(len(format) + min(width, 2*MaxTextBytes) + verbs*longest)
}

func writtenCost(args []*ast.Term) (int, error) {
	n := 0
	for _, t := range args {
		if _, isVar := t.Value.(ast.Var); isVar {
			continue
		}
		m, err := written(t.Value)
		if err != nil {
			return 0, err
		}
		n += m
	}
	return oneText(n)
}

func unmarshalCost(args []*ast.Term) (int, error) {
	s := textOf(args[0])
	if err := checkNumerals(s); err != nil {
		return 0, err
	}
	if depth := nesting(s); depth > maxJSONDepth {
		return 0, fmt.Errorf("the JSON is nested %d deep, at most %d are allowed", depth, maxJSONDepth)
	}
	return result(len(s) + 2*bytesPerTerm*(strings.Count(s, ",")+strings.Count(s, "[")+strings.Count(s, "{")))
}

func slotsCost(args []*ast.Term) (int, error) {
	n := 0
	for _, t := range args {
		n += length(t.Value)
	}
	return result(n * bytesPerSlot)
}

func flattenCost(args []*ast.Term) (int, error) {
	n := length(args[0].Value)
	each(args[0].Value, func(t *ast.Term) { n += length(t.Value) })
	return result(n * bytesPerSlot)
}

func entriesCost(args []*ast.Term) (int, error) {
	n := 0
	for _, t := range args {
		n += length(t.Value)
	}
	return result(n * bytesPerEntry)
}

func nodesCost(args []*ast.Term) (int, error) {
	n, err := nodes(args)
	if err != nil {
		return 0, err
	}
	return result(n * bytesPerEntry)
}

// comparedCost looks at collections only: they are compared as a whole.
func comparedCost(args []*ast.Term) (int, error) {
	for _, t := range args[:1] {
		switch t.Value.(type) {
		case *ast.Array, ast.Object, ast.Set:
			if _, err := nodes(args[:1]); err != nil {
				return 0, err
			}
		}
	}
	return 0, nil
}

func rangeCost(args []*ast.Term) (int, error) {
	var ends [2]int64
	for i := range ends {
		n, ok := args[i].Value.(ast.Number)
		if !ok {
			return 0, nil // its own error is better
		}
		if ends[i], ok = n.Int64(); !ok {
			return numbersCost(args)
		}
	}
	n := uint64(max(ends[0], ends[1])) - uint64(min(ends[0], ends[1]))
	if n > MaxResultBytes {
		n = MaxResultBytes
	}
	return result((int(n) + 1) * bytesPerTerm)
}

func numbersCost(args []*ast.Term) (int, error) {
	for _, t := range args {
		switch v := t.Value.(type) {
		case ast.Number:
			if len(v) > 20 || strings.IndexAny(string(v), "eE") >= 0 {
				if err := checkNumerals(string(v)); err != nil {
					return 0, err
				}
			}
		case ast.Set: // minus of sets
			return entriesCost(args)
		}
	}
	return 0, nil
}

func collectionNumbersCost(args []*ast.Term) (int, error) {
	n, err := 0, error(nil)
	each(args[0].Value, func(t *ast.Term) {
		if v, ok := t.Value.(ast.Number); ok {
			if _, e := numbersCost([]*ast.Term{t}); e != nil {
				err = e
			}
			n += len(v)
		}
	})
	if err == nil && n > maxNodes {
		err = fmt.Errorf("its numbers have %d digits together, at most %d are allowed", n, maxNodes)
	}
	return n, err
}

func numeralCost(args []*ast.Term) (int, error) {
	s := textOf(args[0])
	if len(s) > maxDigits {
		return 0, errNumber
	}
	return len(s), checkNumerals(s)
}

// checkNumerals refuses a text with a run of digits, or a decimal exponent, that is too large to calculate with.
func checkNumerals(s string) error {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			continue
		}
		start := i
		for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
			i++
		}
		if i-start > maxDigits {
			return errNumber
		}
		if i >= len(s) || s[i] != 'e' && s[i] != 'E' {
			continue
		}
		if i++; i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		exponent := 0
		for ; i < len(s) && s[i] >= '0' && s[i] <= '9' && exponent <= maxDigits; i++ {
			exponent = 10*exponent + int(s[i]-'0')
		}
		if exponent > maxDigits {
			return errNumber
		}
	}
	return nil
}

// regexSizes remembers the sizes of expressions.
var regexSizes struct {
	sync.RWMutex
	m map[string]int
}

func regexCost(pattern, text int, bytes func(s, pattern string) int) cost {
	return func(args []*ast.Term) (int, error) {
		p, s := textOf(args[pattern]), textOf(args[text])
		if err := checkRegex(p, s); err != nil || bytes == nil {
			return 0, err
		}
		return result(bytes(s, p))
	}
}

func submatchBytes(s, pattern string) int {
	return (len(s) + 1) * bytesPerTerm * (1 + strings.Count(pattern, "("))
}

// regexReplaceCost is exact for the text put in; what `$1` stands for in all places is not longer than the text.
func regexReplaceCost(args []*ast.Term) (int, error) {
	s, p, fresh := textOf(args[0]), textOf(args[1]), textOf(args[2])
	if err := checkRegex(p, s); err != nil {
		return 0, err
	}
	return oneText((len(s)+1)*(len(fresh)+1) + strings.Count(fresh, "$")*len(s))
}

func checkRegex(pattern, text string) error {
	regexSizes.RLock()
	size, known := regexSizes.m[pattern]
	regexSizes.RUnlock()
	if !known {
		if len(pattern) > maxRegexSize {
			return fmt.Errorf("the expression has %d bytes, at most %d are allowed", len(pattern), maxRegexSize)
		}
		re, err := syntax.Parse(pattern, syntax.Perl)
		if err != nil {
			return nil // its own error is better
		}
		size = instructions(re)
		regexSizes.Lock()
		if len(regexSizes.m) >= 1000 || regexSizes.m == nil {
			regexSizes.m = map[string]int{}
		}
		regexSizes.m[pattern] = size
		regexSizes.Unlock()
	}
	if size > maxRegexSize {
		return fmt.Errorf("the expression has more than %d parts with its repetitions written out", maxRegexSize)
	}
	if size*len(text) > maxRegexWork {
		return fmt.Errorf("an expression of %d parts on a text of %d bytes is too much work", size, len(text))
	}
	return nil
}

// instructions is about how large an expression is when its repetitions are written out.
func instructions(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)/2
	for _, sub := range re.Sub {
		n += instructions(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, 1<<30)
}

func globCost(args []*ast.Term) (int, error) {
	pattern, text := textOf(args[0]), textOf(args[2])
	switch {
	case len(pattern) > maxGlobBytes:
		return 0, fmt.Errorf("the pattern has %d bytes, at most %d are allowed", len(pattern), maxGlobBytes)
	case len(text) > maxGlobText:
		return 0, fmt.Errorf("the text has %d bytes, at most %d are allowed", len(text), maxGlobText)
	}
	metas := 0
	for i := range len(pattern) {
		if strings.IndexByte("*?[{", pattern[i]) >= 0 && (i == 0 || pattern[i-1] != pattern[i]) {
			metas++
		}
	}
	if metas > maxGlobMetas && len(text) > maxGlobBytes/2 {
		return 0, fmt.Errorf("a pattern of %d wildcards on a text of %d bytes is too much work", metas, len(text))
	}
	return len(pattern) + len(text), nil
}
