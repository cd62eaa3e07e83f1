package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/etcd"
)

func TestStatus(t *testing.T) {
	_, zoneErr := charter.NewPeriod(charter.Day, "Nowhere", time.Time{}, time.Time{})
	for _, c := range []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{&charter.ReferenceError{Name: "a", Missing: "b"}, codes.FailedPrecondition, "REFERENCE_MISSING"},
		{&charter.CycleError{Path: []string{"a", "a"}}, codes.FailedPrecondition, "BUDGET_CYCLE"},
		{&charter.InUseError{Name: "a", UsedBy: "b"}, codes.FailedPrecondition, "IN_USE"},
		{&charter.ImmutableError{Name: "a", Field: "per"}, codes.FailedPrecondition, "FIELD_IMMUTABLE"},
		{&charter.InvalidError{Name: "a", Field: "f", Problem: "is bad"}, codes.InvalidArgument, "INVALID"},
		{zoneErr, codes.InvalidArgument, "PERIOD_INVALID"},
		{&pricing.ConflictError{Model: "m", Effective: time.Unix(0, 0)}, codes.FailedPrecondition, "PRICE_CONFLICT"},
		{&pricing.UnpricedError{Model: "m", Unit: "input_tokens"}, codes.FailedPrecondition, "NO_PRICE"},
		{money.ErrOverflow, codes.OutOfRange, "AMOUNT_OVERFLOW"},
		{(&usage.Usage{InputTokens: -1}).Validate(), codes.InvalidArgument, "INVALID"},
		{&etcd.TooLargeError{Changes: 200, Bytes: 9e6}, codes.InvalidArgument, "INVALID"},
		{store.ErrUnavailable, codes.Unavailable, "LEDGER_UNAVAILABLE"},
		{notFound("budgets/a"), codes.NotFound, "NOT_FOUND"},
		{context.Canceled, codes.Canceled, ""},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		{errors.Join(store.ErrUnavailable, context.DeadlineExceeded), codes.Unavailable, "LEDGER_UNAVAILABLE"},
		{errors.New("secret"), codes.Internal, ""},
		{status.Error(codes.Unauthenticated, "secret of a dependency"), codes.Internal, ""},
	} {
		t.Run(fmt.Sprintf("%T %v", c.err, c.err), func(t *testing.T) {
			s := Status(fmt.Errorf("while testing: %w", c.err))
			if s.Code() != c.code {
				t.Errorf("code is %s, want %s", s.Code(), c.code)
			}
			if info := detail[*errdetails.ErrorInfo](s); info == nil && c.reason != "" || info != nil && (info.Reason != c.reason || info.Domain != ErrorDomain) {
				t.Errorf("ErrorInfo is %v, want %s", info, c.reason)
			}
			if c.code == codes.InvalidArgument && detail[*errdetails.BadRequest](s) == nil {
				t.Error("there is no BadRequest")
			}
			if strings.Contains(s.Message(), "secret") {
				t.Errorf("the message tells a secret: %s", s.Message())
			}
		})
	}
	if Status(nil) != nil {
		t.Error("no error has a status")
	}
	if s := Status(status.Error(codes.Unimplemented, "not here")); s.Code() != codes.Unimplemented {
		t.Errorf("a handler's own status becomes %s", s.Code())
	}
}

func TestManyViolationsFitTheHeaders(t *testing.T) {
	req := apply()
	for range 100 {
		req.Resources = append(req.Resources, resourceOf(aBudget("No Good", "")))
	}
	s := Status(validator(t).Validate(req))
	if bad := detail[*errdetails.BadRequest](s); len(bad.FieldViolations) != maxViolations || !strings.Contains(s.Message(), "and 84 more") {
		t.Errorf("%d violations: %s", len(bad.FieldViolations), s.Message())
	}
}
