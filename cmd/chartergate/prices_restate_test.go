package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// A correction of a price, through the command line: told, posted once, shown by reports apart from what the ledger says.
func TestPricesRestate(t *testing.T) {
	addr, client := startExamples(t)
	c := cli{t, []string{"--server", addr}}
	c.contains(c.ok("prices", "restate"), "Nothing to restate: no price book corrects a price.")
	c.fails(exitFailed, []string{"ghost@2026", "no price book has this correction"}, "prices", "restate", "--correction", "ghost@2026")

	book, err := client.Prices.GetPriceBook(t.Context(), &pb.GetPriceBookRequest{Name: "priceBooks/providers"})
	if err != nil {
		t.Fatal(err)
	}
	var settled, want, calls int64
	model := ""
	var price *pb.Price
	for i := range int64(5) {
		r, err := client.Reserve(t.Context(), &pb.ReserveRequest{Call: &pb.Call{Feature: "support-copilot", TaskClass: "chat", Cohort: "pro", Estimate: &pb.Estimate{InputTokens: 2000, MaxOutputTokens: 500}}})
		if err != nil || r.GetHold() == nil {
			t.Fatalf("%v, %v", r, err)
		}
		s, err := client.Settle(t.Context(), &pb.SettleRequest{Hold: r.GetHold().GetToken(), Usage: &pb.Usage{InputTokens: 1000 + i, OutputTokens: 300}})
		if err != nil {
			t.Fatal(err)
		}
		settled += s.GetSettlement().GetCostNanos()
		if m := s.GetSettlement().GetModel(); model == "" {
			model = m
			price = book.Prices[slices.IndexFunc(book.Prices, func(p *pb.Price) bool { return p.Model == m })]
		}
		calls++
		want += (1000 + i) * price.GetInputNanos() / 1e6 // doubled below; whole nanos
	}
	awaitReports(t, c, settled)

	fix := proto.Clone(price).(*pb.Price)
	fix.EffectiveTime = timestamppb.New(time.Now().Add(-48 * time.Hour).Truncate(time.Second))
	fix.Corrects = &pb.PriceCorrection{EffectiveTime: price.EffectiveTime, Reason: "the page was read wrong"}
	fix.InputNanos = proto.Int64(2 * price.GetInputNanos())
	book.Prices = append(book.Prices, fix)
	if _, err := client.Prices.UpdatePriceBook(t.Context(), &pb.UpdatePriceBookRequest{PriceBook: book}); err != nil {
		t.Fatal(err)
	}
	name := model + "@" + fix.EffectiveTime.AsTime().Format(time.RFC3339)
	var r pb.RestateSettlementsResponse
	if err := protojson.Unmarshal([]byte(c.ok("prices", "restate", "--correction", name, "-o", "json")), &r); err != nil {
		t.Fatal(err)
	}
	if s := r.Sums[0]; len(r.Sums) != 1 || s.Correction != name || s.Entries != calls || s.SettledNanos != settled || s.DifferenceNanos != want || want == 0 || s.PostedNanos != 0 || s.Adjustments < 1 || r.Accepted || len(r.Missing) != 0 {
		t.Errorf("%v, want %d more than %d", &r, want, settled)
	}
	c.contains(c.ok("prices", "restate"), "CORRECTION", name, "priceBooks/providers "+model, money.Nanos(want).String(), "to post: ", "(--accept)")
	out := c.ok("prices", "restate", "--accept")
	t.Log(out)
	c.contains(out, "posted: ", " adjustment")
	c.contains(c.ok("prices", "restate", "--accept"), "nothing was left to post")
	out = c.ok("report", "allocation", "--by", "effect", "-o", "csv")
	if !strings.Contains(out, "adjustment") {
		t.Errorf("no adjustment in\n%s", out)
	}
	c.contains(c.ok("report", "allocation", "--verify"), "equal to the nano")
}
