package server

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

type code = chartergatev1.ErrorReason // of an error

const (
	isInvalid       = chartergatev1.ErrorReason_ERROR_REASON_INVALID
	isNotFound      = chartergatev1.ErrorReason_ERROR_REASON_NOT_FOUND
	isAlreadyExists = chartergatev1.ErrorReason_ERROR_REASON_ALREADY_EXISTS
	isEtagMismatch  = chartergatev1.ErrorReason_ERROR_REASON_ETAG_MISMATCH
	isMissing       = chartergatev1.ErrorReason_ERROR_REASON_REFERENCE_MISSING
	isCycle         = chartergatev1.ErrorReason_ERROR_REASON_BUDGET_CYCLE
	isInUse         = chartergatev1.ErrorReason_ERROR_REASON_IN_USE
	isImmutable     = chartergatev1.ErrorReason_ERROR_REASON_FIELD_IMMUTABLE
	isPriceConflict = chartergatev1.ErrorReason_ERROR_REASON_PRICE_CONFLICT
	isPolicyInvalid = chartergatev1.ErrorReason_ERROR_REASON_POLICY_INVALID
	isPeriodInvalid = chartergatev1.ErrorReason_ERROR_REASON_PERIOD_INVALID
	isIDConflict    = chartergatev1.ErrorReason_ERROR_REASON_REQUEST_ID_CONFLICT
	isNoPrice       = chartergatev1.ErrorReason_ERROR_REASON_NO_PRICE
)

func TestCharterLifecycle(t *testing.T) {
	r := start(t)
	r.company(t)
	made, err := r.charters.CreateCharter(t.Context(), &chartergatev1.CreateCharterRequest{Charter: aCharter("code", "support")})
	if err != nil {
		t.Fatal(err)
	}
	if made.Etag == "" || made.CreateTime == nil || made.UpdateTime == nil {
		t.Errorf("the server sets etag and times, got %v", made)
	}
	got, err := r.charters.GetCharter(t.Context(), &chartergatev1.GetCharterRequest{Name: made.Name})
	if err != nil || !proto.Equal(got, made) {
		t.Errorf("Get gives %v (%v), want %v", got, err, made)
	}
	_, err = r.charters.CreateCharter(t.Context(), &chartergatev1.CreateCharterRequest{Charter: aCharter("code", "support")})
	refused(t, err, codes.AlreadyExists, isAlreadyExists, map[string]string{"resource": "charters/code"})

	got.Team = "Platform"
	changed, err := r.charters.UpdateCharter(t.Context(), &chartergatev1.UpdateCharterRequest{Charter: got})
	if err != nil || changed.Team != "Platform" || changed.Etag == made.Etag {
		t.Fatalf("Update gives %v (%v)", changed, err)
	}
	if !proto.Equal(changed.CreateTime, made.CreateTime) {
		t.Errorf("create_time changed from %v to %v", made.CreateTime, changed.CreateTime)
	}
	_, err = r.charters.UpdateCharter(t.Context(), &chartergatev1.UpdateCharterRequest{Charter: got}) // with the old etag
	refused(t, err, codes.Aborted, isEtagMismatch, map[string]string{"resource": "charters/code", "current_etag": changed.Etag}, "read it again")

	again, err := r.charters.UpdateCharter(t.Context(), &chartergatev1.UpdateCharterRequest{Charter: changed})
	if err != nil || again.Etag != changed.Etag {
		t.Errorf("an update that changes nothing gives etag %s (%v), want %s", again.GetEtag(), err, changed.Etag)
	}
	_, err = r.charters.DeleteCharter(t.Context(), &chartergatev1.DeleteCharterRequest{Name: made.Name, Etag: made.Etag})
	refused(t, err, codes.Aborted, isEtagMismatch, nil)
	if _, err = r.charters.DeleteCharter(t.Context(), &chartergatev1.DeleteCharterRequest{Name: made.Name, Etag: changed.Etag}); err != nil {
		t.Fatal(err)
	}
	_, err = r.charters.GetCharter(t.Context(), &chartergatev1.GetCharterRequest{Name: made.Name})
	refused(t, err, codes.NotFound, isNotFound, map[string]string{"resource": "charters/code"})
	_, err = r.charters.DeleteCharter(t.Context(), &chartergatev1.DeleteCharterRequest{Name: made.Name})
	refused(t, err, codes.NotFound, isNotFound, nil)
	_, err = r.charters.UpdateCharter(t.Context(), &chartergatev1.UpdateCharterRequest{Charter: aCharter("code", "support")})
	refused(t, err, codes.NotFound, isNotFound, nil)
}

