package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/chaos/oracle"
)

// Every failpoint of the server fires, again and again, while clients call: the process is killed there, stalls there for
// longer than a client waits or than its lease lasts, or loses the answer of a transaction. CHARTERGATE_HITS is how often
// each fires at least; the server must be built with failpoints (make failpoints).
func TestFailpoints(t *testing.T) {
	hits := int(number(t, "CHARTERGATE_HITS", 0))
	if hits == 0 {
		t.Skip("run make failpoints")
	}
	seed := number(t, "CHARTERGATE_CHAOS_SEED", uint64(time.Now().UnixNano()))
	l := startLoad(t, 3, 2, float64(number(t, "CHARTERGATE_CALLS", 40)), seed)
	s := newSaboteur(t, l.cluster, hits, seed)
	s.run(t)
	if err := l.allServe(t.Context()); err != nil {
		t.Error(err)
	}
	l.healed = now()
	l.finish(t, seed)
	s.report(t)
}

// effect is what a failpoint does.
type effect int

const (
	crash effect = iota // the process waits there and is killed
	stall               // for a moment
	hang                // for longer than a client waits; every other time the owner's lease is gone meanwhile
	lose                // the answer of a transaction, or its sending
	effects
)

var effectNames = [effects]string{"crash", "stall", "hang", "lose"}

// How long an effect lasts.
const (
	stallFor = 150 * time.Millisecond
	hangFor  = 12 * time.Second // a session's lease lasts 10 s
	giveUp   = 2 * time.Second
	untilDie = 15 * time.Second // it is killed much earlier
)

// loses are the failpoints whose code returns an error when they are told to.
var loses = []string{"beforeSend", "afterReply", "afterAdjust", "beforeAcknowledge", "afterReclaim"}

// A switch is a failpoint that changes when something happens, and is always on.
const (
	switchPoint = "collectAtOnce"
	switchesOn  = switchPoint + "=return()"
)

// atEnd is the failpoint that a process reaches only when it is asked to stop.
const atEnd = "beforeResign"

// takeovers are the failpoints that are reached only after a server has died.
var takeovers = []string{"beforeTakeOver", "afterTakeOver"}

// late are the failpoints that are reached only when a quarantine is over. A successor that ends begins another, so that
// they need times in which nothing is killed elsewhere.
var late = []string{"beforeReclaim", "afterReclaim", "beforeCloseOwner", "afterCloseOwner"}

// saboteur arms failpoints and counts how often they fire. Storms, in which servers are killed again and again, and calms, in
// which what they left is reclaimed, take turns.
type saboteur struct {
	*cluster
	hits   int
	client http.Client

	mu     sync.Mutex
	random *rand.Rand
	fired  map[string]*[effects]int
	hung   int
	killed int // in this storm
	errs   error
}

const (
	stormFor = 30 * time.Second
	calmFor  = quarantine + 6*time.Second // with the takeover before, and the reclaims after it
	lookAt   = 40 * time.Millisecond
)

func newSaboteur(t *testing.T, c *cluster, hits int, seed uint64) *saboteur {
	t.Helper()
	s := &saboteur{cluster: c, hits: hits, fired: map[string]*[effects]int{}, random: rand.New(rand.NewPCG(seed, 11)),
		client: http.Client{Timeout: time.Second}}
	list, err := s.ask(0, http.MethodGet, "", "")
	if err != nil {
		t.Fatalf("the server has no failpoints (%v): run make failpoints", err)
	}
	for line := range strings.Lines(list) {
		if name, _, _ := strings.Cut(strings.TrimSpace(line), "="); name != switchPoint {
			s.fired[name] = new([effects]int)
		}
	}
	for _, name := range slices.Concat(loses, takeovers, late, []string{atEnd, "beforeResolve"}) {
		if s.fired[name] == nil {
			t.Fatalf("the server has no failpoint %s", name)
		}
	}
	return s
}

// ask calls gofail in a replica.
func (s *saboteur) ask(replica int, method, path, body string) (string, error) {
	q, err := http.NewRequest(method, "http://"+s.failpoints[replica]+"/"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := s.client.Do(q)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return string(text), err
}

func (s *saboteur) total(name string) (n int) {
	for _, x := range s.fired[name] {
		n += x
	}
	return n
}

// missing are the failpoints that have not fired often enough.
func (s *saboteur) missing() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.fired)) {
		if s.lacks(name) {
			list = append(list, fmt.Sprintf("%s %d (%d)", name, s.total(name), s.fired[name][crash]))
		}
	}
	return list
}

