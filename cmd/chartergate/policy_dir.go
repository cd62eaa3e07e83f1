package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/policy"
)

// dataFile is what Rego sees as `data`.
const dataFile = "data.json"

// readPolicyDir reads the files of a policy: *.rego below a directory, tests among them, and its data.json, by path with
// slashes. Hidden files and directories are left out.
func readPolicyDir(dir string) (map[string]string, error) {
	return readRego(dir, policy.MaxModules)
}

// readRego is readPolicyDir for at most so many files.
func readRego(dir string, most int) (map[string]string, error) {
	modules := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := path != dir && strings.HasPrefix(e.Name(), ".")
		switch {
		case e.IsDir() && hidden:
			return fs.SkipDir
		case e.IsDir() || hidden:
			return nil
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if !strings.HasSuffix(name, ".rego") && name != dataFile {
			return nil
		}
		if len(modules) == most {
			return fmt.Errorf("%s has more than %d files: a policy has at most %d", dir, most, policy.MaxModules)
		}
		modules[name], err = readModule(path)
		return err
	})
	var missing *fs.PathError
	switch {
	case errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no directory %s: `chartergate policy init %s` makes one", dir, dir)
	case err != nil:
		return nil, err
	case len(modules) == 0:
		return nil, fmt.Errorf("%s has no file of Rego: `chartergate policy init` makes a policy to start from", dir)
	}
	return modules, nil
}

// readUpload reads a policy that a server is to get: text within the limits of sizes.
func readUpload(dir string) (map[string]string, error) {
	modules, err := readPolicyDir(dir)
	if err != nil {
		return nil, err
	}
	return modules, policy.CheckFiles(modules)
}

// readModule reads a file of a policy.
func readModule(path string) (string, error) {
	text, err := readLimited(nil, path, policy.MaxModuleBytes)
	if errors.Is(err, errTooLarge) {
		return "", fmt.Errorf("%s is larger than %d bytes: a file of a policy has at most that many", path, policy.MaxModuleBytes)
	}
	return string(text), err
}

// oneDir takes one argument, a directory.
func oneDir(cmd *cobra.Command) {
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return usagef("name one directory: %s", cmd.UseLine())
		}
		return nil
	}
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
}

func addOutputFlag(cmd *cobra.Command, output *string, formats ...string) {
	cmd.Flags().StringVarP(output, "output", "o", formats[0], strings.Join(formats, " or "))
	completeFlag(cmd, "output", func() []string { return formats })
}

func checkOutput(output string, formats ...string) error {
	if !slices.Contains(formats, output) {
		return usagef("unknown output %q: use %s", output, strings.Join(formats, " or "))
	}
	return nil
}
