package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/policy"
)

func newPolicyTestCommand() *cobra.Command {
	var run, output string
	var coverage, verbose bool
	var threshold int
	cmd := &cobra.Command{
		Use:   "test DIR",
		Short: "Run the tests of a policy in a directory",
		Long: `Compile a policy as an upload does and run its tests: the rules that begin with test_ in files that end in _test.rego. They
may call what a policy may call, and each is cut off after ` + policy.TestLimit.String() + `. No server is needed.`,
		Example: `  chartergate policy test ./policy
  chartergate policy test ./policy --run interns
  chartergate policy test ./policy --threshold 80`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			if threshold < 0 || threshold > 100 {
				return usagef("--threshold %d: use 0 to 100 percent", threshold)
			}
			o := policy.TestOptions{Coverage: coverage || threshold > 0}
			if run != "" {
				var err error
				if o.Run, err = regexp.Compile(run); err != nil {
					return usagef("--run: %v", err)
				}
			}
			modules, err := readPolicyDir(args[0])
			if err != nil {
				return err
			}
			report, err := policy.Test(cmd.Context(), modules, o)
			if err != nil {
				return err
			}
			switch w := cmd.OutOrStdout(); {
			case len(report.Tests) == 0:
			case output == "json":
				err = writeTestsJSON(w, report)
			default:
				writeTests(w, report, verbose)
			}
			if err != nil {
				return err
			}
			switch failed := len(report.Failed()); {
			case len(report.Tests) == 0 && run != "":
				return fmt.Errorf("no test matches --run %s", run)
			case len(report.Tests) == 0:
				return fmt.Errorf("%s has no tests: write rules that begin with test_ into a file that ends in _test.rego", args[0])
			case failed > 0:
				return fmt.Errorf("%d of %s", failed, countText(len(report.Tests), "test fails", "tests fail"))
			}
			if c := report.Coverage; c != nil && c.Permille() < threshold*10 {
				return fmt.Errorf("the tests cover %s of the lines, less than the %d%% of --threshold", percentText(c.Permille()), threshold)
			}
			return nil
		},
	}
	oneDir(cmd)
	fl := cmd.Flags()
	fl.StringVar(&run, "run", "", "only tests whose name matches this regular expression")
	fl.BoolVar(&coverage, "coverage", false, "tell which lines no test evaluates")
	fl.IntVar(&threshold, "threshold", 0, "fail where the tests cover less than this many percent of the lines")
	fl.BoolVarP(&verbose, "verbose", "v", false, "list the tests that pass, too")
	addOutputFlag(cmd, &output, "table", "json")
	return cmd
}

func countText(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(int64(n)) + " " + many
}

func percentText(permille int) string {
	return fmt.Sprintf("%d.%d%%", permille/10, permille%10)
}

func writeTests(w io.Writer, r *policy.TestReport, verbose bool) {
	passed, skipped := 0, 0
	g := newGrid("TEST", "PLACE", "RESULT", ">TIME", "PROBLEM")
	for _, t := range r.Tests {
		result := "failed"
		switch {
		case t.Passed:
			passed, result = passed+1, "passed"
		case t.Skipped:
			skipped, result = skipped+1, "skipped"
		}
		if verbose || !t.Passed {
			g.add(t.Name, fmt.Sprintf("%s:%d", t.File, t.Line), result, fmt.Sprintf("%.1f ms", float64(t.Duration)/1e6), t.Problem)
		}
	}
	g.write(w, "")
	line := countText(len(r.Tests), "test", "tests") + fmt.Sprintf(": %d passed, %d failed", passed, len(r.Failed()))
	if skipped > 0 {
		line += fmt.Sprintf(", %d skipped", skipped)
	}
	fmt.Fprintln(w, line)
	if r.Coverage == nil {
		return
	}
	fmt.Fprintln(w)
	g = newGrid("FILE", ">LINES", ">COVERED", "NOT COVERED")
	for _, f := range r.Coverage.Files {
		g.add(f.File, strconv.Itoa(f.Lines), percentText(f.Permille()), rangesText(f.Uncovered))
	}
	g.add("all", strconv.Itoa(r.Coverage.Lines), percentText(r.Coverage.Permille()), "")
	g.write(w, "")
}

func rangesText(ranges []policy.LineRange) string {
	list := make([]string, len(ranges))
	for i, r := range ranges {
		list[i] = strconv.Itoa(r.From)
		if r.To > r.From {
			list[i] += "-" + strconv.Itoa(r.To)
		}
	}
	return strings.Join(list, ", ")
}

func writeTestsJSON(w io.Writer, r *policy.TestReport) error {
	type test struct {
		Name    string `json:"name"`
		File    string `json:"file"`
		Line    int    `json:"line"`
		Passed  bool   `json:"passed"`
		Skipped bool   `json:"skipped,omitempty"`
		Problem string `json:"problem,omitempty"`
		Nanos   int64  `json:"duration_nanos"`
	}
	type file struct {
		File      string `json:"file"`
		Lines     int    `json:"lines"`
		Covered   int    `json:"covered_lines"`
		Uncovered []int  `json:"uncovered_ranges"` // first and last line in turn
	}
	out := struct {
		Tests    []test `json:"tests"`
		Coverage *int   `json:"coverage_permille,omitempty"`
		Files    []file `json:"files,omitempty"`
	}{Tests: []test{}}
	for _, t := range r.Tests {
		out.Tests = append(out.Tests, test{t.Name, t.File, t.Line, t.Passed, t.Skipped, t.Problem, t.Duration.Nanoseconds()})
	}
	if c := r.Coverage; c != nil {
		permille := c.Permille()
		out.Coverage = &permille
		for _, f := range c.Files {
			entry := file{f.File, f.Lines, f.Covered, []int{}}
			for _, u := range f.Uncovered {
				entry.Uncovered = append(entry.Uncovered, u.From, u.To)
			}
			out.Files = append(out.Files, entry)
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// maxFormatted bounds the files that are formatted at once: a directory can have several policies.
const maxFormatted = 10_000

func newPolicyFmtCommand() *cobra.Command {
	var write, check bool
	cmd := &cobra.Command{
		Use:   "fmt DIR",
		Short: "Format the Rego of a policy in a directory",
		Long:  `Format files of Rego as ` + "`opa fmt`" + ` does. Without a flag it lists the files that are not formatted.`,
		Example: `  chartergate policy fmt ./policy --write
  chartergate policy fmt ./policy --check`,
		RunE: func(cmd *cobra.Command, args []string) error {
			modules, err := readRego(args[0], maxFormatted)
			if err != nil {
				return err
			}
			changed, err := policy.Format(modules)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			for _, f := range changed {
				path := filepath.Join(args[0], filepath.FromSlash(f.Name))
				if write {
					if err := replaceFile(path, f.Text); err != nil {
						return err
					}
				}
				fmt.Fprintln(w, path)
			}
			if check && len(changed) > 0 {
				return fmt.Errorf("%s not formatted: `chartergate policy fmt %s --write` does it", countText(len(changed), "file is", "files are"), args[0])
			}
			return nil
		},
	}
	oneDir(cmd)
	cmd.Flags().BoolVarP(&write, "write", "w", false, "write the formatted files back, and list them")
	cmd.Flags().BoolVar(&check, "check", false, "fail where a file is not formatted")
	cmd.MarkFlagsMutuallyExclusive("write", "check")
	return cmd
}

// replaceFile writes a file anew, so that a reader or a crash sees the old text or the new one.
func replaceFile(path, text string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, []byte(text), info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(next, path)
}