func TestBadCharters(t *testing.T) {
	r := start(t)
	r.company(t)
	for name, c := range map[string]struct {
		change   func(*chartergatev1.Charter)
		code     codes.Code
		reason   code
		metadata map[string]string
	}{
		"no owner":  {func(c *chartergatev1.Charter) { c.Owner = nil }, codes.InvalidArgument, isInvalid, map[string]string{"field": "charter.owner"}},
		"no budget": {func(c *chartergatev1.Charter) { c.Budget = "" }, codes.InvalidArgument, isInvalid, map[string]string{"field": "charter.budget"}},
		"no stage":  {func(c *chartergatev1.Charter) { c.Stage = 0 }, codes.InvalidArgument, isInvalid, map[string]string{"field": "charter.stage"}},
		"bad name":  {func(c *chartergatev1.Charter) { c.Name = "charters/No Good" }, codes.InvalidArgument, isInvalid, map[string]string{"field": "charter.name"}},
		"missing budget": {func(c *chartergatev1.Charter) { c.Budget = "budgets/nowhere" }, codes.FailedPrecondition, isMissing,
			map[string]string{"resource": "charters/bad", "missing": "budgets/nowhere"}},
		"missing tier": {func(c *chartergatev1.Charter) { c.PermittedTiers = []string{"gold"} }, codes.FailedPrecondition, isMissing,
			map[string]string{"missing": "catalog/tiers/gold"}},
		"downgrade without allowance": {func(c *chartergatev1.Charter) {
			c.Exhausted = &chartergatev1.Exhausted{Mode: chartergatev1.ExhaustedMode_EXHAUSTED_MODE_DOWNGRADE}
		}, codes.InvalidArgument, isInvalid, map[string]string{"field": "exhausted.overflow_allowance_nanos"}},
	} {
		t.Run(name, func(t *testing.T) {
			bad := aCharter("bad", "support")
			c.change(bad)
			_, err := r.charters.CreateCharter(t.Context(), &chartergatev1.CreateCharterRequest{Charter: bad})
			refused(t, err, c.code, c.reason, c.metadata)
			if control.Snapshot().Charter("bad") != nil {
				t.Error("it was written")
			}
		})
	}
}

func TestUpdateMask(t *testing.T) {
	r := start(t)
	r.company(t)
	update := func(c *chartergatev1.Charter, paths ...string) (*chartergatev1.Charter, error) {
		c.Name = "charters/chat"
		return r.charters.UpdateCharter(t.Context(), &chartergatev1.UpdateCharterRequest{Charter: c, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	}
	got, err := update(&chartergatev1.Charter{DisplayName: "Chat", Owner: &chartergatev1.Owner{Name: "Kim"}, Team: "ignored"}, "display_name", "owner.name", "labels")
	if err != nil {
		t.Fatal(err)
	}
	if got.DisplayName != "Chat" || got.Owner.Name != "Kim" || got.Owner.Email != "dana@example.com" || got.Team != "Support" || len(got.Labels) != 0 {
		t.Errorf("got %v", got)
	}
	if got, err = update(&chartergatev1.Charter{Exhausted: &chartergatev1.Exhausted{OverflowAllowanceNanos: 5}}, "exhausted.overflow_allowance_nanos", "etag"); err != nil || got.Exhausted.GetOverflowAllowanceNanos() != 5 {
		t.Errorf("a field of an absent message: %v (%v)", got, err)
	}
	_, err = update(&chartergatev1.Charter{}, "displayname")
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "update_mask"}, `"displayname"`, "Charter")
	_, err = update(&chartergatev1.Charter{}, "team.name")
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "update_mask"})
	_, err = update(&chartergatev1.Charter{}, "owner") // the whole is checked after the merge
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "owner"})
	_, err = update(&chartergatev1.Charter{}, "*") // replaces: as if there were no mask
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "charter.owner"})
	_, err = r.charters.UpdateCharter(t.Context(), &chartergatev1.UpdateCharterRequest{
		Charter: &chartergatev1.Charter{Team: "x"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"team"}}})
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "charter.name"})
}

