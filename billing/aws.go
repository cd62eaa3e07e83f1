package billing

import (
	"encoding/json"
	"strings"

	"github.com/chartergate/chartergate/core/bill"
)

func awsVersion(t table) string {
	for _, n := range t.names() {
		if strings.Contains(n, "/") {
			return "AWS CUR legacy"
		}
	}
	if has(t, "resourcetags") || !hasPrefix(t, "resourcetags") {
		return "AWS CUR 2.0"
	}
	return "AWS CUR legacy (Parquet names)"
}

func hasPrefix(t table, prefix string) bool {
	for _, n := range t.names() {
		if strings.HasPrefix(fold(n), prefix) {
			return true
		}
	}
	return false
}

// tagColumn is a tag that is a column of its own.
type tagColumn struct {
	at   int
	name string
}

func tagColumns(t table) []tagColumn {
	var list []tagColumn
	for i, n := range t.names() {
		for _, prefix := range []string{"resourceTags/", "resource_tags_", "resource_tags."} {
			if len(n) > len(prefix) && strings.EqualFold(n[:len(prefix)], prefix) {
				list = append(list, tagColumn{t.place(i), n[len(prefix):]})
			}
		}
	}
	return list
}

// bindAWS reads cost and usage reports: billed is the unblended cost, effective spreads commitments over what they cover.
func bindAWS(r *reader) (func([]string, *bill.Line) error, error) {
	common := charge{
		billed: r.required("lineItem/UnblendedCost"), currency: r.required("lineItem/CurrencyCode"),
		start: r.required("lineItem/UsageStartDate"), end: r.optional("lineItem/UsageEndDate"),
		periodStart: r.optional("bill/BillingPeriodStartDate"), periodEnd: r.optional("bill/BillingPeriodEndDate"),
		list: r.expected("pricing/publicOnDemandCost"),
	}
	kind := r.expected("lineItem/LineItemType")
	account, sub := r.optional("bill/PayerAccountId"), r.optional("lineItem/UsageAccountId")
	product, usageType, operation := r.optional("lineItem/ProductCode"), r.optional("lineItem/UsageType"), r.optional("lineItem/Operation")
	productName, productMap := r.optional("product/ProductName", "productservicename"), r.optional("product")
	sku := r.optional("product/sku", "productsku")
	region := r.optional("product/region", "productregioncode", "productregion", "productfromregioncode")
	resource := r.optional("lineItem/ResourceId")
	quantity, unit := r.optional("lineItem/UsageAmount"), r.optional("pricing/unit")
	description := r.optional("lineItem/LineItemDescription")
	tags := r.optional("resourceTags", "resource_tags")
	tagged := tagColumns(r.table)
	if tags.there() {
		tagged = nil // JSON: the map is given whole
	}
	reserved := r.optional("reservation/EffectiveCost")
	reservation := r.optional("reservation/ReservationARN")
	unusedUpfront := r.optional("reservation/UnusedAmortizedUpfrontFeeForBillingPeriod")
	unusedRecurring := r.optional("reservation/UnusedRecurringFee")
	planned := r.optional("savingsPlan/SavingsPlanEffectiveCost")
	commitment, committed := r.optional("savingsPlan/TotalCommitmentToDate"), r.optional("savingsPlan/UsedCommitment")
	if err := r.check("an AWS cost and usage report"); err != nil {
		return nil, err
	}
	r.tags.aws = true
	identity := r.columns("billpayeraccountid", "billbillingperiodstartdate", "billbilltype", "billinvoiceid", "lineitemusageaccountid", "lineitemlineitemtype",
		"lineitemusagestartdate", "lineitemusageenddate", "lineitemproductcode", "lineitemusagetype", "lineitemoperation", "lineitemavailabilityzone",
		"lineitemresourceid", "lineitemcurrencycode", "lineitemlineitemdescription", "lineitemtaxtype", "productsku", "pricingterm", "pricingratecode",
		"reservationreservationarn", "savingsplansavingsplanarn", "reservationsubscriptionid")
	effective := func(record []string, kind string, l *bill.Line) error {
		var d bill.Decimal
		var err error
		switch kind {
		case "DiscountedUsage":
			d, err = r.cost(&reserved, record)
		case "SavingsPlanCoveredUsage":
			d, err = r.cost(&planned, record)
		case "SavingsPlanNegation", "SavingsPlanUpfrontFee":
		case "SavingsPlanRecurringFee":
			var used bill.Decimal
			if d, err = r.cost(&commitment, record); err == nil {
				if used, err = r.decimal(&committed, record); err == nil {
					d = d.Minus(used)
				}
			}
		case "RIFee":
			var more bill.Decimal
			if d, err = r.decimal(&unusedUpfront, record); err == nil {
				if more, err = r.decimal(&unusedRecurring, record); err == nil {
					d = d.Plus(more)
				}
			}
		case "Fee":
			if d = l.Billed; reservation.of(record) != "" {
				d = bill.Decimal{}
			}
		default:
			d = l.Billed
		}
		if f, ok := err.(*fault); ok && f.reason == "no amount" {
			return nil // an export without the columns of commitments: not known
		}
		l.Effective = &d
		return err
	}
	return func(record []string, l *bill.Line) (err error) {
		if err := r.charge(&common, record, l); err != nil {
			return err
		}
		l.Category = kind.of(record)
		if err := effective(record, l.Category, l); err != nil {
			return err
		}
		if l.Quantity, err = r.decimal(&quantity, record); err != nil {
			return err
		}
		l.Provider, l.Account, l.SubAccount = "AWS", account.of(record), sub.of(record)
		l.Service, l.SKU, l.Meter = product.of(record), sku.of(record), usageType.of(record)
		l.Resource, l.Unit, l.Region = resource.of(record), unit.of(record), region.of(record)
		if l.Region == "" {
			l.Region = awsRegion(l.Meter)
		}
		var t parsedTags
		if tagged != nil {
			if t, err = r.tagColumns(tagged, record, l); err != nil {
				return err
			}
		} else {
			t = r.tag(&tags, record, l)
		}
		name := productName.of(record)
		if name == "" && productMap.there() {
			name = productOf(productMap.of(record))
		}
		r.ai.answer(&question{provider: "AWS", service: l.Service, product: name, unit: l.Unit, usageType: l.Meter, operation: operation.of(record),
			description: description.of(record), tagModel: t.model, resource: l.Resource}, l)
		r.key.write(record, identity, l)
		return nil
	}, nil
}

