package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// slicesByTime puts revisions in the order in which they were stored, the latest first.
func slicesByTime(all []*pb.PolicyRevision) {
	slices.SortStableFunc(all, func(a, b *pb.PolicyRevision) int {
		return b.GetCreateTime().AsTime().Compare(a.GetCreateTime().AsTime())
	})
}

// printRevision writes what is known of a revision, and its files.
func printRevision(w io.Writer, v *pb.PolicyRevision) {
	var f facts
	f.add("revision", v.GetName())
	f.add("active", map[bool]string{true: "yes", false: "no"}[v.GetActive()])
	f.add("created", timeText(v.GetCreateTime()))
	f.add("author", v.GetAuthor())
	f.add("message", v.GetMessage())
	if n := v.GetTests(); n > 0 {
		f.add("tests", plural(int64(n), "passed", "passed"))
	}
	f.write(w)
	for _, name := range slices.Sorted(maps.Keys(v.GetModules())) {
		fmt.Fprintf(w, "\n--- %s\n", visible(name))
		for line := range strings.Lines(v.GetModules()[name]) {
			fmt.Fprintln(w, strings.ReplaceAll(visible(strings.TrimRight(line, "\r\n")), `\t`, "\t"))
		}
	}
}

func newPolicyDiffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff A [B]",
		Short: "Show how two policies differ, file by file",
		Long: `Show how the files of A become those of B. Each is a folder, a revision by its name, its hash or the start of it, or a
policy, which stands for its active revision. Without B, how the active revision of --policy becomes A.`,
		Example: `  chartergate policy diff ./routing
  chartergate policy diff 5f2a77c0 --policy team.support
  chartergate policy diff policies/team.support/revisions/5f2a77c0d1e94b36 team.support`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return usagef("write A [B]: folders, revisions or policies")
			}
			return nil
		},
	}
	c := addClientFlags(cmd)
	in := addPolicyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if c.output != "table" {
			return usagef("policy diff has one form of output: leave -o out")
		}
		parent, err := policyName(*in)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			args = []string{parent, args[0]}
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			var sides [2]map[string]string
			var names [2]string
			for i, arg := range args {
				if sides[i], names[i], err = side(ctx, client, parent, arg); err != nil {
					return err
				}
			}
			text := diffModules(names, sides)
			if text == "" {
				text = fmt.Sprintf("%s and %s have the same files.\n", names[0], names[1])
			}
			_, err := io.WriteString(cmd.OutOrStdout(), text)
			return err
		})
	}
	return cmd
}

// side gives the modules of a folder, revision or policy, and what to call it.
func side(ctx context.Context, client *chartergate.Client, parent, arg string) (map[string]string, string, error) {
	if info, err := os.Stat(arg); err == nil && info.IsDir() {
		modules, err := readPolicyDir(arg)
		return modules, arg, err
	}
	v, err := revisionOf(ctx, client, parent, arg)
	return v.GetModules(), v.GetName(), err
}

// diffModules is a unified diff, file by file in the order of their names; empty where nothing differs.
func diffModules(names [2]string, sides [2]map[string]string) string {
	files := map[string]bool{}
	for _, modules := range sides {
		for file := range modules {
			files[file] = true
		}
	}
	var b strings.Builder
	for _, file := range slices.Sorted(maps.Keys(files)) {
		var labels [2]string
		for i, modules := range sides {
			labels[i] = names[i] + "/" + file
			if _, ok := modules[file]; !ok {
				labels[i] = "/dev/null"
			}
		}
		for line := range strings.Lines(udiff.Unified(labels[0], labels[1], sides[0][file], sides[1][file])) {
			b.WriteString(strings.ReplaceAll(visible(strings.TrimRight(line, "\r\n")), `\t`, "\t"))
			b.WriteByte('\n')
		}
	}
	return b.String()
}
