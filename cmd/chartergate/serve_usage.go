package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/chartergate/chartergate/server/metering"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/archive"
	"github.com/chartergate/chartergate/store/etcd"
	"github.com/chartergate/chartergate/store/sql"
)

// usageOptions are the flags of serve that concern the usage database.
type usageOptions struct {
	url                                 string
	sample                              float64
	topK                                int
	hourlyDays, usageDays, decisionDays int
	uncounted                           bool // hidden, for bench: settlements go to the archive alone

	db *sql.Store // once open
}

func (o *usageOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.url, "database-url", "", "usage database: postgres://user@host/database, which servers may share, or sqlite:FILE (default sqlite:<data-dir>/usage.db)")
	f.Float64Var(&o.sample, "sample-decisions", 1, "percent of decisions to keep for search, beside all refusals and downgrades")
	f.IntVar(&o.topK, "usage-keys", sql.DefaultTopK, "cohorts, prompt patterns and values of a label that an hour counts apart; the others are (other)")
	f.IntVar(&o.hourlyDays, "usage-hourly-days", int(metering.HoursFor/day), "days for which usage is kept by the hour; then by the day")
	f.IntVar(&o.usageDays, "usage-days", int(metering.DaysFor/day), "days for which usage is kept")
	f.BoolVar(&o.uncounted, uncountedFlag, false, "")
	f.IntVar(&o.decisionDays, "decision-days", int(metering.DecisionsFor/day), "days for which decisions are kept")
}

const uncountedFlag = "uncounted"

const day = 24 * time.Hour

// open opens the database and makes what counts into it.
func (o *usageOptions) open(ctx context.Context, dataDir string, control store.Control, settlements *archive.Archive, log *slog.Logger) (*metering.Meter, func() error, error) {
	if o.sample < 0 || o.sample > 100 {
		return nil, nil, fmt.Errorf("--sample-decisions is %v, it must be 0 to 100 percent", o.sample)
	}
	for _, n := range []struct {
		flag  string
		value int
		most  int
	}{
		{"usage-keys", o.topK, 10_000}, {"usage-hourly-days", o.hourlyDays, 3660}, {"usage-days", o.usageDays, 36_600}, {"decision-days", o.decisionDays, 3660},
	} {
		if n.value < 0 || n.value > n.most {
			return nil, nil, fmt.Errorf("--%s is %d, it must be 1 to %d, or 0 for the default", n.flag, n.value, n.most)
		}
	}
	if o.usageDays > 0 && o.hourlyDays > o.usageDays {
		return nil, nil, fmt.Errorf("--usage-hourly-days is %d, more than the %d of --usage-days", o.hourlyDays, o.usageDays)
	}
	db, err := sql.Open(ctx, cmp.Or(o.url, "sqlite:"+filepath.Join(dataDir, "usage.db")), sql.Options{TopK: o.topK, Later: true})
	if err != nil {
		return nil, nil, fmt.Errorf("--database-url: %w", err)
	}
	o.db = db
	return metering.New(metering.Config{
		Store: db, Control: control, Archive: settlements, Decode: etcd.ReadBatch, Log: log, SamplePPM: int64(o.sample * 10_000),
		HoursFor: time.Duration(o.hourlyDays) * day, DaysFor: time.Duration(o.usageDays) * day, DecisionsFor: time.Duration(o.decisionDays) * day,
	}), db.Close, nil
}
