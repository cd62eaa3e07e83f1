package server

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	maxInFlight        = 4096 // operations of one session that are unanswered
	maxResultsPerReply = 256
)

// Session implements PreflightService. Operations that memory can answer are answered in line; those that may wait for a
// commit go on beside it. Results that are ready together leave in one message.
func (s *PreflightService) Session(stream chartergatev1.PreflightService_SessionServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	x := &session{service: s, results: make(chan *chartergatev1.SessionResult, maxInFlight), slots: make(chan struct{}, maxInFlight)}
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
	service *PreflightService
	results chan *chartergatev1.SessionResult // holds every result that slots allow, so that adding one never blocks
	slots   chan struct{}
	running sync.WaitGroup
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
		if n := len(req.GetOperations()); n == 0 || n > 512 {
			return invalid("operations", "has %d operations, it must have 1 to 512", n)
		}
		for _, op := range req.GetOperations() {
			select {
			case x.slots <- struct{}{}:
			default:
				return &apiError{chartergatev1.ErrorReason_ERROR_REASON_TOO_MANY_IN_FLIGHT, codes.ResourceExhausted,
					"4096 operations are unanswered: wait for results before sending more", map[string]string{"limit": "4096"}}
			}
			switch op.GetOperation().(type) {
			case *chartergatev1.SessionOperation_Check, *chartergatev1.SessionOperation_Reserve, *chartergatev1.SessionOperation_Extend:
				x.results <- x.service.operate(ctx, op)
			default:
				x.running.Add(1)
				go func() {
					defer x.running.Done()
					x.results <- x.service.operate(ctx, op)
				}()
			}
		}
	}
}

// send sends results as they come until there are no more. After an error it only frees the slots.
func (x *session) send(stream chartergatev1.PreflightService_SessionServer) (err error) {
	for result := range x.results {
		reply := &chartergatev1.SessionResponse{Results: append(make([]*chartergatev1.SessionResult, 0, 16), result)}
	more:
		for len(reply.GetResults()) < maxResultsPerReply {
			select {
			case r, ok := <-x.results:
				if !ok {
					break more
				}
				reply.Results = append(reply.Results, r)
			default:
				break more
			}
		}
		for range reply.GetResults() {
			<-x.slots
		}
		if err == nil {
			err = stream.Send(reply)
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
		e := &chartergatev1.SessionError{Code: int32(st.Code()), Message: st.Message()}
		for _, d := range st.Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok {
				e.Reason = info.GetReason()
			}
		}
		r.Result = &chartergatev1.SessionResult_Error{Error: e}
	}
	return r
}

func (s *PreflightService) dispatch(ctx context.Context, op *chartergatev1.SessionOperation, r *chartergatev1.SessionResult) error {
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
