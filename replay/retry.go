package replay

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	tryTimeout   = 15 * time.Second
	firstBackoff = 20 * time.Millisecond
	maxBackoff   = time.Second
)

// retry tries call again while it fails for now, until RetryFor has passed since the first try. The request must be
// the same each time, with its request id. It returns how long the successful try took.
func (d *driver) retry(ctx context.Context, a *Answer, call func(context.Context) error) (time.Duration, error) {
	giveUp := time.Now().Add(d.RetryFor)
	backoff := firstBackoff
	for {
		start := time.Now()
		err := try(ctx, call)
		if err == nil {
			return max(1, time.Since(start)), nil
		}
		wait := backoff/2 + rand.N(backoff/2)
		if !transient(err) || time.Now().Add(wait).After(giveUp) {
			return 0, err
		}
		a.Retries++
		<-time.After(wait)
		backoff = min(2*backoff, maxBackoff)
	}
}

func try(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return call(ctx)
}

// transient says whether the same request may succeed later: the server is out of reach or overloaded.
func transient(err error) bool {
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	case codes.ResourceExhausted:
		for _, detail := range s.Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetReason() == "TOO_MANY_IN_FLIGHT" {
				return true
			}
		}
	}
	return false
}
