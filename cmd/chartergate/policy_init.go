package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/policy/scaffold"
)

func newPolicyInitCommand() *cobra.Command {
	refresh := false
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a policy to start from, with tests",
		Long: `Write a policy to start from: Rego with tests and configuration, a README with the commands of its life, and, hidden, the
library, schemas and settings that OPA and editors need. It can be stored as it is. --policy says what it will be attached to:
the organisation's begins with the set that ships with the server, that of a team or feature narrows what is above it.
Files that are there are never overwritten.`,
		Example: `  chartergate policy init ./routing
  chartergate policy init ./support --policy team.support
  chartergate policy init ./routing --refresh`,
	}
	oneDir(cmd)
	in := addPolicyFlag(cmd)
	cmd.Flags().BoolVar(&refresh, "refresh", false, "only write "+scaffold.ToolsDir+" anew, as after an upgrade of this program")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := policyName(*in)
		if err != nil {
			return err
		}
		dir, w := args[0], cmd.OutOrStdout()
		if refresh {
			if err := refreshTools(dir); err != nil {
				return err
			}
			fmt.Fprintf(w, "~ %s written anew\n", filepath.Join(dir, scaffold.ToolsDir))
			return nil
		}
		if err := writeNew(dir, scaffold.Files(bareID(name))); err != nil {
			return err
		}
		g := newGrid("FILE", "WHAT IT IS")
		for _, f := range [][2]string{
			{"routing.rego", "the policy"}, {"routing_test.rego", "its tests"}, {"data.json", "its configuration"},
			{"README.md", "the commands of its life"}, {scaffold.ToolsDir, "library and schemas, for OPA and editors"},
			{".vscode", "settings of the extension Open Policy Agent"}, {".regal", "settings of the linter Regal"},
		} {
			g.add(filepath.Join(dir, f[0]), f[1])
		}
		g.write(w, "")
		policyFlag := ""
		if *in != "routing" {
			policyFlag = " --policy " + bareID(name)
		}
		fmt.Fprintf(w, "\nNext:\n  chartergate policy test %[1]s --coverage\n  chartergate policy create %[1]s%[2]s --message \"why\"\n", shellWord(dir), policyFlag)
		return nil
	}
	return cmd
}

// writeNew writes files below a directory, all or none, and none where one of them is there.
func writeNew(dir string, files map[string]string) (err error) {
	hidden := func(name string) int { return map[bool]int{true: 1}[strings.HasPrefix(name, ".")] }
	names := slices.SortedFunc(maps.Keys(files), func(a, b string) int { // the hidden ones last: people know the others
		return cmp.Or(hidden(a)-hidden(b), strings.Compare(a, b))
	})
	for _, name := range names {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s is there and would be overwritten: name another directory, or remove it; --refresh writes only %s anew", path, scaffold.ToolsDir)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var made []string
	defer func() {
		if err != nil {
			for _, path := range slices.Backward(made) {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	for _, name := range names {
		path := filepath.Join(dir, filepath.FromSlash(name))
		folders, err := makeFolders(filepath.Dir(path))
		made = append(made, folders...)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		made = append(made, path)
		_, err = f.WriteString(files[name])
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// makeFolders makes a directory and those above it, and gives those that were not there, the highest first.
func makeFolders(path string) (made []string, err error) {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if made, err = makeFolders(filepath.Dir(path)); err != nil {
		return made, err
	}
	if err := os.Mkdir(path, 0o777); err != nil {
		return made, err
	}
	return append(made, path), nil
}

// refreshTools replaces the hidden directory of a policy.
func refreshTools(dir string) error {
	tools := filepath.Join(dir, scaffold.ToolsDir)
	if _, err := os.Stat(tools); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s: `chartergate policy init %s` makes a policy to start from", tools, shellWord(dir))
	} else if err != nil {
		return err
	}
	next, err := os.MkdirTemp(dir, scaffold.ToolsDir+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(next) // what it replaced, in the end
	if err := writeNew(next, scaffold.Tools()); err != nil {
		return err
	}
	if err := os.Rename(tools, filepath.Join(next, "old")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(next, scaffold.ToolsDir), tools)
}

// shellWord is a word as a shell takes it.
func shellWord(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n\"'\\$`&|;<>()*?[]#~!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
