package billing

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/bill"
)

// focusVersion tells the version by the columns that it added.
func focusVersion(t table) string {
	v := "1.0"
	switch {
	case has(t, "serviceprovidername", "hostprovidername") && !has(t, "providername", "publishername"):
		v = "1.4" // which has dropped what 1.3 deprecated
	case has(t, "serviceprovidername", "hostprovidername", "allocatedmethodid", "contractapplied"):
		v = "1.3"
	case has(t, "invoiceid", "pricingcurrency", "billingaccounttype", "subaccounttype"):
		v = "1.2"
	case has(t, "servicesubcategory", "skumeter", "skupricedetails", "capacityreservationid", "commitmentdiscountquantity"):
		v = "1.1"
	}
	return "FOCUS " + v
}

func bindFOCUS(r *reader) (func([]string, *bill.Line) error, error) {
	common := charge{
		billed: r.required("BilledCost"), currency: r.required("BillingCurrency"),
		start: r.required("ChargePeriodStart"), end: r.optional("ChargePeriodEnd"),
		periodStart: r.optional("BillingPeriodStart"), periodEnd: r.optional("BillingPeriodEnd"), list: r.expected("ListCost"),
	}
	effective := r.expected("EffectiveCost")
	account, sub := r.optional("BillingAccountId"), r.optional("SubAccountId")
	provider := r.optional("ProviderName", "serviceprovidername", "publishername", "hostprovidername", "invoiceissuername")
	service, category := r.optional("ServiceName"), r.optional("ChargeCategory")
	sku := r.optional("SkuId", "skupriceid")
	meter := r.optional("SkuMeter", "xskumetername", "xusagetype", "chargedescription")
	region := r.optional("RegionId", "regionname")
	resource := r.optional("ResourceId", "resourcename")
	group := r.optional("x_ResourceGroupName", "xresourcegroup")
	quantity, unit := r.optional("ConsumedQuantity", "pricingquantity"), r.optional("ConsumedUnit", "pricingunit")
	tags := r.expected("Tags")
	usageType, operation := r.optional("x_UsageType"), r.optional("x_Operation")
	model := r.optional("x_ModelName", "xmodel", "xmodelid")
	class := r.optional("x_TokenClass", "xtokentype")
	details := r.optional("SkuPriceDetails", "xskudetails")
	description, serviceCategory := r.optional("ChargeDescription"), r.optional("ServiceCategory")
	if err := r.check("FOCUS"); err != nil {
		return nil, err
	}
	identity := r.columns("billingaccountid", "subaccountid", "chargeperiodstart", "chargeperiodend", "billingperiodstart", "providername",
		"serviceprovidername", "publishername", "servicename", "skuid", "skupriceid", "skumeter", "regionid", "regionname", "availabilityzone", "resourceid",
		"resourcename", "chargecategory", "chargeclass", "chargedescription", "chargefrequency", "pricingcategory", "pricingunit", "consumedunit", "commitmentdiscountid",
		"commitmentdiscountstatus", "billingcurrency", "xusagetype", "xoperation", "invoiceid", "xmodelname", "xtokenclass")
	return func(record []string, l *bill.Line) (err error) {
		if err := r.charge(&common, record, l); err != nil {
			return err
		}
		if l.Effective, err = r.maybe(&effective, record); err != nil {
			return err
		}
		if l.Quantity, err = r.decimal(&quantity, record); err != nil {
			return err
		}
		l.Account, l.SubAccount = account.of(record), sub.of(record)
		l.Provider, l.Service, l.Category = provider.of(record), service.of(record), category.of(record)
		l.SKU, l.Meter, l.Region = sku.of(record), meter.of(record), region.of(record)
		l.Resource, l.ResourceGroup = resource.of(record), group.of(record)
		l.Unit = unit.of(record)
		t := r.tag(&tags, record, l)
		if l.ResourceGroup == "" {
			l.ResourceGroup = resourceGroup(l.Resource)
		}
		q := question{
			provider: l.Provider, service: l.Service, category: serviceCategory.of(record), unit: l.Unit, usageType: usageType.of(record),
			operation: operation.of(record), meter: l.Meter, sku: l.SKU, description: description.of(record),
			model: model.of(record), class: class.of(record), tagModel: t.model, resource: l.Resource,
		}
		if d := details.of(record); d != "" && q.model == "" {
			q.model, q.class = priceDetails(d, q.class)
		}
		r.ai.answer(&q, l)
		r.key.write(record, identity, l)
		return nil
	}, nil
}

// priceDetails finds a model and token class in the provider's own keys of SkuPriceDetails.
func priceDetails(text, class string) (string, string) {
	var d map[string]any
	if json.Unmarshal([]byte(text), &d) != nil {
		return "", class // it is not needed to read the line
	}
	model := ""
	for _, k := range slices.Sorted(maps.Keys(d)) {
		v, ok := d[k].(string)
		if !ok {
			continue
		}
		switch fold(strings.TrimPrefix(k, "x_")) {
		case "model", "modelname", "modelid":
			model = v
		case "tokentype", "tokenclass", "inferencetype":
			if class == "" {
				class = v
			}
		}
	}
	return model, class
}

// resourceGroup is the resource group in an Azure resource id.
func resourceGroup(id string) string {
	const mark = "/resourcegroups/"
	if len(id) < len(mark) {
		return ""
	}
	lower := strings.ToLower(id)
	i := strings.Index(lower, mark)
	if i < 0 || len(lower) != len(id) {
		return ""
	}
	group, _, _ := strings.Cut(id[i+len(mark):], "/")
	return group
}