func TestBadBudgets(t *testing.T) {
	r := start(t)
	r.company(t)
	update := func(change func(*chartergatev1.Budget)) error {
		b, err := r.budgets.GetBudget(t.Context(), &chartergatev1.GetBudgetRequest{Name: "budgets/acme"})
		if err != nil {
			t.Fatal(err)
		}
		change(b)
		_, err = r.budgets.UpdateBudget(t.Context(), &chartergatev1.UpdateBudgetRequest{Budget: b})
		return err
	}
	refused(t, update(func(b *chartergatev1.Budget) { b.Parent = "budgets/support" }), codes.FailedPrecondition, isCycle,
		map[string]string{"cycle": "acme -> support -> acme"}, "another parent")
	refused(t, update(func(b *chartergatev1.Budget) { b.Parent = "budgets/acme" }), codes.FailedPrecondition, isCycle,
		map[string]string{"cycle": "acme -> acme"})
	refused(t, update(func(b *chartergatev1.Budget) { b.Parent = "budgets/nowhere" }), codes.FailedPrecondition, isMissing,
		map[string]string{"resource": "budgets/acme", "missing": "budgets/nowhere"}, "create it first")
	refused(t, update(func(b *chartergatev1.Budget) { b.Currency = "EUR" }), codes.FailedPrecondition, isImmutable,
		map[string]string{"field": "currency"})
	refused(t, update(func(b *chartergatev1.Budget) { b.Period.TimeZone = "Mars/Base" }), codes.InvalidArgument, isPeriodInvalid,
		map[string]string{"field": "period"}, "Mars/Base")
	refused(t, update(func(b *chartergatev1.Budget) { b.LimitNanos = -1 }), codes.InvalidArgument, isInvalid,
		map[string]string{"field": "budget.limit_nanos"})
	_, err := r.budgets.DeleteBudget(t.Context(), &chartergatev1.DeleteBudgetRequest{Name: "budgets/acme"})
	refused(t, err, codes.FailedPrecondition, isInUse, map[string]string{"resource": "budgets/acme", "used_by": "budgets/support"})
	_, err = r.budgets.DeleteBudget(t.Context(), &chartergatev1.DeleteBudgetRequest{Name: "budgets/support"})
	refused(t, err, codes.FailedPrecondition, isInUse, map[string]string{"used_by": "charters/chat"})
	_, err = r.budgets.CreateBudget(t.Context(), &chartergatev1.CreateBudgetRequest{Budget: aBudget("lost", "nowhere")})
	refused(t, err, codes.FailedPrecondition, isMissing, map[string]string{"missing": "budgets/nowhere"})
	_, err = r.budgets.GetBudgetStatus(t.Context(), &chartergatev1.GetBudgetStatusRequest{Name: "budgets/acme"})
	if err == nil {
		t.Error("a server without a ledger answers a status")
	}
}

