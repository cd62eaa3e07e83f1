package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/billing"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

// maxBillBytes is the largest file that ImportBill takes.
const maxBillBytes = 8 << 30

type billingService struct {
	chartergatev1.UnimplementedBillingServiceServer
	usage store.Usage
	bills store.Bills
	now   func() time.Time
}

// NewBillingService serves the bills in a database and compares them with the usage in one.
func NewBillingService(u store.Usage, b store.Bills, now func() time.Time) chartergatev1.BillingServiceServer {
	return &billingService{usage: u, bills: b, now: now}
}

// billingError gives errors of queries and files their reason.
func billingError(err error) error {
	if e, ok := errors.AsType[*usage.QueryError](err); ok {
		return invalid(e.Field, "%s", e.Problem)
	}
	if e, ok := errors.AsType[*billing.ContentError](err); ok {
		return invalid("data", "%v", e)
	}
	if errors.Is(err, store.ErrTooLarge) {
		return invalid("by", "%v", err)
	}
	return err
}

// ImportBill keeps the file in the temporary directory while it is read, which is twice: for its hash and for its lines.
func (s *billingService) ImportBill(stream chartergatev1.BillingService_ImportBillServer) (err error) {
	f, err := os.CreateTemp("", "chartergate-bill-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	options, err := receive(stream, f)
	if err != nil {
		return err
	}
	m := &billing.Importer{
		Bills: s.bills, Strict: options.GetStrict(), Replace: options.GetReplace(), Now: s.now, Name: options.GetFileName(),
		Options: billing.Options{Format: options.GetFormat(), Encoding: options.GetEncoding(), FeatureTags: options.GetFeatureTags()},
	}
	reports, err := m.Import(stream.Context(), []string{f.Name()})
	if err != nil {
		return billingError(err)
	}
	r := reports[0]
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return stream.SendAndClose(&chartergatev1.ImportBillResponse{Import: &chartergatev1.BillImport{
		FileName: options.GetFileName(), Format: r.Format, Sha256: r.Hash, Done: true, Rows: r.Read, ReportJson: string(text),
	}})
}

func receive(stream chartergatev1.BillingService_ImportBillServer, w io.Writer) (*chartergatev1.BillOptions, error) {
	var options *chartergatev1.BillOptions
	for size := 0; ; {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) && options != nil {
			return options, nil
		}
		if err != nil {
			return nil, err
		}
		if options == nil {
			if options = part.GetOptions(); options == nil {
				return nil, invalid("options", "the first part must have them")
			}
		}
		if size += len(part.GetData()); size > maxBillBytes {
			return nil, invalid("data", "the file is larger than %d GiB: import it in parts", maxBillBytes>>30)
		}
		if _, err := w.Write(part.GetData()); err != nil {
			return nil, err
		}
	}
}

func (s *billingService) ListBillImports(ctx context.Context, _ *chartergatev1.ListBillImportsRequest) (*chartergatev1.ListBillImportsResponse, error) {
	list, err := s.bills.ListBills(ctx)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.ListBillImportsResponse{}
	for _, b := range list {
		x := &chartergatev1.BillImport{FileName: b.Name, Format: b.Format, Sha256: b.Hash, Done: b.Done, Rows: b.Position, ReportJson: string(b.Report)}
		if b.Done {
			x.FinishTime = timestamppb.New(b.Finished)
		}
		resp.Imports = append(resp.Imports, x)
	}
	return resp, nil
}

// dayOf reads a day; empty is none.
// days reads the window of a request; a day that is not given is the zero time.
func days(req interface {
	GetFromDay() string
	GetToDay() string
}) (from, to time.Time, err error) {
	if from, err = dayOf("from_day", req.GetFromDay()); err == nil {
		to, err = dayOf("to_day", req.GetToDay())
	}
	return from, to, err
}

func dayOf(field, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return t, invalid(field, "%q is not a day such as 2026-09-01", s)
	}
	return t, nil
}

func filters(list []*chartergatev1.BillFilter) map[string][]string {
	where := make(map[string][]string, len(list))
	for _, f := range list {
		where[f.GetDimension()] = append(where[f.GetDimension()], f.GetKeys()...)
	}
	return where
}

func (s *billingService) SumBills(ctx context.Context, req *chartergatev1.SumBillsRequest) (*chartergatev1.SumBillsResponse, error) {
	from, to, err := days(req)
	if err != nil {
		return nil, err
	}
	rows, err := s.bills.SumBills(ctx, store.BillQuery{From: from, To: to, By: req.GetBy(), Where: filters(req.GetWhere())})
	if err != nil {
		return nil, billingError(err)
	}
	resp := &chartergatev1.SumBillsResponse{}
	for i := range rows {
		r := &rows[i]
		resp.Sums = append(resp.Sums, &chartergatev1.BillSum{
			Keys: r.Keys, Currency: r.Currency, Rows: r.Rows, BilledCost: r.Billed.String(), EffectiveCost: r.Effective.String(), ListCost: r.List.String(),
			BilledCostOfLines: r.BilledLines.String(), Tokens: r.Tokens,
		})
	}
	return resp, nil
}

