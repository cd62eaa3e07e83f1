package policy

// SlowExpression is a part of a policy that makes its decisions slow.
type SlowExpression struct {
	File         string
	Line, Column int
	Expression   string
	Why          string
}

// Slow tells what makes a policy's decisions slow.
func (p *Policy) Slow() []SlowExpression { return nil }
