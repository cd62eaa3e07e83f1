package chartergate

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// errorDomain is the domain of the ErrorInfo of every Chartergate error.
const errorDomain = "chartergate.dev"

// tooManyInFlight is the one reason that is retried besides UNAVAILABLE: the server did nothing yet.
const tooManyInFlight = "TOO_MANY_IN_FLIGHT"

// Reason is the google.rpc.ErrorInfo reason of an error, such as `HOLD_SETTLED`; chartergate.v1.ErrorReason lists them.
// Empty where there is none.
func Reason(err error) string {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return ""
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

func again(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return true
	case codes.ResourceExhausted:
		return Reason(err) == tooManyInFlight
	}
	return false
}

// delay is how long to wait after a number of failed tries: 20 ms doubled each time up to 2 s, of which a random part
// from half to all.
func delay(tries int) time.Duration {
	d := 20 * time.Millisecond << min(tries, 7)
	d = min(d, 2*time.Second)
	return d/2 + rand.N(d/2+1)
}

// sleep waits, and says false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retry makes a unary call until it has an answer, an error that lasts, or no time left.
func retry[Req, Resp any](ctx context.Context, c *Client, r Req,
	call func(context.Context, Req, ...grpc.CallOption) (Resp, error)) (Resp, error) {
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(defaultTimeout)
	}
	ctx = c.conn.tries(ctx)
	for tries := 0; ; tries++ {
		try := ctx
		cancel := context.CancelFunc(func() {})
		if next := time.Now().Add(c.tryTimeout); next.Before(end) {
			try, cancel = context.WithDeadline(ctx, next)
		} else if !ok {
			try, cancel = context.WithDeadline(ctx, end)
		}
		resp, err := call(try, r)
		timedOut := status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil
		cancel()
		if err == nil || !timedOut && !again(err) {
			return resp, err
		}
		wait := delay(tries)
		if time.Now().Add(wait).After(end) || !sleep(ctx, wait) {
			return resp, err
		}
	}
}

// sessionError is the error that the unary method would have given.
func sessionError(e *chartergatev1.SessionError) error {
	s := status.New(codes.Code(e.GetCode()), e.GetMessage())
	if e.GetReason() != "" {
		if d, err := s.WithDetails(&errdetails.ErrorInfo{Reason: e.GetReason(), Domain: errorDomain}); err == nil {
			s = d
		}
	}
	return s.Err()
}
