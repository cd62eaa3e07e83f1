package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	maxInFlight        = 4096 // operations of one session that are unanswered
	maxOperations      = 512  // operations in one message
	chunkSize          = 16   // operations that one goroutine does, unless they wait for a commit
	maxResultsPerReply = 256  // after which no more are waited for
)

// Session implements PreflightService. The operations of a message are done in chunks, side by side; what is ready
// leaves together.
func (s *PreflightService) Session(stream chartergatev1.PreflightService_SessionServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	x := &session{service: s, results: make(chan []*chartergatev1.SessionResult, maxInFlight)}
	sent := make(chan error, 1)
	go func() {
		err := x.send(stream)
		if err != nil {
			cancel() // nobody reads the answers
		}
		sent <- err
	}()
	err := x.receive(ctx, stream)
	x.running.Wait()
	close(x.results)
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	return err
}

type session struct {
	service    *PreflightService
	results    chan []*chartergatev1.SessionResult // has room for all that may be unanswered, so that adding never blocks
	unanswered atomic.Int64
	running    sync.WaitGroup
}

func (x *session) receive(ctx context.Context, stream chartergatev1.PreflightService_SessionServer) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n := len(req.GetOperations())
		if n == 0 || n > maxOperations {
			return invalid("operations", "has %d operations, it must have 1 to %d", n, maxOperations)
		}
		if x.unanswered.Add(int64(n)) > maxInFlight {
			return &apiError{chartergatev1.ErrorReason_ERROR_REASON_TOO_MANY_IN_FLIGHT, codes.ResourceExhausted,
				fmt.Sprintf("more than %d operations are unanswered: wait for results before sending more", maxInFlight),
				map[string]string{"limit": strconv.Itoa(maxInFlight)}}
		}
		for chunk := range slices.Chunk(req.GetOperations(), chunkSize) {
			x.running.Add(1)
			go func() {
				defer x.running.Done()
				x.answer(ctx, chunk)
			}()
		}
	}
}

// answer does operations one after the other, but for those that wait for a commit: they share it.
func (x *session) answer(ctx context.Context, operations []*chartergatev1.SessionOperation) {
	answered := make([]*chartergatev1.SessionResult, 0, len(operations))
	for _, op := range operations {
		switch op.GetOperation().(type) {
		case *chartergatev1.SessionOperation_Settle, *chartergatev1.SessionOperation_Release:
			x.running.Add(1)
			go func() {
				defer x.running.Done()
				x.results <- []*chartergatev1.SessionResult{x.service.operate(ctx, op)}
			}()
		default:
			answered = append(answered, x.service.operate(ctx, op))
		}
	}
	if len(answered) > 0 {
		x.results <- answered
	}
}

// send sends results as they come until there are no more. After an error it only takes them.
func (x *session) send(stream chartergatev1.PreflightService_SessionServer) (err error) {
	for results := range x.results {
	more:
		for len(results) < maxResultsPerReply {
			select {
			case r, ok := <-x.results:
				if !ok {
					break more
				}
				results = append(results, r...)
			default:
				break more
			}
		}
		x.unanswered.Add(-int64(len(results)))
		if err == nil {
			err = stream.Send(&chartergatev1.SessionResponse{Results: results})
		}
	}
	return err
}

// operate does one operation as its unary method would, with the same validation and memory of request ids.
func (s *PreflightService) operate(ctx context.Context, op *chartergatev1.SessionOperation) *chartergatev1.SessionResult {
	r := &chartergatev1.SessionResult{Id: op.GetId()}
	err := s.dispatch(ctx, op, r)
	if err != nil {
		st := Status(err)
		if st.Code() == codes.Internal {
			s.log.Error("an operation of a session failed", "operation", fmt.Sprintf("%T", op.GetOperation()), "error", err)
		}
		r.Result = &chartergatev1.SessionResult_Error{Error: sessionError(st)}
	}
	return r
}

// sessionError is an error as a stream carries it.
func sessionError(st *status.Status) *chartergatev1.SessionError {
	e := &chartergatev1.SessionError{Code: int32(st.Code()), Message: st.Message()}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			e.Reason = info.GetReason()
		}
	}
	return e
}

func (s *PreflightService) dispatch(ctx context.Context, op *chartergatev1.SessionOperation, r *chartergatev1.SessionResult) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
	}()
	switch o := op.GetOperation().(type) {
	case *chartergatev1.SessionOperation_Check:
		if err := s.validator.Validate(o.Check); err != nil {
			return err
		}
		resp, err := s.Check(ctx, o.Check)
		r.Result = &chartergatev1.SessionResult_Check{Check: resp}
		return err
	case *chartergatev1.SessionOperation_Reserve:
		resp, err := once(ctx, s, chartergatev1.PreflightService_Reserve_FullMethodName, o.Reserve, s.Reserve)
		r.Result = &chartergatev1.SessionResult_Reserve{Reserve: resp}
		return err
	case *chartergatev1.SessionOperation_Settle:
		resp, err := once(ctx, s, chartergatev1.PreflightService_Settle_FullMethodName, o.Settle, s.Settle)
		r.Result = &chartergatev1.SessionResult_Settle{Settle: resp}
		return err
	case *chartergatev1.SessionOperation_Release:
		resp, err := once(ctx, s, chartergatev1.PreflightService_Release_FullMethodName, o.Release, s.Release)
		r.Result = &chartergatev1.SessionResult_Release{Release: resp}
		return err
	case *chartergatev1.SessionOperation_Extend:
		resp, err := once(ctx, s, chartergatev1.PreflightService_Extend_FullMethodName, o.Extend, s.Extend)
		r.Result = &chartergatev1.SessionResult_Extend{Extend: resp}
		return err
	}
	return invalid("operation", "is missing: set check, reserve, settle, release or extend")
}

// once validates a request and answers it once for its request id.
func once[Req Requester, Resp proto.Message](ctx context.Context, s *PreflightService, method string, req Req, call func(context.Context, Req) (Resp, error)) (resp Resp, err error) {
	if err := s.validator.Validate(req); err != nil {
		return resp, err
	}
	m, err := s.requests.Do(ctx, method, req, func() (proto.Message, error) { return call(ctx, req) })
	if err != nil {
		return resp, err
	}
	return m.(Resp), nil
}
