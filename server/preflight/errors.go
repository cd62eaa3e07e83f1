package preflight

import (
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
)

// FeatureUnknownError says that no charter has this id.
type FeatureUnknownError struct{ Feature string }

func (e *FeatureUnknownError) Error() string {
	return fmt.Sprintf("no charter has the id %q: apply one, or correct the feature", e.Feature)
}

// KeyRequiredError says that a budget of the path is kept per key and the request does not name it.
type KeyRequiredError struct {
	Budget string
	Per    charter.Per
	Field  string // of the request, such as `call.user`
}

func (e *KeyRequiredError) Error() string {
	return fmt.Sprintf("budgets/%s is kept per %s: set %s", e.Budget, e.Per, e.Field)
}

// CurrencyError says that a model is priced in another currency than the budgets, and that no exchange rate is known.
type CurrencyError = routing.CurrencyError

// SettledError says that a hold was settled before, and at what cost. It is ledger.ErrSettled.
type SettledError struct {
	First money.Nanos // ledger.AmountUnknown when it has moved to the archive
	Kind  ledger.Kind
}

func (e *SettledError) Error() string {
	how := "settled before"
	if e.Kind == ledger.KindExpiryCharge {
		how = "charged in full when it expired"
	}
	if e.First == ledger.AmountUnknown {
		return "the hold was settled before; at what cost is in the archive of settlements by now (chartergate journal): a hold settles once"
	}
	return fmt.Sprintf("the hold was %s, at %s (%d nanos): a hold settles once", how, e.First, int64(e.First))
}

// Unwrap gives ledger.ErrSettled.
func (e *SettledError) Unwrap() error { return ledger.ErrSettled }

// ExpiredError says that a hold has expired, by its token. It is ledger.ErrExpired.
type ExpiredError struct{ At time.Time }

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("the hold expired at %s: it can still be settled, as forced spend, but not released or extended", e.At.UTC().Format(time.RFC3339))
}

// Unwrap gives ledger.ErrExpired.
func (e *ExpiredError) Unwrap() error { return ledger.ErrExpired }

// RequestConflictError says that a request id was used with another body.
type RequestConflictError struct{ RequestID string }

func (e *RequestConflictError) Error() string {
	return fmt.Sprintf("request_id %q was used with another body: use a new id for a new request", e.RequestID)
}

// TTLError says that a hold was asked for longer than the server allows.
type TTLError struct{ Asked, Most time.Duration }

func (e *TTLError) Error() string {
	return fmt.Sprintf("ttl is %s, it must be 1s to %s; extend the hold while the call runs", e.Asked, e.Most)
}

// UnavailableError says that the ledger cannot answer.
type UnavailableError struct{ Why string }

func (e *UnavailableError) Error() string {
	return "the ledger cannot answer: " + e.Why + "; retry with the same request_id"
}

// BudgetUnknownError says that there is no such budget, or no such key of it.
type BudgetUnknownError struct{ Name string }

func (e *BudgetUnknownError) Error() string { return fmt.Sprintf("%s does not exist", e.Name) }