func TestBudgetCurrency(t *testing.T) {
	r := start(t)
	create := func(id, parent, currency string) *chartergatev1.Budget {
		b := aBudget(id, parent)
		b.Currency = currency
		made, err := r.budgets.CreateBudget(t.Context(), &chartergatev1.CreateBudgetRequest{Budget: b})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	if b := create("usa", "", ""); b.Currency != "USD" {
		t.Errorf("a root without a currency is in %q, want USD", b.Currency)
	}
	create("swiss", "", "CHF")
	if b := create("bern", "swiss", ""); b.Currency != "CHF" {
		t.Errorf("below a root in CHF the currency is %q", b.Currency)
	}
	root := aBudget("swiss", "")
	root.LimitNanos = 7
	if b, err := r.budgets.UpdateBudget(t.Context(), &chartergatev1.UpdateBudgetRequest{Budget: root}); err != nil || b.Currency != "CHF" {
		t.Errorf("an update that names no currency gives %v (%v), want it kept", b, err)
	}
}

func TestListPages(t *testing.T) {
	r := start(t)
	var want []string
	req := &chartergatev1.ApplyRequest{}
	for i := range 7 {
		b := aBudget(fmt.Sprintf("b%d", i), "")
		want = append(want, b.Name)
		req.Resources = append(req.Resources, resourceOf(b))
	}
	if _, err := r.manifests.Apply(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	var got []string
	token, pages := "", 0
	for {
		resp, err := r.budgets.ListBudgets(t.Context(), &chartergatev1.ListBudgetsRequest{PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range resp.Budgets {
			got = append(got, b.Name)
		}
		if pages++; pages == 1 {
			// A row that goes between two pages hides no other.
			if _, err := r.budgets.DeleteBudget(t.Context(), &chartergatev1.DeleteBudgetRequest{Name: "budgets/b2"}); err != nil {
				t.Fatal(err)
			}
		}
		if token = resp.NextPageToken; token == "" {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || pages != 3 {
		t.Errorf("got %v in %d pages, want %v in 3", got, pages, want)
	}
	all, err := r.budgets.ListBudgets(t.Context(), &chartergatev1.ListBudgetsRequest{})
	if err != nil || len(all.Budgets) != 6 || all.NextPageToken != "" {
		t.Errorf("without a page size: %v (%v)", all, err)
	}
	for _, garbage := range []string{"nonsense!", "YWJj", "Y2hhcnRlcnMvYQ"} { // the last is a token of charters
		_, err := r.budgets.ListBudgets(t.Context(), &chartergatev1.ListBudgetsRequest{PageToken: garbage})
		refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "page_token"}, "next_page_token")
	}
	_, err = r.budgets.ListBudgets(t.Context(), &chartergatev1.ListBudgetsRequest{PageSize: 1001})
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "page_size"})
}

func TestValidateOnly(t *testing.T) {
	r := start(t)
	r.company(t)
	epoch := control.Snapshot().Epoch
	made, err := r.budgets.CreateBudget(t.Context(), &chartergatev1.CreateBudgetRequest{Budget: aBudget("new", "acme"), ValidateOnly: true, RequestId: "v"})
	if err != nil || made.Currency != "USD" || made.Etag != "" {
		t.Errorf("create gives %v (%v)", made, err)
	}
	changed := aBudget("support", "acme")
	changed.LimitNanos = 5
	if got, err := r.budgets.UpdateBudget(t.Context(), &chartergatev1.UpdateBudgetRequest{Budget: changed, ValidateOnly: true}); err != nil || got.LimitNanos != 5 {
		t.Errorf("update gives %v (%v)", got, err)
	}
	if _, err := r.charters.DeleteCharter(t.Context(), &chartergatev1.DeleteCharterRequest{Name: "charters/chat", ValidateOnly: true}); err != nil {
		t.Error(err)
	}
	req := apply(changed, aBudget("new", "acme"))
	req.ValidateOnly = true
	if resp, err := r.manifests.Apply(t.Context(), req); err != nil || resp.Results[0].Action != chartergatev1.ApplyAction_APPLY_ACTION_UPDATED {
		t.Errorf("apply gives %v (%v)", resp, err)
	}
	_, err = r.budgets.DeleteBudget(t.Context(), &chartergatev1.DeleteBudgetRequest{Name: "budgets/acme", ValidateOnly: true})
	refused(t, err, codes.FailedPrecondition, isInUse, nil)
	if now := control.Snapshot().Epoch; now != epoch {
		t.Errorf("something was written: epoch %d, was %d", now, epoch)
	}
	// It is not remembered: the same request for real is made.
	if _, err := r.budgets.CreateBudget(t.Context(), &chartergatev1.CreateBudgetRequest{Budget: aBudget("new", "acme"), RequestId: "v"}); err != nil {
		t.Fatal(err)
	}
	if control.Snapshot().Budget("new") == nil {
		t.Error("the budget was not created")
	}
}

func TestRequestID(t *testing.T) {
	r := start(t)
	req := &chartergatev1.CreateBudgetRequest{Budget: aBudget("acme", ""), RequestId: "create-1"}
	first, err := r.budgets.CreateBudget(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.budgets.CreateBudget(t.Context(), req)
	if err != nil || !proto.Equal(first, again) {
		t.Errorf("a retry gives %v (%v), want the first answer %v", again, err, first)
	}
	req.Budget.LimitNanos++
	_, err = r.budgets.CreateBudget(t.Context(), req)
	refused(t, err, codes.AlreadyExists, isIDConflict, map[string]string{"request_id": "create-1"}, "another body")
}

func TestCatalogAndPrices(t *testing.T) {
	r := start(t)
	none, err := r.catalog.GetCatalog(t.Context(), &chartergatev1.GetCatalogRequest{})
	if err != nil || none.Name != "catalog" || len(none.Tiers) > 0 || none.Etag != "" {
		t.Errorf("before the first update the catalog is %v (%v)", none, err)
	}
	r.company(t)
	catalog, err := r.catalog.GetCatalog(t.Context(), &chartergatev1.GetCatalogRequest{})
	if err != nil || len(catalog.Models) != 2 {
		t.Fatalf("the catalog is %v (%v)", catalog, err)
	}
	smaller := aCatalog()
	smaller.Tiers, smaller.Models = smaller.Tiers[1:], smaller.Models[1:]
	_, err = r.catalog.UpdateCatalog(t.Context(), &chartergatev1.UpdateCatalogRequest{Catalog: smaller})
	refused(t, err, codes.FailedPrecondition, isInUse, map[string]string{"resource": "catalog/tiers/economy", "used_by": "charters/chat"})
	bigger := aCatalog()
	bigger.Models[1].ContextTokens, bigger.Etag = 16000, catalog.Etag
	updated, err := r.catalog.UpdateCatalog(t.Context(), &chartergatev1.UpdateCatalogRequest{Catalog: bigger})
	if err != nil || updated.Etag == catalog.Etag {
		t.Fatalf("update gives %v (%v)", updated, err)
	}
	_, err = r.catalog.UpdateCatalog(t.Context(), &chartergatev1.UpdateCatalogRequest{Catalog: bigger})
	refused(t, err, codes.Aborted, isEtagMismatch, map[string]string{"resource": "catalog", "current_etag": updated.Etag})

	price, err := r.prices.LookupPrice(t.Context(), &chartergatev1.LookupPriceRequest{Model: "small"})
	if err != nil || price.PriceBook != "priceBooks/list" || price.Currency != "USD" || price.GetInputNanos() != 150e6 || price.Revision == 0 {
		t.Errorf("the price is %v (%v)", price, err)
	}
	_, err = r.prices.LookupPrice(t.Context(), &chartergatev1.LookupPriceRequest{Model: "large"})
	refused(t, err, codes.FailedPrecondition, isNoPrice, map[string]string{"model": "large"}, "price book")
	before := aPriceBook("x").Prices[0].EffectiveTime
	before.Seconds--
	_, err = r.prices.LookupPrice(t.Context(), &chartergatev1.LookupPriceRequest{Model: "small", Time: before})
	refused(t, err, codes.FailedPrecondition, isNoPrice, nil)
	_, err = r.prices.CreatePriceBook(t.Context(), &chartergatev1.CreatePriceBookRequest{PriceBook: aPriceBook("other")})
	refused(t, err, codes.FailedPrecondition, isPriceConflict, map[string]string{"model": "small", "effective_time": "2026-01-01T00:00:00Z"}, "remove one")

	book := aPriceBook("list")
	book.Prices[0].InputNanos = ptr(int64(-1))
	_, err = r.prices.UpdatePriceBook(t.Context(), &chartergatev1.UpdatePriceBookRequest{PriceBook: book})
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "price_book.prices[0].input_nanos"})
	book.Prices[0].InputNanos = ptr(int64(0)) // free, not absent
	if got, err := r.prices.UpdatePriceBook(t.Context(), &chartergatev1.UpdatePriceBookRequest{PriceBook: book}); err != nil || got.Prices[0].InputNanos == nil {
		t.Errorf("a rate of 0 gives %v (%v)", got, err)
	}
	if list, err := r.prices.ListPriceBooks(t.Context(), &chartergatev1.ListPriceBooksRequest{}); err != nil || len(list.PriceBooks) != 1 {
		t.Errorf("list gives %v (%v)", list, err)
	}
	if _, err := r.prices.DeletePriceBook(t.Context(), &chartergatev1.DeletePriceBookRequest{Name: "priceBooks/list"}); err != nil {
		t.Error(err)
	}
	_, err = r.prices.GetPriceBook(t.Context(), &chartergatev1.GetPriceBookRequest{Name: "priceBooks/list"})
	refused(t, err, codes.NotFound, isNotFound, nil)
}
