package server

import (
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/chartergate/chartergate/core/ledger"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

// ledgerReason gives an error of the preflight use case or the ledger its reason, or nil.
func ledgerReason(err error) Reasoned {
	make := func(reason chartergatev1.ErrorReason, code codes.Code, metadata map[string]string) Reasoned {
		return &apiError{reason, code, err.Error(), metadata}
	}
	if e, ok := errors.AsType[*preflight.FeatureUnknownError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_FEATURE_UNKNOWN, codes.NotFound, map[string]string{"feature": e.Feature})
	}
	if e, ok := errors.AsType[*preflight.KeyRequiredError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_KEY_REQUIRED, codes.InvalidArgument,
			map[string]string{"budget": "budgets/" + e.Budget, "field": e.Field})
	}
	if e, ok := errors.AsType[*preflight.RequestConflictError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_REQUEST_ID_CONFLICT, codes.AlreadyExists, map[string]string{"request_id": e.RequestID})
	}
	if e, ok := errors.AsType[*preflight.TTLError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_INVALID, codes.InvalidArgument, map[string]string{"field": "ttl", "longest": e.Most.String()})
	}
	if e, ok := errors.AsType[*preflight.BudgetUnknownError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_NOT_FOUND, codes.NotFound, map[string]string{"resource": e.Name})
	}
	if _, ok := errors.AsType[*preflight.ForwardError](err); ok { // of a stream, which stays with its replica
		return make(chartergatev1.ErrorReason_ERROR_REASON_LEDGER_UNAVAILABLE, codes.Unavailable, nil)
	}
	if _, ok := errors.AsType[*preflight.UnavailableError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_LEDGER_UNAVAILABLE, codes.Unavailable, nil)
	}
	if e, ok := errors.AsType[*preflight.SettledError](err); ok {
		var metadata map[string]string
		if e.First != ledger.AmountUnknown {
			metadata = map[string]string{"settled_nanos": strconv.FormatInt(int64(e.First), 10)}
		}
		return make(chartergatev1.ErrorReason_ERROR_REASON_HOLD_SETTLED, codes.FailedPrecondition, metadata)
	}
	if e, ok := errors.AsType[*preflight.ExpiredError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_HOLD_EXPIRED, codes.FailedPrecondition,
			map[string]string{"expire_time": e.At.UTC().Format(time.RFC3339)})
	}
	if e, ok := errors.AsType[*preflight.CurrencyError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_NO_EXCHANGE_RATE, codes.FailedPrecondition,
			map[string]string{"model": e.Model, "from": e.Err.From, "to": e.Err.To, "time": e.Err.At.UTC().Format(time.RFC3339)})
	}
	switch {
	case errors.Is(err, ledger.ErrUse):
		return make(chartergatev1.ErrorReason_ERROR_REASON_INVALID, codes.InvalidArgument, map[string]string{"field": "use"})
	case errors.Is(err, ledger.ErrUnknownHold):
		return make(chartergatev1.ErrorReason_ERROR_REASON_HOLD_UNKNOWN, codes.NotFound, nil)
	case errors.Is(err, ledger.ErrReleased):
		return make(chartergatev1.ErrorReason_ERROR_REASON_HOLD_RELEASED, codes.FailedPrecondition, nil)
	case errors.Is(err, ledger.ErrSettled):
		return make(chartergatev1.ErrorReason_ERROR_REASON_HOLD_SETTLED, codes.FailedPrecondition, nil)
	case errors.Is(err, ledger.ErrExpired):
		return make(chartergatev1.ErrorReason_ERROR_REASON_HOLD_EXPIRED, codes.FailedPrecondition, nil)
	}
	return nil
}
