package preflight_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
)

// While a release or a settlement is under way it may yet be lost with this server, and another take the hold over. Nobody
// is told that the hold is over until that is on record.
func TestNothingIsToldOfAHoldBeforeItIsCommitted(t *testing.T) {
	type attempt func(ctx context.Context, g *preflight.Service, token string) error
	release := func(ctx context.Context, g *preflight.Service, token string) error {
		_, err := g.Release(ctx, token)
		return err
	}
	settle := func(ctx context.Context, g *preflight.Service, token string) error {
		_, err := g.Settle(ctx, token, &usage.Usage{InputTokens: 1}, "", 0)
		return err
	}
	extend := func(ctx context.Context, g *preflight.Service, token string) error {
		_, err := g.Extend(ctx, token, time.Minute)
		return err
	}
	for _, c := range []struct {
		name        string
		first, next attempt
		then        error // of next, once the first is committed
	}{
		{"settle while it is released", release, settle, ledger.ErrReleased},
		{"extend while it is released", release, extend, ledger.ErrReleased},
		{"release while it is settled", settle, release, ledger.ErrSettled},
		{"extend while it is settled", settle, extend, ledger.ErrSettled},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newCluster(t, 1, money.Unit)
			r := w.replicas["a"]
			_, h := w.reserve(call(1000, 500))
			r.link.down.Store(true)
			for i, f := range []attempt{c.first, c.next} {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				err := f(ctx, w.gate, h.Token)
				cancel()
				if _, ok := errors.AsType[*preflight.UnavailableError](err); !ok {
					t.Errorf("attempt %d while etcd does not answer: %v, want no answer", i+1, err)
				}
			}
			r.link.down.Store(false)
			if err := c.next(t.Context(), w.gate, h.Token); !errors.Is(err, c.then) {
				t.Errorf("once it is committed: %v, want %v", err, c.then)
			}
		})
	}
}
