package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// maxRawUsage is what the server takes of a provider's JSON.
const maxRawUsage = 64 << 10

type rawUsageFlags struct{ file, provider, api string }

// addRawUsageFlags adds the flags that give usage as its provider said it, instead of the flags of addUsageFlags.
func addRawUsageFlags(cmd *cobra.Command) *rawUsageFlags {
	r := new(rawUsageFlags)
	f := cmd.Flags()
	f.StringVar(&r.file, "raw-usage", "", "file with the provider's usage object, response or stream, instead of counts; - is standard input")
	f.StringVar(&r.provider, "provider", "", "provider of --raw-usage, such as openai, anthropic, google or aws")
	f.StringVar(&r.api, "api", "", "API that --raw-usage comes from, such as chat, responses or converse (default told by its fields)")
	return r
}

// read gives the raw usage, nil where there is none.
func (r *rawUsageFlags) read(cmd *cobra.Command, used usageFlags) (*pb.RawUsage, error) {
	if r.file == "" {
		if r.provider+r.api != "" {
			return nil, usagef("--provider and --api are for --raw-usage: name its file, or leave them out")
		}
		return nil, nil
	}
	var twice error
	used.flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			twice = usagef("--%s and --raw-usage say the same twice: give one", f.Name)
		}
	})
	if twice != nil {
		return nil, twice
	}
	data, err := readLimited(cmd.InOrStdin(), r.file, maxRawUsage)
	if errors.Is(err, errTooLarge) {
		return nil, errors.New(r.file + " has more than 64 KiB: cut it down to its usage object")
	}
	if err != nil {
		return nil, err
	}
	return chartergate.RawUsage(r.provider, r.api, data), nil
}

var errTooLarge = errors.New("too large")

// readLimited reads a file, or standard input for -, of at most limit bytes. Error: errTooLarge.
func readLimited(in io.Reader, file string, limit int64) ([]byte, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errTooLarge
	}
	return data, err
}
