package chartergate

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// gate is a PreflightService whose answers show which request they belong to.
type gate struct {
	chartergatev1.UnimplementedPreflightServiceServer
	reserve func(context.Context, *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error)
	session func(grpc.BidiStreamingServer[chartergatev1.SessionRequest, chartergatev1.SessionResponse]) error
}

func (g *gate) Reserve(ctx context.Context, r *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
	return g.reserve(ctx, r)
}

func (g *gate) Session(s grpc.BidiStreamingServer[chartergatev1.SessionRequest, chartergatev1.SessionResponse]) error {
	return g.session(s)
}

func echo(_ context.Context, r *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
	return &chartergatev1.ReserveResponse{
		Decision: &chartergatev1.Decision{Effect: chartergatev1.Effect_EFFECT_ALLOW, Model: r.GetCall().GetFeature()},
		Hold:     &chartergatev1.Hold{Token: r.GetRequestId()},
	}, nil
}

// serve starts a server on a port of its own and dials it.
func serve(t testing.TB, g *gate, opts ...Option) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	chartergatev1.RegisterPreflightServiceServer(server, g)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	c, err := Dial(l.Addr().String(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func call(feature string) *chartergatev1.ReserveRequest {
	return &chartergatev1.ReserveRequest{Call: &chartergatev1.Call{Feature: feature, Estimate: &chartergatev1.Estimate{InputTokens: 1}}}
}

func TestRetriesUnderOneRequestID(t *testing.T) {
	var mu sync.Mutex
	var ids []string
	c := serve(t, &gate{reserve: func(ctx context.Context, r *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
		mu.Lock()
		ids = append(ids, r.GetRequestId())
		n := len(ids)
		mu.Unlock()
		switch n {
		case 1:
			return nil, status.Error(codes.Unavailable, "the ledger cannot answer")
		case 2:
			<-ctx.Done() // longer than one try
			return nil, ctx.Err()
		case 3:
			s, _ := status.New(codes.ResourceExhausted, "busy").WithDetails(&errdetails.ErrorInfo{Reason: tooManyInFlight})
			return nil, s.Err()
		}
		return echo(ctx, r)
	}}, WithTryTimeout(100*time.Millisecond))
	req := call("chat")
	answer, err := c.Reserve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 4 || ids[0] == "" || slices.ContainsFunc(ids, func(id string) bool { return id != ids[0] }) {
		t.Errorf("request ids %q; want the same one four times", ids)
	}
	if answer.GetHold().GetToken() != ids[0] {
		t.Errorf("answer %v is not the last try's", answer)
	}
	if req.RequestId != "" {
		t.Error("the caller's request was changed")
	}
	if second, err := c.Reserve(t.Context(), req); err != nil || second.GetHold().GetToken() == ids[0] {
		t.Errorf("a second call has the first one's id: %v, %v", second, err)
	}
}

func TestLastingErrorsAreNotRetried(t *testing.T) {
	tries := 0
	c := serve(t, &gate{reserve: func(context.Context, *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
		tries++
		s, err := status.New(codes.NotFound, "no charter").WithDetails(&errdetails.ErrorInfo{Reason: "FEATURE_UNKNOWN"})
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	}})
	_, err := c.Reserve(t.Context(), call("chat"))
	if status.Code(err) != codes.NotFound || Reason(err) != "FEATURE_UNKNOWN" || tries != 1 {
		t.Errorf("%v with reason %q after %d tries", err, Reason(err), tries)
	}
	if Reason(nil) != "" || Reason(context.Canceled) != "" {
		t.Error("Reason of errors without one is not empty")
	}
}

func TestRetriesEndWithTheContext(t *testing.T) {
	c := serve(t, &gate{reserve: func(context.Context, *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
		return nil, status.Error(codes.Unavailable, "down")
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := c.Reserve(ctx, call("chat")); status.Code(err) != codes.Unavailable {
		t.Errorf("%v; want the server's last error", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestIdentifiedRequestsKeepEveryField(t *testing.T) {
	for _, r := range []proto.Message{
		&chartergatev1.ReserveRequest{Call: call("chat").Call, Ttl: durationpb.New(time.Second)},
		&chartergatev1.SettleRequest{Hold: "h", Usage: &chartergatev1.Usage{InputTokens: 1}, RawUsage: RawUsage("openai", "chat", []byte("{}")), Model: "m",
			Outcome: chartergatev1.Outcome_OUTCOME_SUCCESS},
		&chartergatev1.ReleaseRequest{Hold: "h"},
		&chartergatev1.ExtendRequest{Hold: "h", Ttl: durationpb.New(time.Second)},
	} {
		var got proto.Message
		switch r := r.(type) {
		case *chartergatev1.ReserveRequest:
			got = identifiedReserve(r)
		case *chartergatev1.SettleRequest:
			got = identifiedSettle(r)
		case *chartergatev1.ReleaseRequest:
			got = identifiedRelease(r)
		case *chartergatev1.ExtendRequest:
			got = identifiedExtend(r)
		}
		fields := r.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			if f := fields.Get(i); !got.ProtoReflect().Has(f) {
				t.Errorf("%s is lost", f.FullName())
			}
		}
		id := fields.ByName("request_id")
		if len(got.ProtoReflect().Get(id).String()) < 20 {
			t.Errorf("%s: request id %q", fields.Get(0).FullName(), got.ProtoReflect().Get(id))
		}
		got.ProtoReflect().Set(id, protoreflect.ValueOfString(""))
		if !proto.Equal(got, r) {
			t.Errorf("%v became %v", r, got)
		}
	}
}
