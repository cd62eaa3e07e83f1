package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// roleEnv makes a process of the test binary something else than the test.
const (
	roleEnv    = "CHARTERGATE_CHAOS_ROLE"
	roleTest   = "test"   // the tests, in a network namespace of their own
	roleProxy  = "proxy"  // the tests, without namespaces
	roleHold   = "hold"   // keeps a network namespace
	roleMember = "member" // a member of etcd
	roleClient = "client" // drives load
)

// serverEnv is the binary of chartergate that is tested; without it, it is built from the tree.
const serverEnv = "CHARTERGATE_CHAOS_SERVER"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleHold:
		select {}
	case roleMember:
		os.Exit(report(runMember()))
	case roleClient:
		os.Exit(report(runClient()))
	case roleTest:
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			os.Exit(report(fmt.Errorf("loopback: %w: %s", err, out)))
		}
		os.Exit(m.Run())
	case roleProxy:
		os.Exit(m.Run())
	}
	os.Exit(outside())
}

func report(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	return 0
}

// outside builds the server and runs the tests again in a new network namespace, which is gone with them: nothing of the
// machine's network is touched. Root makes one; others need unprivileged user namespaces.
func outside() int {
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return report(err)
	}
	defer os.RemoveAll(dir)
	server := os.Getenv(serverEnv)
	if server == "" {
		server = filepath.Join(dir, "chartergate")
		if out, err := exec.Command("go", "build", "-o", server, "../cmd/chartergate").CombinedOutput(); err != nil {
			return report(fmt.Errorf("build the server: %w\n%s", err, out))
		}
	}
	role := roleTest
	if why := noNamespaces(); why != nil {
		fmt.Fprintf(os.Stderr, "chaos: NO NETWORK NAMESPACES (%v): partitions are made by TCP proxies that hold back one direction\n", why)
		role = roleProxy
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), roleEnv+"="+role, serverEnv+"="+server)
	cmd.SysProcAttr = inNamespace(role)
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return report(err)
}

func inNamespace(role string) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if role == roleTest {
		a.Cloneflags = syscall.CLONE_NEWNET
		if os.Getuid() != 0 {
			a.Cloneflags |= syscall.CLONE_NEWUSER
			a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
	}
	return a
}

// noNamespaces says what is missing to make a network namespace, cables in it, and lose packets on them.
func noNamespaces() error {
	if os.Getenv(roleEnv+"_NET") == roleProxy {
		return errors.New(roleEnv + "_NET says so")
	}
	for _, tool := range []string{"ip", "tc", "nsenter", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			return err
		}
	}
	cmd := exec.Command("sh", "-ec", "ip link add cg0 type veth peer name cg1; ip link set cg0 up; tc qdisc replace dev cg0 root blackhole")
	cmd.SysProcAttr = inNamespace(roleTest)
	if _, err := cmd.Output(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return err
	}
	return nil
}

// newNetwork gives the network that this process can have.
func newNetwork(t *testing.T, replicas int) network {
	t.Helper()
	if os.Getenv(roleEnv) == roleProxy {
		return newProxies(t, replicas)
	}
	return newWires(t, replicas)
}

func self(t *testing.T) string {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return name
}
