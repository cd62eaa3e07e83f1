package policy

import (
	"context"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/chartergate/chartergate/core/routing"
)

// Input is what a policy sees of a call, as a JSON value.
func Input(in *routing.Input) (any, error) { return ast.JSON((&inputs{prices: true}).build(in)) }

// Ask gives what a policy sees of a call and what it says of it, as JSON values: what plain OPA says of that input.
// Errors: those of an evaluation; input is given all the same.
func (p *Policy) Ask(ctx context.Context, in *routing.Input) (input, result any, err error) {
	seen := (&inputs{prices: p.prices}).build(in)
	if input, err = ast.JSON(seen); err != nil {
		return nil, nil, err
	}
	said := make(chan any, 1) // an evaluation that is left behind may still send
	_, err = p.guard.run(ctx, exampleLimit, func(cancel topdown.Cancel) (*routing.Plan, error) {
		answer, err := p.answer(ctx, seen, cancel)
		if err != nil {
			return nil, err
		}
		if _, err := decode(answer); err != nil { // too large, for one
			return nil, err
		}
		value, err := ast.JSON(answer)
		said <- value
		return nil, err
	})
	if err != nil {
		return input, nil, err
	}
	return input, <-said, nil
}
