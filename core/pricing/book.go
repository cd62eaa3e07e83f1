package pricing

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrConflict says that two prices of one model take effect at the same time.
var ErrConflict = errors.New("two prices take effect at the same time")

// Book finds the price of a model at a time. It is immutable.
type Book struct{ byModel map[string][]*Price }

// NewBook orders prices by model and time. Errors: ErrConflict, wrapped.
func NewBook(prices []*Price) (*Book, error) {
	b := &Book{make(map[string][]*Price)}
	for _, p := range prices {
		b.byModel[p.Model] = append(b.byModel[p.Model], p)
	}
	for model, list := range b.byModel {
		slices.SortFunc(list, func(x, y *Price) int { return x.Effective.Compare(y.Effective) })
		for i := 1; i < len(list); i++ {
			if list[i].Effective.Equal(list[i-1].Effective) {
				return nil, &ConflictError{model, list[i].Effective, list[i-1].Book, list[i].Book}
			}
		}
	}
	return b, nil
}

// ConflictError wraps ErrConflict.
type ConflictError struct {
	Model        string
	Effective    time.Time
	Book1, Book2 string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("model %q has two prices from %s on (in %s and %s): remove one", e.Model, e.Effective.UTC().Format(time.RFC3339), e.Book1, e.Book2)
}

// Unwrap gives ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Lookup gives the price in force at a time. Error: *UnpricedError.
func (b *Book) Lookup(model string, at time.Time) (*Price, error) {
	if b != nil {
		list := b.byModel[model]
		for i := len(list) - 1; i >= 0; i-- {
			if !list[i].Effective.After(at) {
				return list[i], nil
			}
		}
	}
	return nil, &UnpricedError{Model: model}
}
