package sim

import (
	"context"
	"errors"
	"time"
)

var (
	errTimeout = errors.New("no answer in time")
	errRefused = errors.New("the connection was refused")
)

// rpc calls a replica from the current coroutine of from: serve runs there, in a coroutine of its own. Errors of the way
// are errTimeout and errRefused, after which it may have run, or run later.
func rpc[T any](w *world, from *process, host int, timeout time.Duration, name string, serve func(ctx context.Context, r *replica) (T, error)) (T, error) {
	var result, none T
	co, gen := from.begin()
	ctx, cancel := context.WithCancel(context.Background())
	var at *process
	over := func() { // the server hears that nobody waits any more
		from.after(from.between(0, 300*time.Millisecond), func() {
			cancel()
			if at != nil && !at.dead && !at.paused {
				at.poll()
			}
		})
	}
	from.after(from.truly(timeout), func() {
		if co.end(gen, errTimeout) {
			over()
		}
	})
	out, lost := w.hop()
	if !lost {
		from.after(out, func() {
			r := w.hosts[host]
			if r == nil || r.p.dead || r.svc == nil || r.closing {
				back, _ := w.hop()
				from.after(back, func() { co.end(gen, errRefused) })
				return
			}
			at = r.p
			r.p.spawn(name, func() {
				got, err := serve(ctx, r)
				back, lost := w.hop()
				if lost || r.p.dead {
					return
				}
				from.after(back, func() {
					if co.end(gen, err) {
						result = got
						over()
					}
				})
			})
		})
	}
	from.park()
	if co.err != nil {
		return none, co.err
	}
	return result, nil
}

// hop is how long a message takes.
func (w *world) hop() (d time.Duration, lost bool) {
	switch f := w.faults.net; {
	case f > 0 && !w.healed && w.chance(f):
		return 0, true
	case f > 0 && !w.healed && w.chance(f):
		return w.between(time.Millisecond, 6*time.Second), false
	}
	return w.between(100*time.Microsecond, 3*time.Millisecond), false
}
