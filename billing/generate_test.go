package billing_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// focusFile writes a FOCUS 1.2 bill of n rows: hourly lines of 20,000 resources with tags, as large bills have them.
func focusFile(t testing.TB, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "focus.csv")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	fmt.Fprintln(w, `BilledCost,BillingAccountId,BillingAccountName,BillingCurrency,BillingPeriodEnd,BillingPeriodStart,ChargeCategory,ChargeClass,ChargeDescription,ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,CommitmentDiscountId,ConsumedQuantity,ConsumedUnit,ContractedCost,EffectiveCost,InvoiceId,ListCost,ListUnitPrice,PricingCategory,PricingQuantity,PricingUnit,ProviderName,PublisherName,RegionId,RegionName,ResourceId,ResourceName,ResourceType,ServiceCategory,ServiceName,SkuId,SkuMeter,SkuPriceId,SubAccountId,SubAccountName,Tags`)
	r := rand.New(rand.NewPCG(1, 2))
	start := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	services := []struct{ category, service, meter, unit string }{
		{"Compute", "Amazon Elastic Compute Cloud", "BoxUsage:t3.large", "Hours"}, {"Storage", "Amazon Simple Storage Service", "TimedStorage-ByteHrs", "GB-Months"},
		{"Networking", "Elastic Load Balancing", "LCUUsage", "LCU-Hours"}, {"AI and Machine Learning", "Amazon Bedrock", "USE1-Claude3Sonnet-input-tokens", "1K tokens"},
	}
	for i := range n {
		at := start.Add(time.Duration(i*720/n) * time.Hour)
		resource, s := r.IntN(20_000), services[r.IntN(4)]
		cost := r.Int64N(1e12)
		fmt.Fprintf(w, `%d.%011d,1234567890123,SunBird,USD,2026-10-01T00:00:00Z,2026-09-01T00:00:00Z,Usage,,"$0.40 per %s of %s in US East, tier 1",Usage-Based,%s,%s,,%d.%03d,%s,0,%d.%011d,,%d.%011d,0.0000004,Standard,%d,%s,AWS,"Amazon Web Services, Inc.",us-east-1,US East (N. Virginia),arn:aws:x:us-east-1:123456789012:resource/%08x,,,%s,%s,G95FST5FTYV3JSRX,%s,G95FST5FTYV3JSRX.JRTCKXETXF,%012d,Atlas,"{""application"": ""app-%d"", ""environment"": ""prod"", ""feature"": ""feature-%d""}"`+"\n",
			cost/1e11, cost%1e11, s.unit, s.service, at.Add(time.Hour).Format(time.RFC3339), at.Format(time.RFC3339), r.IntN(1000), r.IntN(1000), s.unit, cost/2e11, cost%1e11, cost/1e11, cost%1e11,
			r.IntN(100), s.unit, resource, s.category, s.service, s.meter, resource%40, resource%97, resource%31)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
