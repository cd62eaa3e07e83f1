// Package vetting compiles and tests policies of others in a child process, which has limits of time and memory and
// nothing to get at.
package vetting

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/chartergate/chartergate/policy"
)

// Limits of one vetting.
const (
	DefaultCPU    = 10 * time.Second
	DefaultWall   = time.Minute // more than the processor time: the child runs when nobody else wants to
	DefaultMemory = 1 << 30     // bytes of address space beyond that of the idle process
	maxAnswer     = 4 << 20     // what gRPC takes, of which the answer is less
	maxAtOnce     = 2           // further ones wait
)

// CostlyError says that vetting a policy took more than it may.
type CostlyError struct {
	Limit   string // such as 10s or 1GiB
	Problem string
}

func (e *CostlyError) Error() string { return e.Problem }

// Vetter vets in children of a command that calls Child, such as this program's hidden command. Make one with New.
type Vetter struct {
	CPU, Wall time.Duration // 0: the defaults
	Memory    int64         // 0: DefaultMemory
	// Observe is told what a child used: processor time, and the most memory in bytes. nil: nobody is.
	Observe func(cpu time.Duration, memory int64)
	command []string
	slots   chan struct{}
}

// New makes a vetter. The command is started for each policy, without an environment.
func New(command ...string) *Vetter {
	return &Vetter{command: command, slots: make(chan struct{}, maxAtOnce)}
}

// job is what the child is given, as JSON.
type job struct {
	Modules map[string]string
	Report  bool // asks for a report of the tests, not for a verdict
	CPU     time.Duration
	Wall    time.Duration
	Memory  int64
}

// tested is the child's answer to a job with Report: either is set.
type tested struct {
	Report   *policy.TestReport
	Problems []policy.Problem
}

// Vet vets a policy. Errors: *CostlyError, ctx's own, and what keeps a child from running.
func (v *Vetter) Vet(ctx context.Context, modules map[string]string) (*policy.Verdict, error) {
	if bad, ok := errors.AsType[*policy.InvalidError](policy.CheckFiles(modules)); ok {
		return &policy.Verdict{Problems: bad.Problems}, nil
	}
	verdict := new(policy.Verdict)
	if err := v.child(ctx, job{Modules: modules}, verdict); err != nil {
		return nil, err
	}
	if verdict.Costly != "" {
		return nil, &CostlyError{policy.EvaluationLimit.String(), verdict.Costly}
	}
	return verdict, nil
}

// Test runs the tests of a policy, with their coverage. Errors: *policy.InvalidError, *CostlyError, ctx's own, and what
// keeps a child from running.
func (v *Vetter) Test(ctx context.Context, modules map[string]string) (*policy.TestReport, error) {
	if err := policy.CheckFiles(modules); err != nil {
		return nil, err
	}
	var answer tested
	if err := v.child(ctx, job{Modules: modules, Report: true}, &answer); err != nil {
		return nil, err
	}
	if answer.Report == nil {
		return nil, &policy.InvalidError{Problems: answer.Problems}
	}
	return answer.Report, nil
}

