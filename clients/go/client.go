// Package chartergate is the Go client of Chartergate: ask before an AI call, settle after it.
//
//	client, err := chartergate.Dial("127.0.0.1:7070")
//	answer, err := client.Reserve(ctx, &chartergatev1.ReserveRequest{Call: call})
//	// answer.Hold is nil: the call may not run, answer.Decision says why.
//	// Otherwise make the call on answer.Decision.Model, then:
//	_, err = client.Settle(ctx, &chartergatev1.SettleRequest{Hold: answer.Hold.Token, Usage: used})
//
// A refusal is an answer and not an error: an error means that there is no answer.
package chartergate

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/chartergate/chartergate/proto/codec"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Client talks to Chartergate: one server, or several replicas as one service. It is safe for concurrent use. The services are there as generated, without
// retries; the methods of Client and Session retry.
type Client struct {
	Preflight chartergatev1.PreflightServiceClient
	Charters  chartergatev1.CharterServiceClient
	Budgets   chartergatev1.BudgetServiceClient
	Catalog   chartergatev1.CatalogServiceClient
	Prices    chartergatev1.PriceServiceClient
	Policies  chartergatev1.PolicyServiceClient
	Usage     chartergatev1.UsageServiceClient
	Manifests chartergatev1.ManifestServiceClient
	Leasing   chartergatev1.LeaseServiceClient
	Reports   chartergatev1.ReportServiceClient

	conn       *replicas
	dial       []grpc.DialOption
	tryTimeout time.Duration
	leased     []*chartergatev1.ReserveRequest
	leases     *leases
}

// Option changes how a Client works.
type Option func(*Client)

// WithDialOptions adds gRPC options, such as credentials or interceptors. The connection is in plain text unless they
// say otherwise.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(c *Client) { c.dial = append(c.dial, opts...) }
}

// WithTryTimeout bounds one try of a unary call; when it passes, the call is tried again. 5 s unless set.
func WithTryTimeout(d time.Duration) Option {
	return func(c *Client) { c.tryTimeout = d }
}

// WithLeases answers calls like the given ones in the process, as Client.Lease does.
func WithLeases(like ...*chartergatev1.ReserveRequest) Option {
	return func(c *Client) { c.leased = append(c.leased, like...) }
}

// defaultTimeout bounds a call, with its retries, whose context has no deadline.
const defaultTimeout = 30 * time.Second

