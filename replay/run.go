package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/usage"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Gate is the part of PreflightService that a replay needs.
type Gate interface {
	Reserve(context.Context, *pb.ReserveRequest, ...grpc.CallOption) (*pb.ReserveResponse, error)
	Settle(context.Context, *pb.SettleRequest, ...grpc.CallOption) (*pb.SettleResponse, error)
}

// Options say how to replay. The zero value, with a Feature and a RunID, sends one call after the other at full speed.
type Options struct {
	// Feature is the charter's id. Required, unless Features are given.
	Feature string
	// Features, Cohorts and Tiers part the rows among several; cohorts and tiers of rows that have none of their own.
	Features, Cohorts, Tiers Mix
	// SuccessPercent of the rows without an outcome succeed, chosen by a hash of the row; the others fail. nil: their outcome
	// is not known.
	SuccessPercent *int64
	// RunID is what request ids are derived from, 1 to MaxRunID bytes. Required. A run that is repeated with the same
	// id and rows within a minute gets the first run's answers.
	RunID string
	// Model, Tier, TaskClass, Cohort, User, Agent and Run are for rows that have none of their own.
	Model, Tier, TaskClass, Cohort, User, Agent, Run string
	// MaxOutput holds money for at least this many output tokens, as gateways do that do not know the answer's length.
	// 0: for what the row really used.
	MaxOutput int64
	// Speed is how much faster than its own times the trace is sent. 0: without waiting.
	Speed float64
	// Concurrency is how many rows are in flight at most. 0: 1.
	Concurrency int
	// CacheTTL simulates each model's prompt cache, instead of the trace's own cached tokens; 0: it does not. CacheWrites
	// says whether a model's provider charges for what it writes to the cache; nil: none does.
	CacheTTL    time.Duration
	CacheWrites func(model string) bool
	// Recorded is when the trace's first row is said to have been recorded: prefixes are compared by that. Zero: rows are
	// compared by when they are sent.
	Recorded time.Time
	// RetryFor is how long a call is tried again while the server is out of reach. 0: 60 seconds.
	RetryFor time.Duration
}

// Check says what is wrong with options, as Run does.
func (o *Options) Check() error {
	switch {
	case o.Feature == "" && len(o.Features.names) == 0:
		return errors.New("the feature is missing")
	case o.Feature != "" && len(o.Features.names) > 0:
		return errors.New("give a feature or several features, not both")
	case len(o.Tiers.names) > 0 && (o.Model != "" || o.Tier != ""):
		return errors.New("give a model, a tier or several tiers, not two of them")
	case len(o.Cohorts.names) > 0 && o.Cohort != "":
		return errors.New("give a cohort or several cohorts, not both")
	case o.SuccessPercent != nil && (*o.SuccessPercent < 0 || *o.SuccessPercent > 100):
		return fmt.Errorf("the success rate is %d, it must be 0 to 100 percent", *o.SuccessPercent)
	case o.CacheTTL < 0:
		return fmt.Errorf("the cache time is %v, it must not be negative", o.CacheTTL)
	case o.RunID == "" || len(o.RunID) > MaxRunID:
		return fmt.Errorf("the run id has %d bytes, it needs 1 to %d", len(o.RunID), MaxRunID)
	case o.Speed < 0:
		return fmt.Errorf("the speed is %v, it must not be negative", o.Speed)
	case o.MaxOutput < 0 || o.MaxOutput > maxTokens:
		return fmt.Errorf("the max output is %d, it must be 0 to %d", o.MaxOutput, maxTokens)
	case o.Concurrency < 0 || o.Concurrency > MaxConcurrency:
		return fmt.Errorf("the concurrency is %d, it must be 0 to %d", o.Concurrency, MaxConcurrency)
	case o.RetryFor < 0:
		return fmt.Errorf("the retry time is %v, it must not be negative", o.RetryFor)
	}
	return nil
}

// MaxConcurrency is the most rows in flight.
const MaxConcurrency = 4096

// MaxRunID is the longest run id: request ids have at most 64 bytes.
const MaxRunID = 40

// DefaultRetryFor is how long a call is tried again unless Options say otherwise.
const DefaultRetryFor = time.Minute

// Answer is what became of one row.
type Answer struct {
	Number     int64 // of the row, from 1
	Row        Row
	Decision   *pb.Decision   // nil when Reserve gave no answer
	Settlement *pb.Settlement // nil when the call was refused or could not be settled
	Err        error
	Retries    int64
	// ReserveTime and SettleTime are of the try that succeeded; 0 without one.
	ReserveTime, SettleTime time.Duration
}

// CallError says which call of which row has no answer.
type CallError struct {
	Row  int64
	Call string // reserve or settle
	Err  error
}

func (e *CallError) Error() string {
	if s, ok := status.FromError(e.Err); ok {
		return fmt.Sprintf("row %d: %s: %s (%s)", e.Row, e.Call, s.Message(), s.Code())
	}
	return fmt.Sprintf("row %d: %s: %v", e.Row, e.Call, e.Err)
}

func (e *CallError) Unwrap() error { return e.Err }

var errNoHold = errors.New("the server admitted the call without a hold")