func (s *billingService) reconcile(ctx context.Context, req *chartergatev1.ReconcileBillsRequest) (*billing.Result, error) {
	from, to, err := days(req)
	if err != nil {
		return nil, err
	}
	r, err := (&billing.Reconciler{Usage: s.usage, Bills: s.bills}).Reconcile(ctx, billing.Comparison{
		From: from, To: to, Basis: billing.Basis(req.GetCostBasis()), Where: filters(req.GetWhere()), Aliases: req.GetAliases(),
	})
	return r, billingError(err)
}

func (s *billingService) ReconcileBills(ctx context.Context, req *chartergatev1.ReconcileBillsRequest) (*chartergatev1.ReconcileBillsResponse, error) {
	r, err := s.reconcile(ctx, req)
	if err != nil {
		return nil, err
	}
	by := req.GetBy()
	if len(by) == 0 {
		by = []string{usage.DimProvider, usage.DimModel, usage.DimFeature, "day"}
	}
	rows, err := billing.Group(r.Rows, by)
	if err != nil {
		return nil, billingError(err)
	}
	resp := &chartergatev1.ReconcileBillsResponse{NotCompared: make(map[string]string, len(r.Outside))}
	for i := range rows {
		v := &rows[i]
		x := &chartergatev1.BillVariance{Currency: v.Currency, Provider: v.Provider, Model: v.Model, Feature: v.Feature, Day: dayName(v.Day),
			LedgerNanos: int64(v.Ledger), BilledNanos: int64(v.Billed), PartsNanos: make(map[string]int64, len(v.Parts))}
		for c, n := range v.Parts {
			x.PartsNanos[string(c)] = int64(n)
		}
		resp.Variances = append(resp.Variances, x)
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		resp.Findings = append(resp.Findings, &chartergatev1.BillFinding{
			Cause: string(f.Cause), Currency: f.Currency, Provider: f.Provider, Model: f.Model, Component: f.Component, FromDay: dayName(f.From), ToDay: dayName(f.To),
			AmountNanos: int64(f.Amount), Ppm: f.PPM, Tokens: f.Tokens, Text: f.String(),
		})
	}
	for i := range r.Proposed {
		resp.Adjustments = append(resp.Adjustments, adjustmentToProto(&r.Proposed[i].Adjustment))
	}
	for c, sum := range r.Outside {
		resp.NotCompared[c] = sum.String()
	}
	if !r.Coverage.AsOf.IsZero() {
		resp.AsOfTime = timestamppb.New(r.Coverage.AsOf)
	}
	return resp, nil
}

func dayName(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.DateOnly)
}

func adjustmentToProto(a *usage.Adjustment) *chartergatev1.BillAdjustment {
	return &chartergatev1.BillAdjustment{Id: a.ID, Day: dayName(a.Hour), Currency: a.Currency, Provider: a.Provider, Model: a.Model, Feature: a.Feature,
		AmountNanos: int64(a.Amount), Reason: a.Reason, Corrects: a.Corrects}
}

func (s *billingService) AcceptAdjustments(ctx context.Context, req *chartergatev1.AcceptAdjustmentsRequest) (*chartergatev1.AcceptAdjustmentsResponse, error) {
	r, err := s.reconcile(ctx, req.GetReconciliation())
	if err != nil {
		return nil, err
	}
	list := r.Proposed
	if len(req.GetIds()) > 0 {
		list = nil
		for _, id := range req.GetIds() {
			i := slices.IndexFunc(r.Proposed, func(p billing.Proposal) bool { return p.ID == id })
			if i < 0 {
				return nil, &apiError{chartergatev1.ErrorReason_ERROR_REASON_NOT_FOUND, codes.NotFound,
					fmt.Sprintf("no adjustment %q is proposed: reconcile again", id), map[string]string{"resource": id}}
			}
			list = append(list, r.Proposed[i])
		}
	}
	if err := billing.Accept(ctx, s.usage, list, s.now()); err != nil {
		return nil, err
	}
	resp := &chartergatev1.AcceptAdjustmentsResponse{}
	for i := range list {
		resp.Posted = append(resp.Posted, adjustmentToProto(&list[i].Adjustment))
	}
	return resp, nil
}
