package server

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/restate"
	"github.com/chartergate/chartergate/store"
)

// Restater restates settlements; restate.Restater does.
type Restater interface {
	Restate(ctx context.Context, correction string, post bool) (*restate.Result, error)
}

func (s *priceService) RestateSettlements(ctx context.Context, req *chartergatev1.RestateSettlementsRequest) (*chartergatev1.RestateSettlementsResponse, error) {
	if s.past == nil {
		return nil, status.Error(codes.Unimplemented, "this server keeps no usage")
	}
	r, err := s.past.Restate(ctx, req.GetCorrection(), req.GetAccept())
	if err != nil {
		return nil, restateError(req.GetCorrection(), err)
	}
	res := &chartergatev1.RestateSettlementsResponse{
		Accepted: r.Accepted, EntriesInEtcd: r.InEtcd, EntriesInArchives: r.InArchives, Archives: int32(r.Archives), Missing: r.Missing,
		SinceTime: convert.TimeToProto(r.Since),
	}
	for i := range r.Sums {
		x := &r.Sums[i]
		res.Sums = append(res.Sums, &chartergatev1.RestatedSum{
			Correction: x.Correction, Model: x.Model, Corrects: x.Corrects, Reason: x.Reason, Currency: x.Currency, Hours: x.Hours, Entries: x.Entries,
			SettledNanos: int64(x.Settled), RestatedNanos: int64(x.Restated), DifferenceNanos: int64(x.Difference), PostedNanos: int64(x.Posted),
			Adjustments: x.Adjustments,
		})
	}
	for _, u := range r.Unrestated {
		res.Unrestated = append(res.Unrestated, &chartergatev1.UnrestatedSum{Correction: u.Correction, Problem: u.Problem, Entries: u.Entries, SettledNanos: int64(u.Settled)})
	}
	return res, nil
}

func restateError(correction string, err error) error {
	fail := func(reason chartergatev1.ErrorReason, code codes.Code) error {
		return &apiError{reason, code, err.Error(), map[string]string{"correction": correction}}
	}
	switch {
	case errors.Is(err, restate.ErrUnknown):
		return fail(chartergatev1.ErrorReason_ERROR_REASON_NOT_FOUND, codes.NotFound)
	case errors.Is(err, restate.ErrIncomplete):
		return fail(chartergatev1.ErrorReason_ERROR_REASON_RESTATEMENT_INCOMPLETE, codes.FailedPrecondition)
	case errors.Is(err, restate.ErrConflict):
		return fail(chartergatev1.ErrorReason_ERROR_REASON_RESTATEMENT_CONFLICT, codes.Aborted)
	case errors.Is(err, store.ErrTooLarge):
		return invalid("correction", "%v", err)
	}
	return err
}