func (s *saboteur) lacks(name string) bool {
	return s.total(name) < s.hits || s.fired[name][crash] < s.crashes(name)
}

// crashes is how often a failpoint kills at least.
func (s *saboteur) crashes(name string) int {
	if slices.Contains(late, name) {
		return s.hits / 33 // each of them costs the reclaims of a whole calm
	}
	return max(1, s.hits/20)
}

// enough says that a storm or a calm can do no more.
func (s *saboteur) enough(storm bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := 0 // that others have to die for
	for name := range s.fired {
		isLate := slices.Contains(late, name)
		if isLate != storm && s.lacks(name) {
			return false
		}
		if isLate {
			most = max(most, s.hits-s.total(name))
		}
	}
	return !storm || s.killed >= 2*most
}

func (s *saboteur) run(t *testing.T) {
	t.Helper()
	began := time.Now()
	for most := time.Duration(4+s.hits/4) * (stormFor + calmFor); ; {
		for _, storm := range []bool{true, false} {
			end := time.Now().Add(calmFor)
			if storm {
				end, s.killed = time.Now().Add(stormFor), 0
			}
			var all sync.WaitGroup
			for i := range s.replicas {
				all.Go(func() { s.harass(i, storm, end) })
			}
			all.Wait()
			left := s.missing()
			t.Logf("%4.0fs: still to fire %d times: %s", time.Since(began).Seconds(), s.hits, strings.Join(left, ", "))
			if len(left) == 0 || s.errs != nil || t.Failed() {
				return
			}
		}
		if time.Since(began) > most {
			t.Errorf("failpoints fired too rarely in %s", time.Since(began))
			return
		}
	}
}

// armed is a failpoint that is set in a process.
type armed struct {
	effect
	skip       int // how often it does not fire first
	most, seen int // how often it fires, and has
	set        time.Time
}

// victim is a process that failpoints are set in.
type victim struct {
	*process
	replica int
	set     map[string]*armed
	stops   bool      // it will be asked to stop, not killed
	from    time.Time // when it may die
	asked   bool      // to stop
}

// harass has the failpoints of one replica fire until a time.
func (s *saboteur) harass(replica int, storm bool, end time.Time) {
	tick := time.NewTicker(lookAt)
	defer tick.Stop()
	v := &victim{}
	for time.Now().Before(end) && !s.enough(storm) {
		<-tick.C
		if p := s.replicas[replica].current(); p != v.process {
			v = &victim{process: p, replica: replica, set: map[string]*armed{}}
			v.from = time.Now().Add(300*time.Millisecond + time.Duration(s.upTo(int(1200*time.Millisecond))))
			v.stops = storm && s.wants(atEnd) && s.upTo(10) < 5
		}
		if !s.count(v) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(s.fired)) {
			if v.set[name] == nil {
				s.arm(v, name, storm)
			}
		}
		if v.stops && !v.asked && time.Now().After(v.from) {
			v.asked = true
			_ = v.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	for name, a := range v.set { // what has not fired must not in the next phase
		if !s.credit(v, name, a) {
			return
		}
		_, _ = s.ask(replica, http.MethodDelete, name, "")
	}
}

func (s *saboteur) upTo(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n)
}

func (s *saboteur) wants(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lacks(name)
}

// count sees what has fired; false once the process is gone.
func (s *saboteur) count(v *victim) bool {
	select {
	case <-v.exited:
		return false
	default:
	}
	for name, a := range v.set {
		if !s.credit(v, name, a) {
			return false
		}
		if a.seen == a.most && a.effect != hang {
			delete(v.set, name)
		}
		if a.effect == crash && name != atEnd && time.Since(a.set) > giveUp { // others may come sooner to where they are
			_, _ = s.ask(v.replica, http.MethodDelete, name, "")
			delete(v.set, name)
		}
	}
	return true
}

// credit counts how often one has fired, and kills a process that waits for it; false if that is gone.
func (s *saboteur) credit(v *victim, name string, a *armed) bool {
	if a.seen == a.most {
		return true
	}
	text, err := s.ask(v.replica, http.MethodGet, name+"/count", "")
	n, numberErr := strconv.Atoi(text)
	if n -= a.skip; err != nil || numberErr != nil || n <= a.seen {
		return true // not yet, or it starts, or has just ended
	}
	s.mu.Lock()
	s.fired[name][a.effect] += n - a.seen
	a.seen = n
	if a.effect == hang {
		s.hung++
	}
	lose := a.effect == hang && s.hung%2 == 1
	if a.effect == crash {
		s.killed++
	}
	s.mu.Unlock()
	if a.effect == crash {
		s.fail(v.kill())
	}
	if a.effect == crash || lose {
		s.fail(s.revoke(v.pid()))
	}
	return a.effect != crash
}

