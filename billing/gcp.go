package billing

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/chartergate/chartergate/core/bill"
)

// bindGCP reads the usage cost export of Google Cloud: a table of BigQuery, exported as JSON lines or flattened to CSV.
// Billed and effective are the cost with its credits, which are negative; list is the cost at list price.
func bindGCP(r *reader) (func([]string, *bill.Line) error, error) {
	cost := r.required("cost")
	currency := r.required("currency")
	start := r.required("usage_start_time")
	end := r.optional("usage_end_time")
	month := r.optional("invoice.month", "invoicemonth")
	list := r.expected("cost_at_list", "costatlist")
	credits := r.optional("credits")
	credit := r.optional("credits.amount", "creditsamount", "creditamount")
	account, project := r.optional("billing_account_id"), r.optional("project.id", "projectid")
	service := r.optional("service.description", "servicedescription", "serviceid")
	sku, skuName := r.optional("sku.id", "skuid"), r.optional("sku.description", "skudescription")
	region := r.optional("location.region", "locationregion", "region", "locationlocation", "location")
	resource := r.optional("resource.global_name", "resourceglobalname", "resourcename")
	quantity := r.optional("usage.amount", "usageamount", "usageamountinpricingunits")
	unit := r.optional("usage.unit", "usageunit", "usagepricingunit")
	kind := r.optional("cost_type", "costtype")
	labels, key, value := r.optional("labels"), r.optional("labels.key"), r.optional("labels.value")
	if !key.there() || !value.there() {
		labels = r.expected("labels")
	}
	if err := r.check("a Google Cloud export"); err != nil {
		return nil, err
	}
	identity := r.columns("billingaccountid", "serviceid", "servicedescription", "skuid", "skudescription", "usagestarttime", "usageendtime", "projectid",
		"resourcename", "resourceglobalname", "locationlocation", "locationregion", "locationzone", "region", "costtype", "invoicemonth", "exporttime", "currency",
		"transactiontype", "sellername", "adjustmentinfoid", "adjustmentinfotype", "tags", "labels", "labelskey", "labelsvalue", "systemlabels", "usageunit")
	return func(record []string, l *bill.Line) (err error) {
		if err := r.span(l, record, &start, &end, &month, &field{}); err != nil {
			return err
		}
		if err := r.currency(&currency, record, l); err != nil {
			return err
		}
		if l.Billed, err = r.cost(&cost, record); err != nil {
			return err
		}
		if l.Credits, err = r.decimal(&credit, record); err != nil {
			return err
		}
		if text := credits.of(record); text != "" && !credit.there() || strings.HasPrefix(text, "[") {
			if l.Credits, err = sumCredits(text); err != nil {
				return &fault{credits.name, "wrong credits", err.Error()}
			}
		}
		l.Billed = l.Billed.Plus(l.Credits)
		same := l.Billed
		l.Effective = &same
		if l.List, err = r.maybe(&list, record); err != nil {
			return err
		}
		if l.Quantity, err = r.decimal(&quantity, record); err != nil {
			return err
		}
		l.Provider, l.Account, l.SubAccount = "Google Cloud", account.of(record), project.of(record)
		l.Service, l.SKU, l.Meter = service.of(record), sku.of(record), skuName.of(record)
		l.Region, l.Resource, l.Category, l.Unit = region.of(record), resource.of(record), kind.of(record), unit.of(record)
		text := labels.of(record)
		if k := key.of(record); k != "" && value.there() {
			if text, err = labelList(k, value.of(record)); err != nil {
				r.warning = &fault{key.name, "tags that cannot be read", err.Error()}
			}
		}
		t := r.tagText(labels.name, text, l)
		r.ai.answer(&question{provider: l.Provider, service: l.Service, meter: l.Meter, unit: l.Unit, tagModel: t.model, resource: l.Resource}, l)
		r.key.write(record, identity, l)
		return nil
	}, nil
}

// labelList is a list of labels whose keys and values stand in columns of their own: one of each, or lists in JSON that
// are as long.
func labelList(key, value string) (string, error) {
	keys, values := []string{key}, []string{value}
	if strings.HasPrefix(key, "[") {
		if err := json.Unmarshal([]byte(key), &keys); err != nil {
			return "", fmt.Errorf("%s is not a list of labels: %w", quote(key), err)
		}
		if err := json.Unmarshal([]byte(value), &values); err != nil {
			return "", fmt.Errorf("%s is not a list of the labels' values: %w", quote(value), err)
		}
	}
	if len(keys) != len(values) {
		return "", fmt.Errorf("%d labels have %d values", len(keys), len(values))
	}
	list := make([]map[string]string, len(keys))
	for i := range keys {
		list[i] = map[string]string{"key": keys[i], "value": values[i]}
	}
	b, err := json.Marshal(list)
	return string(b), err
}

// sumCredits adds a list of {amount} up, exactly: JSON numbers are read as they are written.
func sumCredits(text string) (bill.Decimal, error) {
	var list []struct{ Amount json.RawMessage }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return bill.Decimal{}, fmt.Errorf("%s is not a list of credits: %w", quote(text), err)
	}
	var sum bill.Decimal
	for _, c := range list {
		s := strings.Trim(string(c.Amount), `"`)
		if s == "" || s == "null" {
			continue
		}
		d, err := bill.ParseDecimal(s)
		if err != nil {
			return bill.Decimal{}, err
		}
		sum = sum.Plus(d)
	}
	return sum, nil
}
