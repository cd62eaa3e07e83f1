package billing_test

import (
	"bytes"
	"compress/gzip"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/parquet-go/parquet-go"

	"github.com/chartergate/chartergate/billing"
	"github.com/chartergate/chartergate/core/bill"
)

// read gives the lines of a file.
func read(t *testing.T, path string, o billing.Options) ([]bill.Line, *billing.Report) {
	t.Helper()
	var lines []bill.Line
	r, err := billing.Scan(path, o, func(l *bill.Line) error {
		lines = append(lines, *l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Skipped > 0 {
		t.Fatalf("skipped: %+v", r.Reasons)
	}
	return lines, r
}

func text(d *bill.Decimal) string {
	if d == nil {
		return "-"
	}
	return d.String()
}

const curLegacy = `identity/LineItemId,identity/TimeInterval,bill/PayerAccountId,bill/BillingPeriodStartDate,bill/BillingPeriodEndDate,lineItem/UsageAccountId,lineItem/LineItemType,lineItem/UsageStartDate,lineItem/UsageEndDate,lineItem/ProductCode,lineItem/UsageType,lineItem/Operation,lineItem/ResourceId,lineItem/UsageAmount,lineItem/CurrencyCode,lineItem/UnblendedCost,lineItem/LineItemDescription,product/ProductName,product/region,pricing/publicOnDemandCost,pricing/unit,reservation/EffectiveCost,savingsPlan/SavingsPlanEffectiveCost,savingsPlan/TotalCommitmentToDate,savingsPlan/UsedCommitment,resourceTags/user:feature,resourceTags/aws:createdBy,resourceTags/user:Feature
a1,x,111,2026-09-01T00:00:00Z,2026-10-01T00:00:00Z,222,Usage,2026-09-02T03:00:00Z,2026-09-02T04:00:00Z,AmazonBedrock,USE1-Claude3Sonnet-input-tokens,InvokeModelInference,,12.345,USD,0.0370350000,,Amazon Bedrock,us-east-1,0.0370350000,1K tokens,,,,,chat,me,x
a2,x,111,2026-09-01T00:00:00Z,2026-10-01T00:00:00Z,222,SavingsPlanCoveredUsage,2026-09-02T03:00:00Z,2026-09-02T04:00:00Z,AmazonSageMaker,USE1-Host:ml.g5.xlarge,RunInstance,arn:aws:sagemaker:x,1,USD,1.408,,Amazon SageMaker,us-east-1,1.408,Hrs,,0.9,,,,,
a3,x,111,2026-09-01T00:00:00Z,2026-10-01T00:00:00Z,222,SavingsPlanNegation,2026-09-02T03:00:00Z,2026-09-02T04:00:00Z,ComputeSavingsPlans,USE1-Host:ml.g5.xlarge,,,1,USD,-1.408,,,,0,,,,,,,,
a4,x,111,2026-09-01T00:00:00Z,2026-10-01T00:00:00Z,222,SavingsPlanRecurringFee,2026-09-02T03:00:00Z,2026-09-02T04:00:00Z,ComputeSavingsPlans,Fee,,,1,USD,1,,,,0,,,,1,0.9,,,
a5,x,111,2026-09-01T00:00:00Z,2026-10-01T00:00:00Z,222,Credit,2026-09-02T03:00:00Z,2026-09-02T04:00:00Z,AmazonBedrock,USE1-Claude3Sonnet-output-tokens-batch,,,0,USD,-0.01,,,,,1K tokens,,,,,chat,,
`

func TestAWSCostAndUsageReports(t *testing.T) {
	lines, r := read(t, write(t, curLegacy), billing.Options{})
	if r.Format != "AWS CUR legacy" || len(lines) != 5 || r.Totals[0].BilledExact != "1.027035" || r.Totals[0].EffectiveExact != "1.027035" {
		t.Errorf("%+v", r)
	}
	l := lines[0]
	if l.Model != "Claude3Sonnet" || l.TokenClass != bill.ClassInput || l.Tokens != 12345 || l.Feature != "chat" || l.Tags != `{"Feature":"x","aws:createdBy":"me","feature":"chat"}` ||
		l.Region != "us-east-1" || l.Account != "111" || l.SubAccount != "222" || l.Service != "AmazonBedrock" || l.PeriodStart.Month() != 9 {
		t.Errorf("%+v", l)
	}
	if m := lines[1]; m.Model != "ml.g5.xlarge" || text(m.Effective) != "0.9" || m.Billed.String() != "1.408" || text(lines[2].Effective) != "0" || text(lines[3].Effective) != "0.1" {
		t.Errorf("commitments: %+v", m)
	}
	if lines[4].ServiceTier != "batch" || lines[4].Billed.String() != "-0.01" {
		t.Errorf("%+v", lines[4])
	}
	// CUR 2.0 says the same with other names, and maps.
	two := `bill_payer_account_id,line_item_usage_account_id,line_item_line_item_type,line_item_usage_start_date,line_item_usage_end_date,line_item_product_code,line_item_usage_type,line_item_usage_amount,line_item_currency_code,line_item_unblended_cost,line_item_line_item_description,pricing_public_on_demand_cost,pricing_unit,product,product_region_code,resource_tags
111,222,Usage,2026-09-02 03:00:00.000,2026-09-02 04:00:00.000,7g37rs,USW2-MP:USW2_OutputTokenCount-Units,0.5,USD,7.5,AWS Marketplace software usage|us-west-2|Million Output Tokens,7.5,Units,"{""product_name"":""Claude 3.5 Sonnet (Amazon Bedrock Edition)""}",us-west-2,"{""user_feature"":""search"",""aws_created_by"":""x""}"
`
	lines, r = read(t, write(t, two), billing.Options{})
	if r.Format != "AWS CUR 2.0" {
		t.Error(r.Format)
	}
	if l := lines[0]; l.Model != "Claude 3.5 Sonnet" || l.TokenClass != bill.ClassOutput || l.Tokens != 500_000 || l.Feature != "search" || l.Tags != `{"aws_created_by":"x","feature":"search"}` {
		t.Errorf("%+v", l)
	}
}

func TestAzureColumnsOldAndNew(t *testing.T) {
	old := "\"Usage Data Extract\"\n\nAccount Owner Id,Subscription Guid,Date,Product,Meter ID,Meter Category,Meter Sub-Category,Meter Region,Meter Name,Consumed Quantity,ResourceRate,ExtendedCost,Resource Location,Instance ID,Tags,Unit Of Measure,Resource Group,Currency\n" +
		"x,sub,09/21/2026,Azure OpenAI,m1,Cognitive Services,Azure OpenAI,,gpt-4o-0806-Inp-glbl Tokens,12.5,0.0025,5.64902E-05,EastUS,/subscriptions/s/resourceGroups/RG-1/providers/p/x,\"\"\"Feature\"\": \"\"chat\"\"\",1K,,EUR\n"
	new := "date,subscriptionId,meterCategory,meterName,costInBillingCurrency,billingCurrency,quantity,unitOfMeasure,tags,resourceGroupName,paygCostInBillingCurrency,billingPeriodStartDate\n" +
		"2026-09-21,sub,Azure OpenAI,gpt-4o-0806-Outp-glbl Tokens,0.1,EUR,2,1K,\"{\"\"feature\"\":\"\"chat\"\"}\",rg,0.2,2026-09-01\n"
	lines, _ := read(t, write(t, old), billing.Options{})
	if l := lines[0]; l.Billed.String() != "0.0000564902" || l.Feature != "chat" || l.Tags != `{"Feature":"chat"}` || l.ResourceGroup != "RG-1" || l.Model != "gpt-4o" || l.Tokens != 12_500 ||
		l.Start != time.Date(2026, 9, 21, 0, 0, 0, 0, time.UTC) || l.List != nil || l.Provider != "Microsoft" {
		t.Errorf("%+v", l)
	}
	lines, r := read(t, write(t, new), billing.Options{})
	if l := lines[0]; r.Format != "Azure MCA" || l.ResourceGroup != "rg" || text(l.List) != "0.2" || l.TokenClass != bill.ClassOutput || l.Tokens != 2000 {
		t.Errorf("%s %+v", r.Format, l)
	}
}

func TestGoogleCloudInJSONAndCSV(t *testing.T) {
	json := `{"billing_account_id":"01-A","service":{"id":"aiplatform","description":"Vertex AI"},"sku":{"id":"S1","description":"Gemini 2.0 Flash Text Input - Predictions"},"usage_start_time":"2026-09-21 07:00:00 UTC","usage_end_time":"2026-09-21 08:00:00 UTC","project":{"id":"p1","labels":[]},"labels":[{"key":"feature","value":"chat"}],"system_labels":[],"location":{"location":"us-central1","region":"us-central1"},"cost":1.2e-05,"currency":"USD","usage":{"amount":80000,"unit":"count"},"credits":[{"name":"x","amount":-2e-06},{"name":"y","amount":"-0.000001"}],"invoice":{"month":"202609"},"cost_type":"regular","cost_at_list":0.00002}
`
	csv := "billing_account_id,service.description,sku.id,sku.description,usage_start_time,project.id,labels,cost,currency,usage.amount,usage.unit,credits,invoice.month\n" +
		`01-A,Vertex AI,S1,Gemini 2.0 Flash Text Input - Predictions,2026-09-21T07:00:00Z,p1,"[{""key"":""feature"",""value"":""chat""}]",0.000012,USD,80000,count,"[{""name"":""x"",""amount"":-0.000003}]",202609` + "\n"
	for _, data := range []string{json, csv} {
		lines, r := read(t, write(t, data), billing.Options{})
		l := lines[0]
		if r.Format != "GCP detailed export" || l.Billed.String() != "0.000009" || l.Credits.String() != "-0.000003" || l.Feature != "chat" || l.Tags != `{"feature":"chat"}` ||
			l.Model != "gemini-2.0-flash" || l.TokenClass != bill.ClassInput || l.Tokens != 80000 || l.SubAccount != "p1" || l.PeriodStart.Format("2006-01-02") != "2026-09-01" || l.Service != "Vertex AI" {
			t.Errorf("%+v", l)
		}
	}
}

func TestGoogleCloudLabelsInColumns(t *testing.T) {
	csv := "billing_account_id,service.description,usage_start_time,project.id,cost,currency,cost_at_list,labels.key,labels.value\n"
	row := `01-A,Vertex AI,2026-09-21T07:00:00Z,p1,0.5,USD,1,`
	object := `{"service":{"description":"Vertex AI"},"sku":{"id":"S1"},"usage_start_time":"2026-09-21 07:00:00 UTC","cost":0.5,"currency":"USD","invoice":{"month":"202609"},"labels":`
	for name, c := range map[string]struct{ data, feature, tags string }{
		"one":             {csv + row + "feature,chat\n", "chat", `{"feature":"chat"}`},
		"none":            {csv + row + ",\n", "", ""},
		"lists":           {csv + row + `"[""feature"",""team""]","[""chat"",""x""]"` + "\n", "chat", `{"feature":"chat","team":"x"}`},
		"JSON, an object": {object + `{"key":"feature","value":"chat"}}` + "\n", "chat", `{"feature":"chat"}`},
		"JSON, lists":     {object + `{"key":["feature","team"],"value":["chat","x"]}}` + "\n", "chat", `{"feature":"chat","team":"x"}`},
		"JSON, flat":      {object + `null,"labels.key":"feature","labels.value":"chat"}` + "\n", "chat", `{"feature":"chat"}`},
		"JSON, nested":    {object + `[{"key":"feature","value":"chat"},{"key":"team","value":"x"}]}` + "\n", "chat", `{"feature":"chat","team":"x"}`},
	} {
		lines, r := read(t, write(t, c.data), billing.Options{})
		if l := lines[0]; r.Format != "GCP detailed export" || l.Feature != c.feature || l.Tags != c.tags || l.Billed.String() != "0.5" {
			t.Errorf("%s: %s, %+v", name, r.Format, l)
		}
		if slices.Contains(r.Absent, "labels") {
			t.Errorf("%s: labels are said to be absent", name)
		}
	}
	lines, r := read(t, write(t, csv+row+`"[""feature"",""team""]","[""chat""]"`+"\n"), billing.Options{})
	if l := lines[0]; l.Tags != "" || l.Billed.String() != "0.5" || len(r.Warnings) == 0 {
		t.Errorf("labels without values: %+v, %+v", l, r)
	}
}

func TestFOCUSVersions(t *testing.T) {
	base := "BilledCost,BillingCurrency,ChargePeriodStart,EffectiveCost,ListCost,Tags"
	for version, more := range map[string]string{"1.0": "ProviderName", "1.1": "ProviderName,SkuMeter", "1.2": "ProviderName,SkuMeter,InvoiceId", "1.3": "ProviderName,ServiceProviderName,HostProviderName",
		"1.4": "ServiceProviderName,HostProviderName"} {
		values := strings.Repeat(",OpenAI", strings.Count(more, ",")+1)
		lines, r := read(t, write(t, base, ",", more, "\n1,USD,2026-09-21,1,1,", values, "\n"), billing.Options{})
		if r.Format != "FOCUS "+version || lines[0].Provider != "OpenAI" {
			t.Errorf("%s is read as %s, %+v", version, r.Format, lines[0])
		}
	}
}

// The same bill is the same in any encoding, delimiter and compression.
func TestEncodingsAndDelimiters(t *testing.T) {
	text := focusHeader + strings.Replace(focusLine(1, "Straße", "1.25"), "Storage", "Stra\u00dfe", 1)
	units := utf16.Encode([]rune("\ufeff" + text))
	var little, big, zipped bytes.Buffer
	for _, u := range units {
		little.Write([]byte{byte(u), byte(u >> 8)})
		big.Write([]byte{byte(u >> 8), byte(u)})
	}
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(text)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	latin := strings.NewReplacer("ß", "\xdf").Replace(text)
	semicolon := strings.NewReplacer(`"{""env"":""prod""}"`, `"{""env"":""prod""}"`, ",", ";").Replace(text)
	for name, c := range map[string]struct {
		data     string
		encoding string
	}{
		"utf-8": {text, ""}, "utf-8 with a mark": {"\ufeff" + text, ""}, "utf-16 little": {little.String(), ""}, "utf-16 big": {big.String(), ""}, "gzip": {zipped.String(), ""},
		"latin-1": {latin, billing.Windows}, "semicolon": {semicolon, ""}, "tab": {strings.ReplaceAll(semicolon, ";", "\t"), ""}, "CRLF": {strings.ReplaceAll(text, "\n", "\r\n"), ""},
	} {
		lines, _ := read(t, write(t, c.data), billing.Options{Encoding: c.encoding})
		if len(lines) != 1 || lines[0].Service != "Straße" || lines[0].Billed.String() != "1.25" || lines[0].Tags != `{"env":"prod"}` {
			t.Errorf("%s: %+v", name, lines)
		}
	}
}

type focusParquet struct {
	BilledCost        [16]byte          `parquet:"BilledCost,decimal(12:38)"`
	EffectiveCost     float64           `parquet:"EffectiveCost"`
	ListCost          *float64          `parquet:"ListCost,optional"`
	BillingCurrency   string            `parquet:"BillingCurrency"`
	BillingAccountId  string            `parquet:"BillingAccountId"`
	ChargePeriodStart time.Time         `parquet:"ChargePeriodStart,timestamp(microsecond)"`
	ProviderName      string            `parquet:"ProviderName"`
	Tags              map[string]string `parquet:"Tags"`
	ConsumedQuantity  int64             `parquet:"ConsumedQuantity,decimal(3:18)"`
}

func decimal128(n int64) (b [16]byte) {
	x := new(big.Int).SetInt64(n)
	if n < 0 {
		x.Add(x, new(big.Int).Lsh(big.NewInt(1), 128))
	}
	x.FillBytes(b[:])
	return b
}

func TestParquet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "focus.parquet")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := parquet.NewGenericWriter[focusParquet](f, parquet.Compression(&parquet.Zstd))
	at := time.Date(2026, 9, 21, 5, 0, 0, 0, time.UTC)
	ten := 0.1
	var rows []focusParquet
	for i := range int64(1000) {
		row := focusParquet{decimal128(1_000_000_000_001 - i%2*2_000_000_000_000), 0.1, &ten, "USD", "acc", at, "AWS", map[string]string{"feature": "chat", "env": "prod"}, 1500}
		if i%3 == 0 {
			row.ListCost, row.Tags = nil, nil
		}
		rows = append(rows, row)
	}
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	lines, r := read(t, path, billing.Options{})
	total := r.Totals[0]
	if len(lines) != 1000 || total.BilledExact != "0.000000001" || total.EffectiveExact != "100" || total.ListExact != "66.6" || total.WithoutList != 334 {
		t.Errorf("%+v", total)
	}
	if l := lines[1]; l.Billed.String() != "-0.999999999999" || l.Tags != `{"env":"prod","feature":"chat"}` || l.Feature != "chat" || !l.Start.Equal(at) || l.Quantity.String() != "1.5" {
		t.Errorf("%+v", l)
	}
	if l := lines[0]; l.Tags != "" || l.Billed.String() != "1.000000000001" || l.List != nil {
		t.Errorf("%+v", l)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := billing.Scan(write(t, string(data[:len(data)-100])), billing.Options{}, nil); err == nil || !strings.Contains(err.Error(), "not a valid Parquet file") {
		t.Errorf("cut off: %v", err)
	}
}
