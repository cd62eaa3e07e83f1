package chaos

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// direction is which packets between a replica and etcd are lost. Nobody is told of the loss.
type direction int

const (
	whole direction = iota
	toEtcd
	fromEtcd
)

func (d direction) String() string { return [...]string{"both directions", "to etcd", "from etcd"}[d] }

// network is where etcd's members run, and the link of each replica to them.
type network interface {
	// within gives the command that runs argv where the members are.
	within(argv ...string) []string
	// link gives the endpoints of the members as one replica reaches them; with -1 as the harness does, for whom nothing
	// is ever lost.
	link(replica int) []string
	// cut loses packets between a replica and etcd until heal.
	cut(replica int, d direction) error
	heal(replica int) error
}

// members is the size of the etcd cluster.
const members = 3

// clientPort and peerPort are those of a member.
func clientPort(member int) int { return 23790 + member }
func peerPort(member int) int   { return 23800 + member }

// wires is the network of virtual Ethernet cables: etcd's members run in a network namespace of their own, and each
// replica has a cable to it with an address of its own. The replicas and clients share the test's namespace and see each
// other on loopback. Whatever a cable's queue is told to lose, the kernel loses.
type wires struct{ holder *process }

func newWires(t *testing.T, replicas int) network {
	t.Helper()
	w := &wires{}
	var err error
	if w.holder, err = start(t.TempDir()+"/holder.log", []string{roleEnv + "=" + roleHold}, "unshare", "--net", self(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.holder.kill(); err != nil {
			t.Error(err)
		}
	})
	outside, err := run("readlink", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	err = eventually(patience, func() error {
		inside, err := run("readlink", fmt.Sprintf("/proc/%d/ns/net", w.holder.pid()))
		if err == nil && inside == outside {
			err = errors.New("it is not in a namespace of its own yet")
		}
		return err
	})
	if err == nil {
		_, err = run(w.within("ip", "link", "set", "lo", "up")...)
	}
	for r := -1; r < replicas && err == nil; r++ {
		if err = w.lay(r); err == nil {
			t.Cleanup(func() {
				if _, err := run("ip", "link", "del", cable(r)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func cable(replica int) string         { return fmt.Sprintf("cg%d", replica+1) }
func address(replica, end int) string  { return fmt.Sprintf("10.77.%d.%d", replica+1, end) }
func hardware(replica, end int) string { return fmt.Sprintf("02:00:00:77:%02d:%02d", replica+1, end) }
func (w *wires) within(argv ...string) []string {
	return append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", w.holder.pid()), "--"}, argv...)
}

// lay lays the cable of a replica. Neighbours are fixed: a lost packet is lost, and not an unknown host.
func (w *wires) lay(r int) error {
	name := cable(r)
	if _, err := run("ip", "link", "add", name, "address", hardware(r, 1), "type", "veth", "peer", "name", name, "address", hardware(r, 2),
		"netns", fmt.Sprint(w.holder.pid())); err != nil {
		return err
	}
	for end, in := range []func(...string) []string{func(argv ...string) []string { return argv }, w.within} {
		for _, argv := range [][]string{
			{"ip", "addr", "add", address(r, end+1) + "/24", "dev", name},
			{"ip", "link", "set", name, "up"},
			{"ip", "neigh", "replace", address(r, 2-end), "lladdr", hardware(r, 2-end), "nud", "permanent", "dev", name},
		} {
			if _, err := run(in(argv...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *wires) link(replica int) []string {
	list := make([]string, members)
	for m := range list {
		list[m] = fmt.Sprintf("http://%s:%d", address(replica, 2), clientPort(m))
	}
	return list
}

func (w *wires) cut(replica int, d direction) error {
	lose := []string{"tc", "qdisc", "replace", "dev", cable(replica), "root", "blackhole"}
	var errs error
	if d != fromEtcd {
		_, err := run(lose...)
		errs = errors.Join(errs, err)
	}
	if d != toEtcd {
		_, err := run(w.within(lose...)...)
		errs = errors.Join(errs, err)
	}
	return errs
}

func (w *wires) heal(replica int) error {
	var errs error
	for _, in := range []func(...string) []string{func(argv ...string) []string { return argv }, w.within} {
		shown, err := run(in("tc", "qdisc", "show", "dev", cable(replica))...)
		if err == nil && strings.Contains(shown, "blackhole") {
			_, err = run(in("tc", "qdisc", "del", "dev", cable(replica), "root")...)
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

// patience is how long a step of the harness may take.
const patience = 30 * time.Second

func run(argv ...string) (string, error) {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}
