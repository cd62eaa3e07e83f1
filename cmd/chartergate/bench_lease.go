package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// leaseRow measures leased Reserve + Settle pairs and checks in this process, one at a time, as a ratio to the empty
// call. What it waits for slices, which a caller would spend on calls to the server, is not counted.
func leaseRow(ctx context.Context, client *chartergate.Client, empty benchRow, d time.Duration) (benchRow, error) {
	call := benchCall("charter-0")
	lease, err := client.Lease(&pb.ReserveRequest{Call: call, Ttl: durationpb.New(time.Minute)})
	if err != nil {
		return benchRow{}, err
	}
	defer lease.Close()
	if err := lease.Ready(ctx); err != nil {
		return benchRow{}, fmt.Errorf("the lease got no slice: %w", err)
	}
	allocs, err := checkAllocs(ctx, lease, call.Estimate)
	if err != nil {
		return benchRow{}, err
	}
	pairs, took := int64(0), time.Duration(0)
	for took < d {
		n, lasted, err := leasedPairs(lease, call.Estimate)
		if err != nil {
			return benchRow{}, err
		}
		pairs, took = pairs+n, took+lasted
		if err := lease.Ready(ctx); err != nil {
			return benchRow{}, fmt.Errorf("the lease got no slice: %w", err)
		}
	}
	row := benchRow{Call: "Leased Reserve + Settle", InFlight: 1, PerSecond: float64(pairs) / took.Seconds(), CheckAllocs: &allocs}
	row.NanosPerCall = 1e9 / row.PerSecond
	row.RatioToEmpty = row.PerSecond / empty.PerSecond
	return row, nil
}

// leasedPairs makes pairs until the lease runs out, at most some.
func leasedPairs(lease *chartergate.Lease, e *pb.Estimate) (n int64, took time.Duration, err error) {
	const some = 10_000
	used := &pb.Usage{InputTokens: 900, CacheReadTokens: 120, OutputTokens: 129}
	start := time.Now()
	for ; n < some; n++ {
		hold, ok := lease.Reserve(e)
		if !ok {
			break
		}
		if _, err := lease.Settle(hold, used, pb.Outcome_OUTCOME_SUCCESS); err != nil {
			return n, 0, err
		}
	}
	return n, time.Since(start), nil
}

// checkAllocs is the allocations of one check. Others in the process count too, so it is the least of some rounds.
func checkAllocs(ctx context.Context, lease *chartergate.Lease, e *pb.Estimate) (int64, error) {
	const rounds, checks = 20, 1000
	least := int64(1 << 62)
	for range rounds {
		if err := lease.Ready(ctx); err != nil {
			return 0, err
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range checks {
			lease.Check(e)
		}
		runtime.ReadMemStats(&after)
		least = min(least, int64(after.Mallocs-before.Mallocs)/checks)
	}
	return least, nil
}
