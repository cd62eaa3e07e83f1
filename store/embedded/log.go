package embedded

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// core forwards etcd's warnings and errors to a slog handler.
type core struct {
	handler slog.Handler
	closing *atomic.Bool // from then on, requests that are cancelled are no trouble
}

// demoted is what etcd says in its first seconds on a new directory: it looks for its storage version before it has
// written one, and finds it when it tries again.
var demoted = map[string]bool{
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
	"Failed to detect storage schema version. Please wait till wal snapshot before upgrading cluster.": true,
}

func (c *core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.handler.WithAttrs(attrs(fields)), c.closing}
}

func (c *core) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	switch {
	case demoted[e.Message], c.closing.Load() && e.Level == zapcore.WarnLevel:
		level = slog.LevelDebug
	case e.Level >= zapcore.ErrorLevel:
		level = slog.LevelError
	}
	if !c.handler.Enabled(context.Background(), level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return c.handler.Handle(context.Background(), r)
}

func (c *core) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	list := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		// One at a time keeps their order.
		m := zapcore.NewMapObjectEncoder()
		f.AddTo(m)
		for k, v := range m.Fields {
			list = append(list, slog.Any(k, v))
		}
	}
	return list
}
