package server

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/net/netutil"
)

// Default listeners.
const (
	DefaultGRPCAddr = "127.0.0.1:7070"
	DefaultHTTPAddr = "127.0.0.1:7071"
)

// maxConnections bounds the connections of each listener; further ones wait.
const maxConnections = 4096

// NotLoopbackError says that a listener could be reached from other machines.
type NotLoopbackError struct{ Flag, Addr string }

func (e *NotLoopbackError) Error() string {
	return fmt.Sprintf("%s %s is not a loopback address: there is no authentication yet, so only this machine may reach the server; use 127.0.0.1, [::1] or localhost", e.Flag, e.Addr)
}

// AddrInUseError says that another process listens on an address.
type AddrInUseError struct{ Flag, Addr string }

func (e *AddrInUseError) Error() string {
	return fmt.Sprintf("%s is in use by another process: stop that one, or choose another address with %s", e.Addr, e.Flag)
}

// Listeners are the server's two open ports.
type Listeners struct{ GRPC, HTTP net.Listener }

// Listen opens the ports, so that a start can fail before anything else is begun. An empty address is the default; port
// 0 takes a free one. Errors: *NotLoopbackError, *AddrInUseError, or what the network says.
func Listen(grpcAddr, httpAddr string) (*Listeners, error) {
	g, err := listen("--grpc-addr", grpcAddr, DefaultGRPCAddr)
	if err != nil {
		return nil, err
	}
	h, err := listen("--http-addr", httpAddr, DefaultHTTPAddr)
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return &Listeners{g, h}, nil
}

// Close closes both ports. Serve does it too.
func (l *Listeners) Close() error { return errors.Join(l.GRPC.Close(), l.HTTP.Close()) }

func listen(flag, addr, standard string) (net.Listener, error) {
	if addr == "" {
		addr = standard
	}
	at, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s %s is not an address such as %s: %w", flag, addr, standard, err)
	}
	if !at.IP.IsLoopback() {
		return nil, &NotLoopbackError{flag, addr}
	}
	l, err := net.ListenTCP("tcp", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &AddrInUseError{flag, addr}
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, addr, err)
	}
	return netutil.LimitListener(l, maxConnections), nil
}