// tagColumns reads tags that are columns.
func (r *reader) tagColumns(list []tagColumn, record []string, l *bill.Line) (parsedTags, error) {
	r.key.buffer = r.key.buffer[:0]
	any := false
	for _, c := range list {
		r.key.add(record[c.at])
		any = any || record[c.at] != ""
	}
	if !any {
		return parsedTags{}, nil
	}
	seen := string(r.key.buffer)
	p, ok := r.tags.seen[seen]
	if !ok {
		m := make(map[string]string)
		for _, c := range list {
			if v := record[c.at]; v != "" {
				m[c.name] = v
			}
		}
		var err error
		if p, err = r.tags.keep(seen, m); err != nil {
			return p, &fault{"resourceTags", "wrong tags", err.Error()}
		}
	}
	l.Tags, l.Feature = p.text, p.feature
	return p, nil
}

func productOf(text string) string {
	var m map[string]any
	if text == "" || json.Unmarshal([]byte(text), &m) != nil {
		return ""
	}
	name, _ := m["product_name"].(string)
	return name
}

// awsRegions are the prefixes of usage types.
var awsRegions = map[string]string{
	"USE1": "us-east-1", "USE2": "us-east-2", "USW1": "us-west-1", "USW2": "us-west-2", "CAN1": "ca-central-1", "CAN2": "ca-west-1",
	"SAE1": "sa-east-1", "EU": "eu-west-1", "EUW1": "eu-west-1", "EUW2": "eu-west-2", "EUW3": "eu-west-3", "EUC1": "eu-central-1", "EUC2": "eu-central-2",
	"EUN1": "eu-north-1", "EUS1": "eu-south-1", "EUS2": "eu-south-2", "APN1": "ap-northeast-1", "APN2": "ap-northeast-2", "APN3": "ap-northeast-3",
	"APS1": "ap-southeast-1", "APS2": "ap-southeast-2", "APS3": "ap-south-1", "APS4": "ap-southeast-3", "APS5": "ap-south-2", "APS6": "ap-southeast-4",
	"APS7": "ap-southeast-5", "APS9": "ap-southeast-7", "APE1": "ap-east-1", "MES1": "me-south-1", "MEC1": "me-central-1", "ILC1": "il-central-1", "AFS1": "af-south-1",
	"MXC1": "mx-central-1", "UGW1": "us-gov-west-1", "UGE1": "us-gov-east-1",
}

// awsRegion is the region of a usage type such as `USW2-BoxUsage:t3.large`; empty where it names none.
func awsRegion(usageType string) string {
	prefix, _, ok := strings.Cut(usageType, "-")
	if !ok {
		return ""
	}
	return awsRegions[prefix]
}
