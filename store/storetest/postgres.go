package storetest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
)

// Postgres is a PostgreSQL server that runs for one test.
type Postgres struct {
	bin, dir  string
	as        *syscall.SysProcAttr
	databases atomic.Int64
}

// StartPostgres starts a server of its own, in a directory of its own, on a Unix socket; skips the test where PostgreSQL is
// not installed. As root it runs as the user postgres or nobody, because PostgreSQL refuses to run as root.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil && len(found) == 0 {
		found = append(found, path)
	}
	if len(found) == 0 {
		t.Skip("PostgreSQL is not installed: no /usr/lib/postgresql/*/bin/initdb and no initdb in PATH")
	}
	dir, err := os.MkdirTemp("", "pg") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &Postgres{bin: filepath.Dir(found[len(found)-1]), dir: dir}
	if os.Geteuid() == 0 {
		p.as = unprivileged(t, dir)
	}
	p.run(t, "initdb", "-D", dir+"/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	p.Start(t)
	t.Cleanup(func() { p.Stop(t) })
	return p
}

func unprivileged(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	t.Skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
	return nil
}

func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.SysProcAttr, cmd.Dir = p.as, p.dir
	return cmd
}

func (p *Postgres) run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := p.command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// Start starts the server after Stop or Kill.
func (p *Postgres) Start(t testing.TB) {
	t.Helper()
	p.run(t, "pg_ctl", "-D", p.dir+"/data", "-w", "-t", "60", "-l", p.dir+"/log", "-o",
		fmt.Sprintf("-c listen_addresses='' -k %s -c fsync=off -c shared_buffers=64MB -c max_connections=60", p.dir), "start")
}

// Stop ends the server at once, as a crash would: it recovers at the next start.
func (p *Postgres) Stop(t testing.TB) {
	t.Helper()
	_ = p.command("pg_ctl", "-D", p.dir+"/data", "-m", "immediate", "-w", "stop").Run() // it may have ended
}

// NewDatabase makes a database and gives its URL.
func (p *Postgres) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", p.databases.Add(1))
	p.run(t, "createdb", "-h", p.dir, "-U", "postgres", name)
	return fmt.Sprintf("postgres:///%s?host=%s&user=postgres", name, p.dir)
}
