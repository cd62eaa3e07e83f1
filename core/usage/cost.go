package usage

import "github.com/chartergate/chartergate/core/money"

// Cost is a cost by component. The components add up to the whole exactly.
type Cost struct {
	Input           money.Nanos // input and cache tokens, without ContextOverhead
	ContextOverhead money.Nanos // the share of the input cost that is context overhead, by its share of the input tokens
	Output          money.Nanos // output and reasoning tokens
	Retrieval       money.Nanos // embeddings and vector queries
	Tools           money.Nanos
	Compute         money.Nanos // GPU time, storage, egress
	Other           money.Nanos // request fees, operational overhead, and what has no usage: holds charged at expiry, adjustments
}

// Add adds d, or changes nothing and gives money.ErrOverflow.
func (c *Cost) Add(d *Cost) error {
	sum := *c
	to, from := sum.parts(), d.parts()
	for i := range to {
		n, err := money.Add(*to[i], *from[i])
		if err != nil {
			return err
		}
		*to[i] = n
	}
	*c = sum
	return nil
}

// Total is the sum of the components.
func (c *Cost) Total() (money.Nanos, error) {
	var total money.Nanos
	for _, p := range c.parts() {
		var err error
		if total, err = money.Add(total, *p); err != nil {
			return 0, err
		}
	}
	return total, nil
}

func (c *Cost) parts() [7]*money.Nanos {
	return [...]*money.Nanos{&c.Input, &c.ContextOverhead, &c.Output, &c.Retrieval, &c.Tools, &c.Compute, &c.Other}
}
