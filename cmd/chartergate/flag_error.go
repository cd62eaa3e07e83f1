package main

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError says in plain words why the value of a flag cannot be.
func flagError(_ *cobra.Command, err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	name, value, kind := invalid.GetFlag().Name, invalid.GetValue(), invalid.GetFlag().Value.Type()
	switch {
	case errors.Is(err, strconv.ErrRange):
		return usagef("--%s is %s: that is too large", name, value)
	case kind == "intSlice":
		return usagef("--%s is %q: write whole numbers with commas between, such as 100,10000", name, value)
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return usagef("--%s is %q: write a whole number in digits alone, such as 1200", name, value)
	case kind == "duration":
		return usagef("--%s is %q: write a duration, such as 90s, 5m or 24h", name, value)
	case kind == "bool":
		return usagef("--%s is %q: write true or false", name, value)
	}
	return usagef("--%s: %v", name, errors.Unwrap(invalid))
}
