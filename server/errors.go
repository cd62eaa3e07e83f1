package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

// maxViolations bounds the field violations of one error, so that it fits the headers that it travels in.
const maxViolations = 16

// ErrorDomain is the domain of every google.rpc.ErrorInfo.
const ErrorDomain = "chartergate.dev"

// Reasoned is an error that knows how the API reports it. Its Error text goes to the client.
type Reasoned interface {
	error
	Reason() chartergatev1.ErrorReason
	Code() codes.Code
	Metadata() map[string]string
}

// apiError is the Reasoned error of this package.
type apiError struct {
	reason   chartergatev1.ErrorReason
	code     codes.Code
	message  string
	metadata map[string]string
}

func (e *apiError) Error() string                     { return e.message }
func (e *apiError) Reason() chartergatev1.ErrorReason { return e.reason }
func (e *apiError) Code() codes.Code                  { return e.code }
func (e *apiError) Metadata() map[string]string       { return e.metadata }

func invalid(field, format string, args ...any) error {
	return &apiError{chartergatev1.ErrorReason_ERROR_REASON_INVALID, codes.InvalidArgument,
		field + ": " + fmt.Sprintf(format, args...), map[string]string{"field": field}}
}

func notFound(name string) error {
	return &apiError{chartergatev1.ErrorReason_ERROR_REASON_NOT_FOUND, codes.NotFound,
		"there is no " + name, map[string]string{"resource": name}}
}

func alreadyExists(name string) error {
	return &apiError{chartergatev1.ErrorReason_ERROR_REASON_ALREADY_EXISTS, codes.AlreadyExists,
		name + " exists already: update it, or take another name", map[string]string{"resource": name}}
}

func etagMismatch(name, sent, current string) error {
	return &apiError{chartergatev1.ErrorReason_ERROR_REASON_ETAG_MISMATCH, codes.Aborted,
		fmt.Sprintf("%s was changed: its etag is %q, not %q; read it again, then update", name, current, sent),
		map[string]string{"resource": name, "current_etag": current}}
}

func requestIDConflict(id string) error {
	return &apiError{chartergatev1.ErrorReason_ERROR_REASON_REQUEST_ID_CONFLICT, codes.AlreadyExists,
		fmt.Sprintf("request_id %q came before with another body: take a new id for a new request", id),
		map[string]string{"request_id": id}}
}

func outcomeRecorded(first usage.Outcome) error {
	name := strings.TrimPrefix(chartergatev1.Outcome(first).String(), "OUTCOME_")
	return &apiError{chartergatev1.ErrorReason_ERROR_REASON_OUTCOME_RECORDED, codes.AlreadyExists,
		"another outcome was recorded before and stands: " + name, map[string]string{"outcome": name}}
}

// Status is how the API reports an error: the one place that maps errors to gRPC. An error that it does not know is
// INTERNAL and its text is hidden; the caller should log it. Nil for nil.
func Status(err error) *status.Status {
	if err == nil {
		return nil
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok { // not wrapped: a dependency's is not for the client
		return s.GRPCStatus()
	}
	if known := reasoned(err); known != nil {
		return withDetails(known)
	}
	if v, ok := errors.AsType[*protovalidate.ValidationError](err); ok {
		return violations(v)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the caller gave up")
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "the caller's deadline passed before there was an answer")
	}
	return status.New(codes.Internal, "internal error: the server's log has it")
}