// child has a child do a job and decodes its answer.
func (v *Vetter) child(ctx context.Context, j job, answer any) error {
	select {
	case v.slots <- struct{}{}:
		defer func() { <-v.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	j.CPU, j.Wall, j.Memory = cmp.Or(v.CPU, DefaultCPU), cmp.Or(v.Wall, DefaultWall), cmp.Or(v.Memory, DefaultMemory)
	input, err := json.Marshal(&j)
	if err != nil {
		return err
	}
	deadline, cancel := context.WithTimeoutCause(ctx, j.Wall+time.Second, errWall) // the child ends itself before
	defer cancel()
	cmd := exec.CommandContext(deadline, v.command[0], v.command[1:]...)
	// An empty environment but for how the runtime manages memory: the collector works before the limit is reached.
	cmd.Env = []string{"GOTRACEBACK=none", "GOMAXPROCS=1", fmt.Sprintf("GOMEMLIMIT=%d", j.Memory/2)}
	cmd.Dir, cmd.Stdin, cmd.WaitDelay = os.TempDir(), bytes.NewReader(input), time.Second
	out, log := &limited{most: maxAnswer}, &limited{most: 8 << 10}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, log, childAttributes()
	err = run(cmd)
	if v.Observe != nil && cmd.ProcessState != nil {
		v.Observe(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), mostMemory(cmd.ProcessState))
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return j.why(cmd, err, log.kept.String(), deadline.Err() != nil)
	}
	if out.over {
		return &CostlyError{size(maxAnswer), "what there is to say of the tests takes more than " + size(maxAnswer) + ": write fewer"}
	}
	if err := json.Unmarshal(out.kept.Bytes(), answer); err != nil {
		return fmt.Errorf("vetting: the child's answer: %w", err)
	}
	return nil
}

var errWall = errors.New("the time for vetting is over")

// run runs the child from a thread that lives as long as it does: the kernel ends the child with the thread.
func run(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	return <-done
}

// why tells a limit from a fault by how the child ended.
func (j *job) why(cmd *exec.Cmd, err error, log string, late bool) error {
	switch code := cmd.ProcessState; {
	case code == nil:
		return fmt.Errorf("vetting: %w", err)
	case late || code.ExitCode() == exitWall:
		return &CostlyError{j.Wall.String(), fmt.Sprintf("compiling and testing the policy took longer than %s", j.Wall)}
	case strings.Contains(log, "out of memory") || strings.Contains(log, "cannot allocate"):
		return &CostlyError{size(j.Memory), "compiling and testing the policy took more than " + size(j.Memory) + " of memory"}
	case strings.Contains(log, "stack overflow") || strings.Contains(log, "stack exceeds"):
		return &CostlyError{size(maxStack), "compiling and testing the policy took more than " + size(maxStack) + " of stack"}
	case spent(code, j.CPU):
		return &CostlyError{j.CPU.String(), fmt.Sprintf("compiling and testing the policy took more than %s of processor time", j.CPU)}
	}
	first, _, _ := strings.Cut(log, "\n")
	return fmt.Errorf("vetting: the child: %w: %s", err, first)
}

func size(n int64) string {
	if n >= 1<<30 && n%(1<<30) == 0 {
		return fmt.Sprintf("%d GiB", n>>30)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// limited keeps the first bytes that are written to it. The buffer is no embedded one, whose ReadFrom would keep all.
type limited struct {
	kept bytes.Buffer
	most int
	over bool // there was more
}

func (l *limited) Write(p []byte) (int, error) {
	room := l.most - l.kept.Len()
	l.over = l.over || len(p) > room
	l.kept.Write(p[:min(len(p), room)])
	return len(p), nil
}

// exitWall is the exit status of a child whose time is over.
const exitWall = 75

// maxStack is an eighth of what the server has: what it compiles was compiled here before.
const maxStack = 128 << 20

// Child is the child's part: it takes a policy from in, as JSON, and writes the verdict, or the report of its tests, to
// out. It ends the process when a limit is reached.
func Child(in io.Reader, out io.Writer) error {
	var j job
	if err := json.NewDecoder(io.LimitReader(in, 32<<20)).Decode(&j); err != nil {
		return fmt.Errorf("vetting: %w", err)
	}
	if err := confine(&j); err != nil {
		return fmt.Errorf("vetting: %w", err)
	}
	time.AfterFunc(j.Wall, func() { os.Exit(exitWall) })
	var answer any
	if j.Report {
		report, err := policy.Test(context.Background(), j.Modules, policy.TestOptions{Coverage: true})
		bad, ok := errors.AsType[*policy.InvalidError](err)
		switch {
		case ok:
			answer = tested{Problems: bad.Problems}
		case err != nil:
			return fmt.Errorf("vetting: %w", err)
		default:
			answer = tested{Report: report}
		}
	} else {
		answer = policy.Vet(context.Background(), j.Modules)
	}
	return json.NewEncoder(out).Encode(answer)
}
