package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// gate is what every RPC passes: validation, request ids, error mapping, metrics, log and panics, in one interceptor
// because each costs the hot path.
type gate struct {
	validator *Validator
	requests  *Idempotency
	metrics   *callMetrics
	log       *slog.Logger
	stopping  context.Context // over when the server stops
}

// panicError is a handler's panic.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// errStopping ends streams that would never end by themselves.
var errStopping = status.Error(codes.Unavailable, "the server is stopping: try again")

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, &panicError{p, debug.Stack()}
		}
		err = g.finish(ctx, info.FullMethod, req, start, err)
	}()
	m, ok := req.(proto.Message)
	if !ok {
		return handler(ctx, req)
	}
	resp, err = g.answer(ctx, m, info, handler)
	recycleRequest(m)
	return resp, err
}

func (g *gate) answer(ctx context.Context, req proto.Message, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := g.validator.Validate(req); err != nil {
		return nil, err
	}
	r, ok := req.(Requester)
	if !ok || r.GetRequestId() == "" {
		return handler(ctx, req)
	}
	reply, err := g.requests.Do(ctx, info.FullMethod, r, func() (proto.Message, error) {
		resp, err := handler(ctx, req)
		if err != nil {
			return nil, err
		}
		return resp.(proto.Message), nil
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	if !info.IsClientStream { // a client that streams sees the server's GOAWAY and ends its stream itself
		defer context.AfterFunc(g.stopping, func() { cancel(errStopping) })()
	}
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
		if err != nil && errors.Is(context.Cause(ctx), errStopping) {
			err = errStopping
		}
		err = g.finish(ctx, info.FullMethod, nil, start, err)
	}()
	return handler(srv, &validatedStream{ServerStream: ss, ctx: ctx, validator: g.validator})
}

// finish maps the error, counts and logs.
func (g *gate) finish(ctx context.Context, method string, req any, start time.Time, err error) error {
	took := time.Since(start)
	if err == nil {
		g.metrics.done(method, codes.OK, took)
		if g.log.Enabled(ctx, slog.LevelDebug) {
			g.log.LogAttrs(ctx, slog.LevelDebug, "rpc", slog.String("method", method), slog.Duration("took", took))
		}
		return nil
	}
	s := Status(err)
	g.metrics.done(method, s.Code(), took)
	level, id := slog.LevelInfo, ""
	switch s.Code() {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		level = slog.LevelError
	case codes.Unavailable:
		level = slog.LevelWarn
	}
	if r, ok := req.(Requester); ok {
		id = r.GetRequestId()
	}
	g.log.LogAttrs(ctx, level, "rpc failed", slog.String("method", method), slog.String("code", s.Code().String()),
		slog.Duration("took", took), slog.String("request_id", id), slog.String("error", err.Error()))
	return s.Err()
}

// validatedStream checks what a client streams. A session checks its operations itself, so that one bad operation
// does not end the stream.
type validatedStream struct {
	grpc.ServerStream
	ctx       context.Context
	validator *Validator
}

func (s *validatedStream) Context() context.Context { return s.ctx }

func (s *validatedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		if err == io.EOF {
			return io.EOF
		}
		return err
	}
	if _, ok := m.(*chartergatev1.SessionRequest); ok {
		return nil
	}
	if p, ok := m.(proto.Message); ok {
		return s.validator.Validate(p)
	}
	return nil
}
