package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

// forwardedKey marks a call that another replica sent on: it is answered here or not at all.
const forwardedKey = "chartergate-forwarded"

// forwardTime is how long another replica may take to answer.
const forwardTime = 5 * time.Second

// Peers calls other replicas with requests that they have to answer.
type Peers struct {
	mu    sync.Mutex
	conns map[string]*grpc.ClientConn

	forwards *prometheus.CounterVec // by call and result
}

// NewPeers knows no replica yet: connections are made when they are needed.
func NewPeers() *Peers {
	return &Peers{conns: map[string]*grpc.ClientConn{}, forwards: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "chartergate_forwards_total",
		Help: "Calls that another replica had to answer, by call and result: answered, refused (it answered with an error), unreachable (the caller got an error), here (unreachable, so answered here).",
	}, []string{"call", "result"})}
}

// Close closes the connections.
func (p *Peers) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, c := range p.conns {
		errs = append(errs, c.Close())
	}
	clear(p.conns)
	return errors.Join(errs...)
}

// peer is another replica.
type peer struct {
	chartergatev1.PreflightServiceClient
	chartergatev1.LeaseServiceClient
	chartergatev1.OperationsServiceClient
}

func (p *Peers) client(addr string) (peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.conns[addr]
	if c == nil {
		var err error
		c, err = grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: 2 * time.Second,
			}))
		if err != nil {
			return peer{}, err
		}
		p.conns[addr] = c
	}
	return peer{chartergatev1.NewPreflightServiceClient(c), chartergatev1.NewLeaseServiceClient(c), chartergatev1.NewOperationsServiceClient(c)}, nil
}

// count counts a call that was forwarded.
func (p *Peers) count(req proto.Message, result string) {
	call := strings.ToLower(strings.TrimSuffix(string(req.ProtoReflect().Descriptor().Name()), "Request"))
	p.forwards.WithLabelValues(call, result).Inc()
}

// route answers a request here, or has the replica answer it that must. fallback says that this replica may answer in that
// one's place when it cannot be reached: near a ceiling it then takes what it can.
func route[Req proto.Message, Resp any](ctx context.Context, p *Peers, req Req, fallback bool, here func(context.Context, Req) (Resp, error),
	there func(peer, context.Context, Req, ...grpc.CallOption) (Resp, error)) (Resp, error) {
	resp, err := here(ctx, req)
	if err == nil {
		return resp, nil
	}
	to, ok := errors.AsType[*preflight.ForwardError](err)
	if !ok {
		return resp, err
	}
	if len(metadata.ValueFromIncomingContext(ctx, forwardedKey)) > 0 {
		return here(preflight.Here(ctx), req)
	}
	client, err := p.client(to.Addr)
	if err != nil {
		return resp, err
	}
	sending, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, forwardedKey, to.Owner), forwardTime)
	defer cancel()
	resp, err = there(client, sending, req)
	code := status.Code(err)
	switch {
	case err == nil:
		p.count(req, "answered")
		return resp, nil
	case ctx.Err() != nil, code != codes.Unavailable && code != codes.DeadlineExceeded:
		p.count(req, "refused")
		return resp, err
	case fallback:
		p.count(req, "here")
		return here(preflight.Here(ctx), req)
	}
	p.count(req, "unreachable")
	return resp, &preflight.UnavailableError{Why: fmt.Sprintf("the server at %s, which has the hold, does not answer", to.Addr)}
}