// Run reserves and settles every row and counts what happened. It calls seen, if not nil, after each row, one call at a
// time. When ctx ends it takes no more rows, finishes those in flight and returns a result that says Interrupted. The
// result is also returned with an error of rows, and then covers the rows before it.
func Run(ctx context.Context, o Options, gate Gate, rows Rows, seen func(*Answer)) (*Result, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.RetryFor == 0 {
		o.RetryFor = DefaultRetryFor
	}
	d := driver{Options: o, gate: gate}
	if o.CacheTTL > 0 {
		d.caches = newPromptCaches(&o)
	}
	start := time.Now()
	t := newTally(&o)
	var mu sync.Mutex // guards t and orders seen
	var workers sync.WaitGroup
	work := make(chan *Answer)
	for range max(1, o.Concurrency) {
		workers.Go(func() {
			for a := range work {
				d.serve(context.WithoutCancel(ctx), a)
				mu.Lock()
				t.add(a)
				if seen != nil {
					seen(a)
				}
				mu.Unlock()
			}
		})
	}
	err := feed(ctx, o.Speed, rows, work)
	close(work)
	workers.Wait()
	result := t.finish(time.Since(start))
	if ctx.Err() != nil {
		result.Interrupted = true
	}
	return result, err
}

// feed hands rows to the workers at the trace's own times, scaled.
func feed(ctx context.Context, speed float64, rows Rows, work chan<- *Answer) error {
	start, number := time.Now(), int64(0)
	for row, err := range rows {
		if err != nil {
			return err
		}
		if speed > 0 {
			due := start.Add(time.Duration(float64(row.At) / speed))
			select {
			case <-time.After(time.Until(due)):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		number++
		select {
		case work <- &Answer{Number: number, Row: row}:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

type driver struct {
	Options
	gate   Gate
	caches *promptCaches // nil: not simulated
}

// serve takes one row through the gate.
func (d *driver) serve(ctx context.Context, a *Answer) {
	id := fmt.Sprintf("%s-%d", d.RunID, a.Number)
	var feature string
	if a.Row, feature = d.mixed(a.Row, a.Number); d.caches != nil {
		a.Row.CachedTokens = 0 // a caller does not know before the call
	}
	reserve := &pb.ReserveRequest{Call: d.call(&a.Row, feature), RequestId: id}
	var reserved *pb.ReserveResponse
	a.ReserveTime, a.Err = d.retry(ctx, a, func(ctx context.Context) (err error) {
		reserved, err = d.gate.Reserve(ctx, reserve)
		return err
	})
	if d.caches != nil {
		model := ""
		if a.Err == nil && reserved.GetHold() != nil {
			model = reserved.GetDecision().GetModel()
		}
		d.caches.turn(a.Number, &a.Row, reserved.GetDecision().GetProvider(), model)
	}
	if a.Err != nil {
		a.Err = &CallError{a.Number, "reserve", a.Err}
		return
	}
	a.Decision = reserved.GetDecision()
	if !admitted(a.Decision) {
		return
	}
	if reserved.GetHold() == nil {
		a.Err = &CallError{a.Number, "reserve", errNoHold}
		return
	}
	settle := &pb.SettleRequest{
		Hold: reserved.GetHold().GetToken(), Usage: realUsage(&a.Row), Outcome: pb.Outcome(a.Row.Outcome), RequestId: id + "-s",
	}
	var settled *pb.SettleResponse
	a.SettleTime, a.Err = d.retry(ctx, a, func(ctx context.Context) (err error) {
		settled, err = d.gate.Settle(ctx, settle)
		return err
	})
	if a.Err != nil {
		a.Err = &CallError{a.Number, "settle", a.Err}
		return
	}
	a.Settlement = settled.GetSettlement()
}

func admitted(d *pb.Decision) bool {
	return d.GetEffect() == pb.Effect_EFFECT_ALLOW || d.GetEffect() == pb.Effect_EFFECT_DOWNGRADE
}

// Call is the call that a row of the trace makes, by its number from 1, and what it really used.
func (o *Options) Call(r Row, number int64) (*pb.Call, *pb.Usage) {
	r, feature := o.mixed(r, number)
	return o.call(&r, feature), realUsage(&r)
}

func (o *Options) call(r *Row, feature string) *pb.Call {
	call := &pb.Call{
		Feature: feature, TaskClass: cmp.Or(r.TaskClass, o.TaskClass), Complexity: r.Complexity,
		User: cmp.Or(r.User, o.User), Cohort: cmp.Or(r.Cohort, o.Cohort), Agent: cmp.Or(r.Agent, o.Agent), Run: cmp.Or(r.Run, o.Run), PromptPattern: r.PromptPattern,
		Model: cmp.Or(r.Model, o.Model), Tier: cmp.Or(r.Tier, o.Tier),
		Estimate: &pb.Estimate{
			InputTokens: r.InputTokens, CachedInputTokens: r.CachedTokens,
			// 0 would mean the model's own maximum.
			MaxOutputTokens: max(1, r.OutputTokens, o.MaxOutput),
			RetrievalHops:   r.RetrievalHops, ToolCalls: r.ToolCalls,
		},
	}
	if n := min(len(r.Prefix), usage.MaxPrefixBlocks); n > 0 {
		call.PrefixHashes, call.PrefixBlockTokens = r.Prefix[:n], int32(r.PrefixBlock)
		if !o.Recorded.IsZero() {
			call.RecordedTime = timestamppb.New(o.Recorded.Add(r.At))
		}
	}
	return call
}

// realUsage is what the row really used. The vector queries of its hops are the estimate's: one each.
func realUsage(r *Row) *pb.Usage {
	u := &pb.Usage{
		InputTokens: r.InputTokens - r.CachedTokens - r.WrittenTokens, CacheReadTokens: r.CachedTokens, OutputTokens: r.OutputTokens,
		RetrievalHops: r.RetrievalHops, VectorQueries: r.RetrievalHops, ToolCalls: r.ToolCalls,
	}
	if r.WrittenLong {
		u.CacheWrite_1HTokens = r.WrittenTokens
	} else {
		u.CacheWrite_5MTokens = r.WrittenTokens
	}
	return u
}
