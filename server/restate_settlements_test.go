package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chartergate/chartergate/server/restate"
	"github.com/chartergate/chartergate/store"
)

// failing is a Restater that gives an error.
type failing struct{ err error }

func (f failing) Restate(context.Context, string, bool) (*restate.Result, error) { return nil, f.err }

func TestRestatementErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		reason string
	}{
		{fmt.Errorf("%w: ghost", restate.ErrUnknown), http.StatusNotFound, "NOT_FOUND"},
		{fmt.Errorf("%w; missing: b", restate.ErrIncomplete), http.StatusBadRequest, "RESTATEMENT_INCOMPLETE"},
		{restate.ErrConflict, http.StatusConflict, "RESTATEMENT_CONFLICT"},
		{fmt.Errorf("too many: %w", store.ErrTooLarge), http.StatusBadRequest, "INVALID"},
		{store.ErrUsageUnavailable, http.StatusServiceUnavailable, "USAGE_UNAVAILABLE"},
		{errors.New("secret"), http.StatusInternalServerError, ""},
	} {
		r := start(t, func(cfg *Config) { cfg.Restater = failing{c.err} })
		text := r.send(t, http.MethodPost, "/v1/prices:restate", `{"accept":true}`, c.status, nil)
		if !strings.Contains(text, c.reason) || strings.Contains(text, "secret") {
			t.Errorf("%v: %s", c.err, text)
		}
	}
	r := start(t)
	r.send(t, http.MethodPost, "/v1/prices:restate", `{}`, http.StatusNotImplemented, nil)
}
