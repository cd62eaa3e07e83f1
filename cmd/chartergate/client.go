package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/server"
)

// clientFlags are the flags of every command that talks to a server.
type clientFlags struct {
	server, output string
	outputs        []string // that there are
	timeout        time.Duration
}

// addClientFlags adds the flags; more outputs than the common ones are the command's own.
func addClientFlags(cmd *cobra.Command, more ...string) *clientFlags {
	c := &clientFlags{outputs: append(slices.Clone(outputs), more...)}
	addServerFlag(cmd, &c.server)
	cmd.Flags().StringVarP(&c.output, "output", "o", "table", strings.Join(c.outputs, ", "))
	cmd.Flags().DurationVar(&c.timeout, "timeout", 30*time.Second, "how long to wait for the server")
	completeFlag(cmd, "output", func() []string { return c.outputs })
	return c
}

// call connects and calls f. A server that is not there is told at once, and not after the time-out.
func (c *clientFlags) call(cmd *cobra.Command, f func(context.Context, *chartergate.Client) error) error {
	if !slices.Contains(c.outputs, c.output) {
		return usagef("unknown output %q: use %s", c.output, strings.Join(c.outputs, ", "))
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()
	client, err := dial(c.server)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Connect(ctx); err == nil {
		return f(ctx, client)
	} else if ctx.Err() != nil {
		return fmt.Errorf("%s did not answer within the --timeout of %v: try again, or give it longer", c.server, c.timeout)
	}
	return noServer(ctx, c.server)
}

// noServer says why there is no connection to any of the addresses.
func noServer(ctx context.Context, addrs string) error {
	if host, _, err := net.SplitHostPort(addrs); err == nil && host != "" && !strings.Contains(addrs, ",") {
		_, err := net.DefaultResolver.LookupHost(ctx, host)
		if unknown, ok := errors.AsType[*net.DNSError](err); ok && !unknown.IsTimeout {
			return fmt.Errorf("the host %s of --server cannot be found: name another with --server", host)
		}
	}
	return fmt.Errorf("no server answers at %s: start one with `chartergate serve`, or name another with --server", addrs)
}

// serverVariable names the server where --server does not.
const serverVariable = "CHARTERGATE_SERVER"

func addServerFlag(cmd *cobra.Command, addr *string) {
	cmd.Flags().StringVar(addr, "server", cmp.Or(os.Getenv(serverVariable), server.DefaultGRPCAddr),
		"gRPC address of the server, HOST:PORT, or of its replicas, HOST:PORT,HOST:PORT; default "+serverVariable+" of the environment, if set")
}

// dial makes a client of the server at HOST:PORT, or of several replicas. It does not wait for a connection.
func dial(addrs string) (*chartergate.Client, error) {
	for addr := range strings.SplitSeq(addrs, ",") {
		host, port, err := net.SplitHostPort(strings.TrimSpace(addr))
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || strings.Contains(host, "/") {
			return nil, usagef("--server is %q: write HOST:PORT, such as %s, or HOST:PORT,HOST:PORT for several replicas", addr, server.DefaultGRPCAddr)
		}
	}
	client, err := chartergate.Dial(addrs)
	if err != nil {
		return nil, usagef("--server is %q: write HOST:PORT, such as %s: %v", addrs, server.DefaultGRPCAddr, err)
	}
	return client, nil
}
