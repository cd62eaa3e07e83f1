package main

import (
	"log/slog"
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/server"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/server/shadow"
	"github.com/chartergate/chartergate/store"
)

// following is a decider that follows one snapshot after another, and says nothing.
type following struct{ *policy.Decider }

// Follow lets the policies of a snapshot decide.
func (f following) Follow(snap *charter.Snapshot) {
	f.Decider.Follow(snap, slog.New(slog.DiscardHandler))
}

// policiesOf makes what decides as the policies of a snapshot do.
func policiesOf(snap *charter.Snapshot) (following, error) {
	d, err := policy.NewDecider()
	if err != nil {
		return following{}, err
	}
	f := following{d}
	f.Follow(snap)
	return f, nil
}

func labPolicies(snap *charter.Snapshot) (server.Policies, error) { return policiesOf(snap) }

// openShadow begins to follow the candidates of policies.
func openShadow(active *policy.Decider, control store.Control, log *slog.Logger) *shadow.Shadow {
	s := shadow.New(shadow.Config{
		Active: active, Now: time.Now, Log: log,
		Of: func(snap *charter.Snapshot) (preflight.Decider, error) { return policiesOf(snap) },
	})
	var one sync.Mutex
	follow := func(*charter.Snapshot) {
		one.Lock()
		defer one.Unlock()
		s.Follow(control.Snapshot())
	}
	control.OnChange(follow)
	follow(nil)
	return s
}
