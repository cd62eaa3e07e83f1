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
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/proto/codec"
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
	x := &session{service: s, results: make(chan results, maxInFlight)}
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
	results    chan results // has room for all that may be unanswered, so that adding never blocks
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

// results are SessionResults, encoded one after the other in a buffer of resultBuffers.
type results struct {
	n       int
	encoded *[]byte
}

// resultBuffers implements mem.BufferPool: gRPC gives a buffer back when it is written.
var resultBuffers = bufferPool{sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}}

type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get(int) *[]byte { return p.Pool.Get().(*[]byte) }

func (p *bufferPool) Put(b *[]byte) {
	*b = (*b)[:0]
	p.Pool.Put(b)
}

// answer does operations one after the other, but for those that wait for a commit: they share it.
func (x *session) answer(ctx context.Context, operations []*chartergatev1.SessionOperation) {
	r := results{encoded: resultBuffers.Get(0)}
	for _, op := range operations {
		switch op.GetOperation().(type) {
		case *chartergatev1.SessionOperation_Settle, *chartergatev1.SessionOperation_Release:
			x.running.Add(1)
			go func() {
				defer x.running.Done()
				r := results{1, resultBuffers.Get(0)}
				*r.encoded = x.service.operate(ctx, op, *r.encoded)
				x.results <- r
			}()
		default:
			r.n++
			*r.encoded = x.service.operate(ctx, op, *r.encoded)
		}
	}
	if r.n == 0 {
		resultBuffers.Put(r.encoded)
		return
	}
	x.results <- r
}

// send sends results as they come until there are no more. After an error it only takes them.
func (x *session) send(stream chartergatev1.PreflightService_SessionServer) (err error) {
	for r := range x.results {
		n, frame := r.n, codec.Frame{mem.NewBuffer(r.encoded, &resultBuffers)}
	more:
		for n < maxResultsPerReply {
			select {
			case r, ok := <-x.results:
				if !ok {
					break more
				}
				n += r.n
				frame = append(frame, mem.NewBuffer(r.encoded, &resultBuffers))
			default:
				break more
			}
		}
		x.unanswered.Add(-int64(n))
		if err != nil {
			frame.Free()
			continue
		}
		err = stream.SendMsg(frame)
	}
	return err
}

// Numbers of the fields of SessionResult's oneof.
const (
	checkResult   = 2
	reserveResult = 3
	settleResult  = 4
	releaseResult = 5
	extendResult  = 6
	errorResult   = 7
)

// operate does one operation as its unary method would, with the same validation and memory of request ids, and appends
// its SessionResult to dst.
func (s *PreflightService) operate(ctx context.Context, op *chartergatev1.SessionOperation, dst []byte) []byte {
	field, reply, err := s.dispatch(ctx, op)
	if err != nil {
		field, reply = errorResult, s.sessionError(op, err)
	}
	recycleOperation(op)
	return codec.AppendResult(dst, op.GetId(), field, reply)
}

func (s *PreflightService) sessionError(op *chartergatev1.SessionOperation, err error) codec.Encoded {
	st := Status(err)
	if st.Code() == codes.Internal {
		s.log.Error("an operation of a session failed", "operation", fmt.Sprintf("%T", op.GetOperation()), "error", err)
	}
	reply, err := encoded(sessionError(st), nil)
	if err != nil { // the message is not text
		return s.sessionError(op, fmt.Errorf("encode the error: %w", err))
	}
	return reply
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

func (s *PreflightService) dispatch(ctx context.Context, op *chartergatev1.SessionOperation) (field protowire.Number, reply codec.Encoded, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
	}()
	switch o := op.GetOperation().(type) {
	case *chartergatev1.SessionOperation_Check:
		if err := s.validator.Validate(o.Check); err != nil {
			return 0, nil, err
		}
		resp, err := s.Check(ctx, o.Check)
		if err != nil {
			return 0, nil, err
		}
		reply, err = encoded(resp, nil)
		return checkResult, reply, err
	case *chartergatev1.SessionOperation_Reserve:
		reply, err = once(ctx, s, chartergatev1.PreflightService_Reserve_FullMethodName, o.Reserve, s.Reserve)
		return reserveResult, reply, err
	case *chartergatev1.SessionOperation_Settle:
		reply, err = once(ctx, s, chartergatev1.PreflightService_Settle_FullMethodName, o.Settle, s.Settle)
		return settleResult, reply, err
	case *chartergatev1.SessionOperation_Release:
		reply, err = once(ctx, s, chartergatev1.PreflightService_Release_FullMethodName, o.Release, s.Release)
		return releaseResult, reply, err
	case *chartergatev1.SessionOperation_Extend:
		reply, err = once(ctx, s, chartergatev1.PreflightService_Extend_FullMethodName, o.Extend, s.Extend)
		return extendResult, reply, err
	}
	return 0, nil, invalid("operation", "is missing: set check, reserve, settle, release or extend")
}

// once validates a request and answers it once for its request id.
func once[Req Requester, Resp proto.Message](ctx context.Context, s *PreflightService, method string, req Req, call func(context.Context, Req) (Resp, error)) (codec.Encoded, error) {
	if err := s.validator.Validate(req); err != nil {
		return nil, err
	}
	return s.requests.Do(ctx, method, req, func() (proto.Message, error) { return call(ctx, req) })
}
