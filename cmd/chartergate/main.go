// Command chartergate is the gate every AI call passes before it spends: the server and everything to talk to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit statuses.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2 // the command line is wrong; nothing was done
	exitRefused = 3 // the gate throttled or denied the call
)

func main() { os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// execute runs a command line and gives its exit status.
func execute(args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	written := &output{Writer: out}
	root.SetOut(written)
	root.SetErr(errs)
	started := noteStart(root)
	cmd, err := root.ExecuteContextC(context.Background())
	if failed := written.failed(); failed != nil && (err == nil || errors.As(err, new(*refusedError)) || errors.Is(err, failed)) {
		fmt.Fprintln(errs, "chartergate: the answer could not be written:", failed)
		return exitFailed
	}
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[*refusedError](err); ok {
		return exitRefused
	}
	for line := range strings.SplitSeq(explain(err), "\n") {
		fmt.Fprintln(errs, "chartergate:", visible(line))
	}
	if _, ok := errors.AsType[*usageError](err); ok || !*started {
		fmt.Fprintf(errs, "chartergate: see `%s --help`\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// output remembers the first error of a writer, so that no command needs to look after each line.
type output struct {
	io.Writer
	mu  sync.Mutex
	err error
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.Writer.Write(p)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// noteStart tells whether a command began its work: an error before that is one of the command line.
func noteStart(root *cobra.Command) *bool {
	started := new(bool)
	var wrap func(*cobra.Command)
	wrap = func(c *cobra.Command) {
		if work := c.RunE; work != nil {
			c.RunE = func(cmd *cobra.Command, args []string) error {
				*started = true
				return work(cmd, args)
			}
		}
		for _, sub := range c.Commands() {
			wrap(sub)
		}
	}
	wrap(root)
	return started
}

// usageError says that the command line cannot be meant as it is.
type usageError struct{ problem string }

func (e *usageError) Error() string { return e.problem }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// refusedError says that the gate refused a call. The decision is printed; there is nothing to add.
type refusedError struct{}

func (*refusedError) Error() string { return "the call was refused" }

// explain is an error for people: without the names of gRPC, one line for each of joined errors.
func explain(err error) string {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		var texts, lines []string
		for _, e := range several.Unwrap() {
			texts = append(texts, e.Error())
			lines = append(lines, explain(e))
		}
		if strings.Join(texts, "\n") == err.Error() { // joined, and not one error with several causes
			return strings.Join(lines, "\n")
		}
	}
	answer, ok := errors.AsType[grpcError](err)
	if !ok {
		return err.Error()
	}
	s := answer.GRPCStatus()
	text := s.Message()
	switch s.Code() {
	case codes.DeadlineExceeded:
		text = "the server did not answer in time: try again, or give it longer with --timeout"
	case codes.Unavailable:
		text = "the server is not available (" + text + "): try again when `chartergate serve` is running"
	case codes.Unimplemented:
		text = "the server cannot do that (" + text + "): it may be of another version"
	}
	return strings.Replace(err.Error(), answer.Error(), text, 1)
}

type grpcError interface {
	error
	GRPCStatus() *status.Status
}
