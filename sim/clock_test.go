package sim

import (
	"context"
	"time"
)

// epoch is the true wall time at the start of a run that has midnight at its start.
var epoch = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

// local turns true time into that of the process's clock.
func (p *process) local(d time.Duration) time.Duration { return time.Duration(float64(d) * p.rate) }

// truly turns a duration of the process's clock into true time.
func (p *process) truly(d time.Duration) time.Duration { return time.Duration(float64(d) / p.rate) }

// Boot implements preflight.Clock.
func (p *process) Boot() time.Duration {
	p.hiccup()
	at := p.local(p.now - p.booted)
	p.hiccup()
	return at
}

// Now implements preflight.Clock.
func (p *process) Now() time.Time {
	p.hiccup()
	at := p.wall()
	p.hiccup()
	return at
}

// wall is the wall clock of the process.
func (p *process) wall() time.Time { return epoch.Add(p.offset + p.local(p.now-p.booted)) }

// when is the true time at which the process's wall clock shows t.
func (p *process) when(t time.Time) time.Duration {
	return p.booted + p.truly(t.Sub(epoch)-p.offset)
}

// hiccup now and then pauses the process right here.
func (p *process) hiccup() {
	if p.dead || p.pauses == 0 || p.cur == nil || p.cur.p != p || !p.chance(p.pauses) {
		return
	}
	d := p.nap()
	p.logf("%s: pauses for %s in the middle of %s", p.name, d.Round(time.Millisecond), p.cur.name)
	p.first = p.cur
	p.pause(d)
	p.park()
}

// nap is how long a pause lasts: mostly short, now and then longer than a session, or than a quarantine.
func (p *process) nap() time.Duration {
	switch p.rng.IntN(6) {
	case 0, 1:
		return p.between(3*time.Second, 30*time.Second)
	case 2:
		return p.between(30*time.Second, 150*time.Second)
	}
	return p.between(time.Millisecond, 3*time.Second)
}

// sleep waits for d of the process's clock.
func (p *process) sleep(d time.Duration) {
	c, gen := p.begin()
	p.after(p.truly(d), func() { c.end(gen, nil) })
	p.park()
}

// wait waits until ch is ready, ctx ends, or d has passed, which gives over.
func (p *process) wait(ctx context.Context, ch <-chan struct{}, d time.Duration, over error) error {
	if p.dead {
		panic(stopped{})
	}
	select {
	case <-ch:
		return nil
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c, gen := p.begin()
	c.watch(ctx, ch)
	if d >= 0 {
		p.after(p.truly(d)+50*time.Microsecond, func() { c.end(gen, over) }) // timers are never early
	}
	p.park()
	return c.err
}
