package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/policy/bundles"
	"github.com/chartergate/chartergate/server"
)

// bundleOptions are the flags of serve that concern a policy bundle.
type bundleOptions struct {
	source, key, scope string
	interval           time.Duration
}

func (o *bundleOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.source, "policy-bundle", "", "signed OPA bundle that decides for the organisation, in place of the stored policy: a file, or an http or https URL")
	f.StringVar(&o.key, "policy-bundle-key", "", "file of the public key, in PEM, of the bundle's signer")
	f.StringVar(&o.scope, "policy-bundle-scope", "", "scope that the bundle's signature must have")
	f.DurationVar(&o.interval, "policy-bundle-interval", 30*time.Second, "how often to look for another bundle, 1s to 24h")
}

// start takes the first bundle and looks for others until ctx ends. It gives nil where none is wanted.
func (o *bundleOptions) start(ctx context.Context, dataDir string, d *policy.Decider, v vetter, follow func(), r prometheus.Registerer, log *slog.Logger) (*server.PolicyBundle, error) {
	switch {
	case o.source == "" && o.key+o.scope != "":
		return nil, errors.New("--policy-bundle-key and --policy-bundle-scope are for --policy-bundle, which is missing")
	case o.source == "":
		return nil, nil
	case o.key == "":
		return nil, errors.New("--policy-bundle-key is missing: a bundle decides only with a signature that can be verified")
	case o.interval < time.Second || o.interval > 24*time.Hour:
		return nil, fmt.Errorf("--policy-bundle-interval is %s, it must be 1s to 24h", o.interval)
	}
	text, err := os.ReadFile(o.key)
	if err != nil {
		return nil, fmt.Errorf("--policy-bundle-key: %w", err)
	}
	key, err := bundles.NewKey(text, o.scope)
	if err != nil {
		return nil, fmt.Errorf("--policy-bundle-key: %s: %w", o.key, err)
	}
	source, err := bundles.NewSource(o.source)
	if err != nil {
		return nil, fmt.Errorf("--policy-bundle: %w", err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, err
	}
	f := &bundles.Follower{
		Source: source, Key: key, Kept: filepath.Join(dataDir, "policy-bundle.tar.gz"), Log: log,
		Use: func(ctx context.Context, b *bundles.Bundle) error {
			if _, err := v.Vet(ctx, b.Modules); err != nil {
				return err
			}
			if err := d.Bundle(b.Modules); err != nil {
				return err
			}
			follow()
			return nil
		},
	}
	if err := f.Start(ctx); err != nil {
		return nil, fmt.Errorf("--policy-bundle: %w", err)
	}
	count := func(name, help string, n func() int64) prometheus.CounterFunc {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(n()) })
	}
	r.MustRegister(
		count("chartergate_policy_bundles_total", "Policy bundles that were taken.", func() int64 { n, _ := f.Counts(); return n }),
		count("chartergate_policy_bundle_failures_total", "Policy bundles that were refused or could not be had.", func() int64 { _, n := f.Counts(); return n }),
	)
	ticker := time.NewTicker(o.interval)
	go func() {
		defer ticker.Stop()
		f.Run(ctx, ticker.C)
	}()
	return &server.PolicyBundle{Source: o.source, Revision: func() string { return d.Serving().Revisions[0] }}, nil
}