// Dial makes a client of the server at addr, such as `127.0.0.1:7070`, or of a service with several replicas, such as
// `a:7070,b:7070,c:7070`. It does not connect: the first call does.
//
// Calls and streams are spread over the replicas that answer. A retry of Reserve first goes back to the replica that may
// have the first answer, while it is connected, and then to another; should both have held money, one of the holds
// expires. Other calls are retried anywhere: what they did is known to all. An error of a replica names it.
func Dial(addr string, opts ...Option) (*Client, error) {
	c := &Client{tryTimeout: 5 * time.Second, dial: []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.New())),
		// A server that comes back is found within two seconds.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}}
	for _, o := range opts {
		o(c)
	}
	conn, err := dialReplicas(addr, c.dial)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	c.Preflight = chartergatev1.NewPreflightServiceClient(conn)
	c.Charters = chartergatev1.NewCharterServiceClient(conn)
	c.Budgets = chartergatev1.NewBudgetServiceClient(conn)
	c.Catalog = chartergatev1.NewCatalogServiceClient(conn)
	c.Prices = chartergatev1.NewPriceServiceClient(conn)
	c.Policies = chartergatev1.NewPolicyServiceClient(conn)
	c.Usage = chartergatev1.NewUsageServiceClient(conn)
	c.Manifests = chartergatev1.NewManifestServiceClient(conn)
	c.Leasing = chartergatev1.NewLeaseServiceClient(conn)
	c.Reports = chartergatev1.NewReportServiceClient(conn)
	c.leases = newLeases(c)
	for _, like := range c.leased {
		if _, err := c.Lease(like); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Conn is the connection, for services that the client does not name, such as health.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

// Close settles what leased calls used and returns the rest, within 10 s, and closes the connection. Settle leased calls
// before: those still in flight expire. Other calls and sessions in flight fail with CANCELED. Error: slices that could
// not be settled.
func (c *Client) Close() error { return errors.Join(c.leases.close(), c.conn.Close()) }

// Check asks what Reserve would answer now, without holding money.
func (c *Client) Check(ctx context.Context, r *chartergatev1.CheckRequest) (*chartergatev1.CheckResponse, error) {
	return retry(ctx, c, r, c.Preflight.Check)
}

// Reserve decides and holds the money. Like every method here it gives the request a random request_id when it has
// none (the caller's message stays as it is), and repeats it under the same id on UNAVAILABLE, on a try that times
// out and when too many calls are in flight, with exponential backoff, until ctx ends: 30 s when it has no deadline.
// Then it returns the last error.
//
// A request of a lease that has no request_id is answered in the process. Its decision names no alternates.
func (c *Client) Reserve(ctx context.Context, r *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
	if answer := c.leases.reserve(r); answer != nil {
		return answer, nil
	}
	return retry(ctx, c, identifiedReserve(r), c.Preflight.Reserve)
}

// Settle records what the call really used. Retries as Reserve.
//
// A leased call is settled in the process and durable once its slice is: the settlement names no journal. With another
// model than the decision's, or after its expiry, it is recorded by the server, as forced spend.
func (c *Client) Settle(ctx context.Context, r *chartergatev1.SettleRequest) (*chartergatev1.SettleResponse, error) {
	if h, leased, err := c.leases.hold(r.GetHold()); err != nil {
		return nil, err
	} else if leased {
		return c.leases.settleCall(ctx, h, r)
	}
	return retry(ctx, c, identifiedSettle(r), c.Preflight.Settle)
}

// Release gives the hold of a call that did not run back. Retries as Reserve.
func (c *Client) Release(ctx context.Context, r *chartergatev1.ReleaseRequest) (*chartergatev1.ReleaseResponse, error) {
	if h, leased, err := c.leases.hold(r.GetHold()); err != nil {
		return nil, err
	} else if leased {
		return c.leases.releaseCall(h)
	}
	return retry(ctx, c, identifiedRelease(r), c.Preflight.Release)
}

// Extend makes a hold last longer; the answer has its new token. Retries as Reserve.
func (c *Client) Extend(ctx context.Context, r *chartergatev1.ExtendRequest) (*chartergatev1.ExtendResponse, error) {
	if h, leased, err := c.leases.hold(r.GetHold()); err != nil {
		return nil, err
	} else if leased {
		return c.leases.extendCall(ctx, h, r)
	}
	return retry(ctx, c, identifiedExtend(r), c.Preflight.Extend)
}

func identifiedReserve(r *chartergatev1.ReserveRequest) *chartergatev1.ReserveRequest {
	if r.GetRequestId() != "" {
		return r
	}
	return &chartergatev1.ReserveRequest{Call: r.GetCall(), Ttl: r.GetTtl(), RequestId: rand.Text()}
}

func identifiedSettle(r *chartergatev1.SettleRequest) *chartergatev1.SettleRequest {
	if r.GetRequestId() != "" {
		return r
	}
	return &chartergatev1.SettleRequest{
		Hold: r.GetHold(), Usage: r.GetUsage(), Model: r.GetModel(), Outcome: r.GetOutcome(), RequestId: rand.Text(),
	}
}

func identifiedRelease(r *chartergatev1.ReleaseRequest) *chartergatev1.ReleaseRequest {
	if r.GetRequestId() != "" {
		return r
	}
	return &chartergatev1.ReleaseRequest{Hold: r.GetHold(), RequestId: rand.Text()}
}

func identifiedExtend(r *chartergatev1.ExtendRequest) *chartergatev1.ExtendRequest {
	if r.GetRequestId() != "" {
		return r
	}
	return &chartergatev1.ExtendRequest{Hold: r.GetHold(), Ttl: r.GetTtl(), RequestId: rand.Text()}
}