// reasoned gives a known error its reason, or nil.
func reasoned(err error) Reasoned {
	if r, ok := errors.AsType[Reasoned](err); ok {
		return r
	}
	if r := ledgerReason(err); r != nil {
		return r
	}
	make := func(reason chartergatev1.ErrorReason, code codes.Code, metadata ...string) Reasoned {
		e := &apiError{reason: reason, code: code, message: err.Error(), metadata: map[string]string{}}
		for i := 0; i < len(metadata); i += 2 {
			if metadata[i+1] != "" {
				e.metadata[metadata[i]] = metadata[i+1]
			}
		}
		return e
	}
	if e, ok := errors.AsType[*charter.ReferenceError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_REFERENCE_MISSING, codes.FailedPrecondition, "resource", e.Name, "missing", e.Missing)
	}
	if e, ok := errors.AsType[*charter.CycleError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_BUDGET_CYCLE, codes.FailedPrecondition, "cycle", e.Cycle())
	}
	if e, ok := errors.AsType[*charter.InUseError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_IN_USE, codes.FailedPrecondition, "resource", e.Name, "used_by", e.UsedBy)
	}
	if e, ok := errors.AsType[*charter.ImmutableError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_FIELD_IMMUTABLE, codes.FailedPrecondition, "resource", e.Name, "field", e.Field)
	}
	if _, ok := errors.AsType[*charter.PeriodError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_PERIOD_INVALID, codes.InvalidArgument, "field", "period")
	}
	if e, ok := errors.AsType[*charter.InvalidError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_INVALID, codes.InvalidArgument, "resource", e.Name, "field", e.Field)
	}
	if e, ok := errors.AsType[*pricing.ConflictError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_PRICE_CONFLICT, codes.FailedPrecondition,
			"model", e.Model, "effective_time", e.Effective.UTC().Format(time.RFC3339))
	}
	if e, ok := errors.AsType[*pricing.NoRateError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_NO_EXCHANGE_RATE, codes.FailedPrecondition,
			"from", e.From, "to", e.To, "time", e.At.UTC().Format(time.RFC3339))
	}
	if e, ok := errors.AsType[*pricing.UnpricedError](err); ok {
		return make(chartergatev1.ErrorReason_ERROR_REASON_NO_PRICE, codes.FailedPrecondition, "model", e.Model, "unit", e.Unit)
	}
	switch {
	case errors.Is(err, money.ErrOverflow):
		return &apiError{chartergatev1.ErrorReason_ERROR_REASON_AMOUNT_OVERFLOW, codes.OutOfRange,
			err.Error() + "; check the counts and the model's price", nil}
	case errors.Is(err, usage.ErrInvalid):
		return make(chartergatev1.ErrorReason_ERROR_REASON_INVALID, codes.InvalidArgument, "field", "usage")
	case errors.Is(err, store.ErrTooLarge):
		return make(chartergatev1.ErrorReason_ERROR_REASON_INVALID, codes.InvalidArgument, "field", "resources")
	case errors.Is(err, store.ErrUsageUnavailable):
		return make(chartergatev1.ErrorReason_ERROR_REASON_USAGE_UNAVAILABLE, codes.Unavailable)
	case errors.Is(err, store.ErrUnavailable):
		return make(chartergatev1.ErrorReason_ERROR_REASON_LEDGER_UNAVAILABLE, codes.Unavailable)
	}
	return nil
}

// ReasonName is a reason as ErrorInfo has it: `NOT_FOUND`. Empty for UNSPECIFIED.
func ReasonName(r chartergatev1.ErrorReason) string {
	if r == chartergatev1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return ""
	}
	return strings.TrimPrefix(r.String(), "ERROR_REASON_")
}

func withDetails(e Reasoned) *status.Status {
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Domain: ErrorDomain, Reason: ReasonName(e.Reason()), Metadata: e.Metadata()},
	}
	var bad []*errdetails.BadRequest_FieldViolation
	if v, ok := e.(interface {
		fieldViolations() []*errdetails.BadRequest_FieldViolation
	}); ok {
		bad = v.fieldViolations()
	} else if field := e.Metadata()["field"]; field != "" && e.Code() == codes.InvalidArgument {
		bad = []*errdetails.BadRequest_FieldViolation{{Field: field, Description: e.Error()}}
	}
	if len(bad) > 0 {
		details = append(details, &errdetails.BadRequest{FieldViolations: bad})
	}
	return detailed(e.Code(), e.Error(), details)
}

func violations(v *protovalidate.ValidationError) *status.Status {
	bad, text := &errdetails.BadRequest{}, make([]string, 0, len(v.Violations))
	for _, x := range v.Violations[:min(len(v.Violations), maxViolations)] {
		field, problem := protovalidate.FieldPathString(x.Proto.GetField()), x.Proto.GetMessage()
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: field, Description: problem, Reason: x.Proto.GetRuleId(),
		})
		if field != "" {
			problem = field + ": " + problem
		}
		text = append(text, problem)
	}
	if more := len(v.Violations) - len(text); more > 0 {
		text = append(text, fmt.Sprintf("and %d more", more))
	}
	info := &errdetails.ErrorInfo{Domain: ErrorDomain, Reason: "INVALID", Metadata: map[string]string{}}
	if len(bad.FieldViolations) > 0 {
		info.Metadata["field"] = bad.FieldViolations[0].Field
	}
	return detailed(codes.InvalidArgument, strings.Join(text, "; "),
		[]protoadapt.MessageV1{info, bad})
}

func detailed(code codes.Code, message string, details []protoadapt.MessageV1) *status.Status {
	s := status.New(code, message)
	if d, err := s.WithDetails(details...); err == nil {
		return d
	}
	return s
}
