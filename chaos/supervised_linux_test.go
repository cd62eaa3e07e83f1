package chaos

import (
	"fmt"
	"sync"
	"time"
)

// supervised is a process that is started again whenever it ends, as a service manager does.
type supervised struct {
	launch func(generation int) (*process, error)

	mu      sync.Mutex
	proc    *process
	past    []*process
	down    bool // held down by a fault
	ending  bool
	changed chan struct{}
	stopped chan struct{}
	err     error // a launch that failed
}

// restartAfter is how long a service manager waits.
const restartAfter = 300 * time.Millisecond

func supervise(launch func(generation int) (*process, error)) *supervised {
	s := &supervised{launch: launch, changed: make(chan struct{}), stopped: make(chan struct{})}
	go s.run()
	return s
}

func (s *supervised) run() {
	defer close(s.stopped)
	for generation := 0; ; generation++ {
		for {
			s.mu.Lock()
			down, ending, changed := s.down, s.ending, s.changed
			s.mu.Unlock()
			if ending {
				return
			}
			if !down {
				break
			}
			<-changed
		}
		p, err := s.launch(generation)
		s.mu.Lock()
		if err != nil {
			s.err = err
			s.mu.Unlock()
			return
		}
		s.proc = p
		s.past = append(s.past, p)
		if s.down || s.ending {
			go p.kill() //nolint:errcheck // it is awaited below
		}
		s.mu.Unlock()
		<-p.exited
		<-time.After(restartAfter)
	}
}

func (s *supervised) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// current is the process that runs, or ran last; nil before the first.
func (s *supervised) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// hold kills the process and keeps it down until let go.
func (s *supervised) hold() error {
	s.set(func() { s.down = true })
	if p := s.current(); p != nil {
		return p.kill()
	}
	return nil
}

func (s *supervised) letGo() { s.set(func() { s.down = false }) }

// end stops the process in order and starts no other.
func (s *supervised) end(patience time.Duration) error {
	s.set(func() { s.ending, s.down = true, false })
	p := s.current()
	if p == nil {
		return fmt.Errorf("it never started: %w", s.err)
	}
	err := p.stop(patience)
	<-s.stopped
	return err
}

// all gives every process that ran.
func (s *supervised) all() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*process(nil), s.past...)
}
