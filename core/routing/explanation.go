package routing

// Explanation is what one policy says of a call, and why.
type Explanation struct {
	Revision string
	Plan     *Plan  // nil where it gave none
	Problem  string // why it gave none
	Answer   string // as JSON
	Rules    []RuleHit
	Inputs   []InputRead
	Trace    string // OPA's, if it was asked for
}

// RuleHit is a rule that gave a value. Rules come in the order of files and lines.
type RuleHit struct {
	Rule  string // such as data.chartergate.routing.effect
	File  string
	Line  int
	Value string // as JSON, at most 1 KiB
}

// InputRead is a part of the input that was read. Parts come in the order of their paths.
type InputRead struct {
	Path  string // such as input.budget.utilization
	Value string // as JSON, at most 1 KiB; empty where there is none
}
