package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/connectivity"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/server"
)

// clientFlags are the flags of every command that talks to a server.
type clientFlags struct {
	server, output string
	timeout        time.Duration
}

func addClientFlags(cmd *cobra.Command) *clientFlags {
	c := &clientFlags{}
	cmd.Flags().StringVar(&c.server, "server", server.DefaultGRPCAddr, "gRPC address of the server")
	cmd.Flags().StringVarP(&c.output, "output", "o", "table", strings.Join(outputs, ", "))
	cmd.Flags().DurationVar(&c.timeout, "timeout", 30*time.Second, "how long to wait for the server")
	complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return outputs, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err)
	}
	return c
}

// call connects and calls f. A server that is not there is told at once, and not after the time-out.
func (c *clientFlags) call(cmd *cobra.Command, f func(context.Context, *chartergate.Client) error) error {
	if !slices.Contains(outputs, c.output) {
		return usagef("unknown output %q: use %s", c.output, strings.Join(outputs, ", "))
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()
	client, err := chartergate.Dial(c.server)
	if err != nil {
		return usagef("--server %q is not an address: %v", c.server, err)
	}
	defer client.Close()
	conn := client.Conn()
	for conn.Connect(); ; {
		state := conn.GetState()
		if state == connectivity.Ready {
			return f(ctx, client)
		}
		if state == connectivity.TransientFailure || !conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("no server answers at %s: start one with `chartergate serve`, or name another with --server", c.server)
		}
	}
}