func (s *saboteur) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = errors.Join(s.errs, err)
}

// revoke ends the lease of a process's owner, as etcd does 10 s after it heard from it for the last time.
func (s *saboteur) revoke(pid int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	own, err := s.etcd.client.Get(ctx, oracle.Prefix+"own/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for _, kv := range own.Kvs {
		if pidOf(kv.Value) == pid {
			_, err := s.etcd.client.Revoke(ctx, clientv3.LeaseID(kv.Lease))
			return err
		}
	}
	return nil // it has none any more
}

// arm sets a failpoint that has to fire yet, if it can at this time.
func (s *saboteur) arm(v *victim, name string, storm bool) {
	a := s.choose(v, name, storm)
	if a == nil {
		return
	}
	term := ""
	switch a.effect {
	case crash:
		term = fmt.Sprintf("%d*off->1*sleep(%d)", a.skip, untilDie.Milliseconds())
	case hang:
		term = fmt.Sprintf("1*sleep(%d)", hangFor.Milliseconds())
	case stall:
		term = fmt.Sprintf("%d*sleep(%d)", a.most, stallFor.Milliseconds())
	case lose:
		term = fmt.Sprintf("%d*return()", a.most)
	}
	if _, err := s.ask(v.replica, http.MethodPut, name, term); err == nil {
		a.set = time.Now()
		v.set[name] = a
	}
}

// choose says how a failpoint fires next; nil: not now.
func (s *saboteur) choose(v *victim, name string, storm bool) *armed {
	s.mu.Lock()
	defer s.mu.Unlock()
	total, isLate, isEnd := s.total(name), slices.Contains(late, name), name == atEnd
	free := time.Now().After(v.from) // to die or hang
	for _, a := range v.set {
		free = free && a.effect != crash && a.effect != hang
	}
	rare := isLate || isEnd || slices.Contains(takeovers, name)
	switch {
	case isEnd && !v.stops:
		return nil
	case isEnd && !v.asked && s.fired[name][crash] < s.crashes(name):
		return &armed{effect: crash, most: 1}
	case v.stops || !free:
	case isLate && !storm && s.fired[name][crash] < s.crashes(name) && s.random.IntN(20) == 0:
		return &armed{effect: crash, most: 1, skip: s.random.IntN(4)}
	case !isLate && storm && s.fired[name][crash] < s.crashes(name) && s.random.IntN(4) == 0:
		return &armed{effect: crash, most: 1}
	case !rare && storm && s.scarce() && s.random.IntN(20) == 0: // so that there is something to take over
		return &armed{effect: crash, most: 1}
	case !rare && !storm && s.hung < s.hits/4 && s.random.IntN(1500) == 0:
		return &armed{effect: hang, most: 1}
	}
	wanted := total < s.hits || name == "afterAdjust" && (s.lacks("beforeResolve") || s.lacks("afterResolve"))
	switch {
	case !wanted:
		return nil
	case rare && s.fired[name][crash] < s.crashes(name) && total+s.crashes(name)-s.fired[name][crash] >= s.hits:
		return nil // what is left is for crashes: it is not reached often
	case rare:
		return &armed{effect: stall, most: 1}
	case slices.Contains(loses, name) && s.random.IntN(6) == 0:
		return &armed{effect: lose, most: 2}
	case s.random.IntN(12) == 0:
		return &armed{effect: stall, most: 2}
	}
	return nil
}

// scarce says that failpoints have to fire yet which others must die for.
func (s *saboteur) scarce() bool {
	return slices.ContainsFunc(slices.Concat(takeovers, late), s.lacks)
}

func (s *saboteur) report(t *testing.T) {
	t.Helper()
	if s.errs != nil {
		t.Error(s.errs)
	}
	t.Logf("failpoint %-22s %s", "", strings.Join(effectNames[:], " "))
	for _, name := range slices.Sorted(maps.Keys(s.fired)) {
		n := s.fired[name]
		t.Logf("failpoint %-22s %5d %5d %4d %4d", name, n[crash], n[stall], n[hang], n[lose])
		if s.lacks(name) {
			t.Errorf("%s fired %d times, %d of them deadly; want %d and %d", name, s.total(name), n[crash], s.hits, s.crashes(name))
		}
	}
}
