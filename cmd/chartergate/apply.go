package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/manifest"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newApplyCommand() *cobra.Command {
	var paths []string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "apply -f PATH...",
		Short: "Create or change what manifests say",
		Long: `Create or change charters, budgets, the catalog, price books and policies as YAML manifests say, and tell what changed.
A file is applied as a whole or not at all. Of a folder every *.yaml and *.yml is applied, in whatever order their
references ask for.

A manifest has one or more documents, each with its kind and the fields of the API in snake_case. Money is written in
units of the currency, as in "limit: 5000.00"; prices are per million units. examples/acme shows all of it, and
"chartergate get KIND -o yaml" writes manifests.`,
		Example: `  chartergate apply -f examples/acme --dry-run
  chartergate apply -f examples/acme
  chartergate get budgets -o yaml | sed 's/limit: 40.00/limit: 50.00/' | chartergate apply -f -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 && len(paths) == 0 {
				return usagef("give files with -f: chartergate apply -f %s", strings.Join(args, " "))
			}
			return nil
		},
	}
	c := addClientFlags(cmd)
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "manifest, folder of manifests, or - for the standard input; repeatable")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what would change")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(paths) == 0 || slices.Contains(paths, "") {
			return usagef("-f is required: name a manifest, a folder or -")
		}
		files, err := loadManifests(cmd, append(paths, args...)) // what a shell makes of `-f *.yaml`
		if err != nil {
			return err
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			apply := applyFiles
			if dryRun {
				apply = checkFiles
			}
			results, err := apply(ctx, client.Manifests, files)
			if err != nil && len(results) == 0 {
				return err
			}
			printErr := c.print(cmd.OutOrStdout(), &pb.ApplyResponse{Results: results}, func(w io.Writer) {
				writeResults(w, results, dryRun)
			})
			return errors.Join(err, printErr)
		})
	}
	return cmd
}

// loadManifests reads all paths. It tells every mistake, and refuses a resource that two of them have.
func loadManifests(cmd *cobra.Command, paths []string) ([]manifest.File, error) {
	var all []manifest.File
	var problems []error
	first := map[string]string{} // the file of each resource
	for _, path := range paths {
		files, err := loadManifest(cmd, path)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		for _, f := range files {
			for _, r := range f.Resources {
				if other, ok := first[manifest.Name(r)]; ok && other != f.Path {
					problems = append(problems, &manifest.Error{File: f.Path, Problem: manifest.Name(r) + " is in " + other + " too: remove one"})
				} else if ok {
					problems = append(problems, usagef("%s is named twice", f.Path))
					break
				}
			}
			for _, r := range f.Resources {
				first[manifest.Name(r)] = f.Path
			}
		}
		all = append(all, files...)
	}
	return all, errors.Join(problems...)
}

func loadManifest(cmd *cobra.Command, path string) ([]manifest.File, error) {
	if path != "-" {
		return manifest.Load(path)
	}
	f, err := manifest.Read(path, cmd.InOrStdin())
	return []manifest.File{f}, err
}

// applyFiles applies each file. One that refers to what is not there yet, or takes away what is still in use, is tried
// again after the others, until a round changes nothing. It goes on after a file that cannot be applied.
func applyFiles(ctx context.Context, client pb.ManifestServiceClient, files []manifest.File) ([]*pb.ApplyResult, error) {
	var results []*pb.ApplyResult
	var problems []error
	for left := files; len(left) > 0; {
		var later []manifest.File
		var reasons []error
		for _, f := range left {
			r, err := client.Apply(ctx, &pb.ApplyRequest{Resources: f.Resources})
			switch {
			case err == nil:
				results = append(results, r.GetResults()...)
				continue
			case chartergate.Reason(err) == "REFERENCE_MISSING", chartergate.Reason(err) == "IN_USE":
				later = append(later, f)
				reasons = append(reasons, fileError(f, err))
			default:
				problems = append(problems, fileError(f, err))
			}
		}
		if len(later) == len(left) || ctx.Err() != nil {
			problems = append(problems, reasons...)
			break
		}
		left = later
	}
	return results, errors.Join(problems...)
}

// mostAtOnce is how many resources one Apply takes.
const mostAtOnce = 1000

// checkFiles says what applying would change. The files are checked together, because nothing is there yet of what they
// refer to in one another.
func checkFiles(ctx context.Context, client pb.ManifestServiceClient, files []manifest.File) ([]*pb.ApplyResult, error) {
	var all []*pb.Resource
	for _, f := range files {
		all = append(all, f.Resources...)
	}
	if len(all) > mostAtOnce {
		return nil, fmt.Errorf("there are %d resources, and a dry run checks at most %d together: name fewer files", len(all), mostAtOnce)
	}
	r, err := client.Apply(ctx, &pb.ApplyRequest{Resources: all, ValidateOnly: true})
	return r.GetResults(), err
}

func fileError(f manifest.File, err error) error {
	name := f.Path
	if name == "-" {
		name = "the standard input"
	}
	return fmt.Errorf("%s was not applied: %w", name, err)
}

var actions = map[pb.ApplyAction]struct{ sign, color, word string }{
	pb.ApplyAction_APPLY_ACTION_CREATED:   {"+", green, "created"},
	pb.ApplyAction_APPLY_ACTION_UPDATED:   {"~", yellow, "updated"},
	pb.ApplyAction_APPLY_ACTION_UNCHANGED: {"=", "", "unchanged"},
}

// writeResults tells what became of each resource, and the count of each action.
func writeResults(w io.Writer, results []*pb.ApplyResult, dryRun bool) {
	paint := func(_, s string) string { return s }
	if isTerminal(w) && os.Getenv("NO_COLOR") == "" {
		paint = func(color, s string) string {
			if color == "" {
				return s
			}
			return "\x1b[" + color + "m" + s + "\x1b[0m"
		}
	}
	counts := map[pb.ApplyAction]int{}
	for _, r := range results {
		counts[r.GetAction()]++
		a := actions[r.GetAction()]
		fmt.Fprintln(w, paint(a.color, a.sign+" "+r.GetName()+" "+a.word))
		for _, ch := range r.GetChanges() {
			name, show := changed(ch.GetPath())
			fmt.Fprintf(w, "    %s: %s -> %s\n", visible(name), visible(show(ch.GetOldValue())), visible(show(ch.GetNewValue())))
		}
	}
	end := ""
	if dryRun {
		end = " (dry run: nothing was changed)"
	}
	fmt.Fprintf(w, "%d created, %d updated, %d unchanged%s\n", counts[pb.ApplyAction_APPLY_ACTION_CREATED],
		counts[pb.ApplyAction_APPLY_ACTION_UPDATED], counts[pb.ApplyAction_APPLY_ACTION_UNCHANGED], end)
}

// changed gives the name of a changed field as a manifest has it, and how to show its values: money in units of the
// currency.
func changed(path string) (name string, show func(string) string) {
	field, key := path, ""
	if i := strings.LastIndexByte(path, '['); strings.HasSuffix(path, "]") {
		field, key = path[:i], path[i:]
	}
	short, isMoney := strings.CutSuffix(field, "_nanos")
	return short + key, func(value string) string {
		if value == "" {
			return "(none)"
		}
		if n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64); err == nil && isMoney {
			return money.Nanos(n).String()
		}
		return value
	}
}
