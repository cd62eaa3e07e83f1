package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/ledger"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

const (
	watchEvery  = 250 * time.Millisecond
	maxWatched  = 10_000 // statuses that one watch follows
	maxAlerts   = 10_000 // alerts that a listing reaches
	alertsShown = 8      // alerts of one account: the most thresholds that it can have
)

// BudgetStatusService shows how budgets stand.
type BudgetStatusService struct{ gate *preflight.Service }

// NewBudgetStatusService serves gate.
func NewBudgetStatusService(gate *preflight.Service) *BudgetStatusService {
	return &BudgetStatusService{gate: gate}
}

// GetBudgetStatus implements BudgetService.
func (s *BudgetStatusService) GetBudgetStatus(ctx context.Context, req *chartergatev1.GetBudgetStatusRequest) (*chartergatev1.BudgetStatus, error) {
	st, err := s.gate.Status(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	list, err := s.withAlerts(ctx, []*preflight.Status{st})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// ListBudgetStatuses implements BudgetService.
func (s *BudgetStatusService) ListBudgetStatuses(ctx context.Context, req *chartergatev1.ListBudgetStatusesRequest) (*chartergatev1.ListBudgetStatusesResponse, error) {
	after, err := pageAfter(req.GetPageToken(), "budgets/")
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	found, err := s.gate.Statuses(ctx, strings.TrimPrefix(req.GetBudget(), "budgets/"), after, size+1)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.ListBudgetStatusesResponse{}
	if len(found) > size {
		found = found[:size]
		resp.NextPageToken = pageToken(found[size-1].Name)
	}
	resp.Statuses, err = s.withAlerts(ctx, found)
	return resp, err
}

// WatchBudgetStatuses implements BudgetService.
func (s *BudgetStatusService) WatchBudgetStatuses(req *chartergatev1.WatchBudgetStatusesRequest, stream chartergatev1.BudgetService_WatchBudgetStatusesServer) error {
	ctx := stream.Context()
	sent := map[string]*chartergatev1.BudgetStatus{}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		found, err := s.gate.Statuses(ctx, strings.TrimPrefix(req.GetBudget(), "budgets/"), "", maxWatched)
		if err != nil {
			return err
		}
		statuses, err := s.withAlerts(ctx, found)
		if err != nil {
			return err
		}
		resp := &chartergatev1.WatchBudgetStatusesResponse{}
		for _, st := range statuses {
			if !proto.Equal(sent[st.GetName()], st) {
				sent[st.GetName()] = st
				resp.Statuses = append(resp.Statuses, st)
			}
		}
		if len(resp.GetStatuses()) > 0 {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// ListBudgetAlerts implements BudgetService.
func (s *BudgetStatusService) ListBudgetAlerts(ctx context.Context, req *chartergatev1.ListBudgetAlertsRequest) (*chartergatev1.ListBudgetAlertsResponse, error) {
	after, err := pageAfter(req.GetPageToken(), alertPrefix)
	if err != nil {
		return nil, err
	}
	alerts, err := s.gate.Alerts(ctx, strings.TrimPrefix(req.GetBudget(), "budgets/"), maxAlerts)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.ListBudgetAlertsResponse{}
	behind, last := after == "", ""
	for i := range alerts {
		key := alertKey(&alerts[i])
		switch {
		case !behind:
			behind = key == after
		case len(resp.GetAlerts()) == pageSize(req.GetPageSize()):
			resp.NextPageToken = pageToken(last)
			return resp, nil
		default:
			resp.Alerts = append(resp.Alerts, s.alert(&alerts[i]))
			last = key
		}
	}
	return resp, nil
}

// pageAfter is the name in a page token, empty for none. Names start with prefix.
func pageAfter(token, prefix string) (string, error) {
	name, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || token != "" && !strings.HasPrefix(string(name), prefix) {
		return "", invalid("page_token", "is not one that this method gave: send next_page_token of the last response, or none to start again")
	}
	return string(name), nil
}

func pageToken(name string) string { return base64.RawURLEncoding.EncodeToString([]byte(name)) }

func pageSize(asked int32) int { return cmp.Or(int(asked), defaultPageSize) }

const alertPrefix = "alerts/"

// alertKey names an alert in page tokens; short enough for one, whatever the key.
func alertKey(a *ledger.Alert) string {
	return alertPrefix + a.Time.UTC().Format(time.RFC3339Nano) + "/" + strconv.FormatInt(a.ID.Start, 10) + "/" +
		strconv.Itoa(int(a.Permille)) + "/" + preflight.StatusName(a.ID)
}

func (s *BudgetStatusService) alert(a *ledger.Alert) *chartergatev1.BudgetAlert {
	return &chartergatev1.BudgetAlert{
		Budget: preflight.StatusName(a.ID), Period: s.gate.PeriodName(a.ID), ThresholdPermille: a.Permille,
		SettledNanos: int64(a.Settled), LimitNanos: int64(a.Limit), CreateTime: timestamppb.New(a.Time),
		Owner: &chartergatev1.Owner{Name: a.OwnerName, Email: a.OwnerMail},
	}
}

// withAlerts converts statuses, reading the alerts of those that have some.
func (s *BudgetStatusService) withAlerts(ctx context.Context, found []*preflight.Status) ([]*chartergatev1.BudgetStatus, error) {
	list := make([]*chartergatev1.BudgetStatus, len(found))
	for i, st := range found {
		p := &chartergatev1.BudgetStatus{
			Name: st.Name, Period: st.Period, StartTime: timestamppb.New(st.Span.Start), EndTime: timestamppb.New(st.Span.End),
			Currency: st.Currency, LimitNanos: int64(st.Ceil), RolloverNanos: int64(st.Rollover), SettledNanos: int64(st.Settled),
			ForcedNanos: int64(st.Forced), HeldNanos: int64(st.Held), QuarantinedNanos: int64(st.Quarantined),
			RemainingNanos: int64(st.Remaining()), UtilizationPermille: st.Utilization(), DrainingNanos: int64(st.Drain),
			PendingReplicas: int32(st.Pending), GrantedElsewhereNanos: int64(st.Elsewhere), IdleNanos: int64(st.Idle), Tight: st.Tight,
		}
		if len(st.Alerted) > 0 {
			alerts, err := s.gate.AccountAlerts(ctx, st.ID)
			if err != nil {
				return nil, err
			}
			for j := range alerts[:min(len(alerts), alertsShown)] {
				p.Alerts = append(p.Alerts, s.alert(&alerts[j]))
			}
		}
		list[i] = p
	}
	return list, nil
}
