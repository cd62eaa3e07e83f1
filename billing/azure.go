package billing

import "github.com/chartergate/chartergate/core/bill"

import "strings"

func azureVersion(t table) string {
	switch {
	case has(t, "extendedcost", "consumedquantity"):
		return "Azure EA (old columns)"
	case has(t, "costinpricingcurrency", "costinusd", "paygcostinbillingcurrency"):
		return "Azure MCA"
	}
	return "Azure EA"
}

// bindAzure reads cost details. Billed is the cost in the billing currency; an amortised export gives effective cost in
// the same column, so effective is the same.
func bindAzure(r *reader) (func([]string, *bill.Line) error, error) {
	billed := r.required("CostInBillingCurrency", "cost", "extendedcost", "pretaxcost")
	currency := r.required("BillingCurrencyCode", "billingcurrency", "currency", "currencycode")
	start := r.required("Date", "usagedate", "usagedatetime")
	periodStart, periodEnd := r.optional("BillingPeriodStartDate"), r.optional("BillingPeriodEndDate")
	list := r.expected("PaygCostInBillingCurrency")
	account := r.optional("BillingAccountId", "billingaccountname", "enrollmentnumber", "billingprofileid")
	sub := r.optional("SubscriptionId", "subscriptionguid")
	service, meter, subCategory := r.optional("MeterCategory"), r.optional("MeterName"), r.optional("MeterSubCategory")
	sku := r.optional("MeterId", "partnumber")
	region := r.optional("ResourceLocation", "meterregion", "location", "resourcelocationnormalized")
	resource, group := r.optional("ResourceId", "instanceid", "instancename"), r.optional("ResourceGroup", "resourcegroupname")
	quantity, unit := r.optional("Quantity", "consumedquantity", "usagequantity"), r.optional("UnitOfMeasure")
	category := r.optional("ChargeType")
	tags := r.expected("Tags")
	product := r.optional("ProductName", "product")
	provider := r.optional("Provider")
	if err := r.check("an Azure export"); err != nil {
		return nil, err
	}
	identity := r.columns("billingaccountid", "enrollmentnumber", "billingprofileid", "subscriptionid", "subscriptionguid", "date", "usagedatetime", "usagedate",
		"resourceid", "instanceid", "resourcename", "meterid", "partnumber", "metername", "metersubcategory", "resourcelocation", "chargetype", "pricingmodel", "reservationid", "productorderid",
		"benefitid", "costallocationrulename", "invoicesectionid", "billingcurrencycode", "billingcurrency", "publishertype", "publishername", "frequency", "term",
		"servicefamily", "additionalinfo", "serviceinfo2", "unitofmeasure", "costcenter")
	return func(record []string, l *bill.Line) (err error) {
		if err := r.span(l, record, &start, &field{}, &periodStart, &periodEnd); err != nil {
			return err
		}
		if err := r.currency(&currency, record, l); err != nil {
			return err
		}
		if l.Billed, err = r.cost(&billed, record); err != nil {
			return err
		}
		same := l.Billed
		l.Effective = &same
		if l.List, err = r.maybe(&list, record); err != nil {
			return err
		}
		if l.Quantity, err = r.decimal(&quantity, record); err != nil {
			return err
		}
		if l.Provider = provider.of(record); l.Provider == "" || strings.EqualFold(l.Provider, "azure") {
			l.Provider = "Microsoft"
		}
		l.Account, l.SubAccount = account.of(record), sub.of(record)
		l.Service, l.Meter, l.SKU = service.of(record), meter.of(record), sku.of(record)
		l.Region, l.Resource, l.ResourceGroup = region.of(record), resource.of(record), group.of(record)
		l.Category, l.Unit = category.of(record), unit.of(record)
		t := r.tag(&tags, record, l)
		if l.ResourceGroup == "" {
			l.ResourceGroup = resourceGroup(l.Resource)
		}
		r.ai.answer(&question{provider: l.Provider, service: l.Service, product: subCategory.of(record), meter: l.Meter, description: product.of(record), unit: l.Unit,
			tagModel: t.model, resource: l.Resource}, l)
		r.key.write(record, identity, l)
		return nil
	}, nil
}
