package chaos

import (
	"fmt"
	"net"
	"sync"
	"testing"
)

// proxies stand in for wires where no network namespace can be made: each replica reaches each member through a proxy,
// which can hold back what goes one way. It is less than a lossy cable: a connection is always accepted.
type proxies struct {
	ports map[int][]int // by replica
	gates map[int]map[direction]*gate
}

// gate lets bytes through while it is open.
type gate struct {
	mu     sync.Mutex
	opened *sync.Cond
	shut   bool
}

func newGate() *gate {
	g := &gate{}
	g.opened = sync.NewCond(&g.mu)
	return g
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	g.opened.Broadcast()
}

func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut {
		g.opened.Wait()
	}
}

func newProxies(t *testing.T, replicas int) network {
	t.Helper()
	p := &proxies{map[int][]int{}, map[int]map[direction]*gate{}}
	for r := range replicas {
		p.gates[r] = map[direction]*gate{toEtcd: newGate(), fromEtcd: newGate()}
		for m := range members {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			p.ports[r] = append(p.ports[r], l.Addr().(*net.TCPAddr).Port)
			go p.serve(l, r, fmt.Sprintf("127.0.0.1:%d", clientPort(m)))
		}
	}
	return p
}

// serve ends with its listener.
func (p *proxies) serve(l net.Listener, replica int, member string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			out, err := net.Dial("tcp", member)
			if err != nil {
				_ = in.Close()
				return
			}
			go pump(out, in, p.gates[replica][toEtcd])
			pump(in, out, p.gates[replica][fromEtcd])
		}()
	}
}

func pump(to, from net.Conn, g *gate) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		g.pass()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxies) within(argv ...string) []string { return argv }

func (p *proxies) link(replica int) []string {
	list := make([]string, members)
	for m := range list {
		port := clientPort(m)
		if replica >= 0 {
			port = p.ports[replica][m]
		}
		list[m] = fmt.Sprintf("http://127.0.0.1:%d", port)
	}
	return list
}

func (p *proxies) cut(replica int, d direction) error {
	for way, g := range p.gates[replica] {
		if d == whole || d == way {
			g.set(true)
		}
	}
	return nil
}

func (p *proxies) heal(replica int) error {
	for _, g := range p.gates[replica] {
		g.set(false)
	}
	return nil
}
