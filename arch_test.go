package chartergate_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/chartergate/chartergate/"

// rule says what a folder's packages may import beyond the standard library and their own folder, and why.
type rule struct {
	folder string
	may    []string
	why    string
}

const generated = module + "proto/gen/go/chartergate/v1"

// The first rule whose folder fits a package applies.
var rules = []rule{
	{"core", nil, "what the business means must be readable and testable alone"},
	{"proto/gen", []string{"buf.build/gen", "github.com/planetscale/vtprotobuf", "google.golang.org", "github.com/grpc-ecosystem/grpc-gateway"}, "generated code knows nothing of ours"},
	{"proto/convert", []string{module + "core", module + "proto/gen", "google.golang.org/protobuf"}, "one place turns the contract into core and back"},
	{"proto/codec", []string{generated, "google.golang.org"}, "how messages are encoded is the same for client and server"},
	{"store/etcd", []string{module + "core", module + "store", module + "proto", "go.etcd.io/etcd", "google.golang.org", "go.uber.org/zap"},
		"only this folder knows etcd's client and the records in it"},
	{"store/dirlock", []string{"golang.org/x/sys"}, "one lock for every directory that a process has to itself"},
	{"store/embedded", []string{"go.etcd.io/etcd", "go.uber.org/zap", module + "store"}, "starts etcd and knows nothing of what is kept in it"},
	{"store/storetest", []string{module + "core", module + "store", module + "proto", "google.golang.org/protobuf"},
		"one suite for every store; it fills records by their contract"},
	{"store/sql", []string{module + "core", module + "store", "github.com/jackc/pgx", "modernc.org/sqlite"}, "only this folder knows SQL"},
	{"store", []string{module + "core", module + "store"}, "the promises of a store are in the words of core"},
	{"policy", []string{module + "core", "github.com/open-policy-agent/opa"}, "only this folder knows Rego"},
	{"server/preflight", []string{module + "core", module + "store"},
		"the use case knows no protobuf, no etcd and no OPA: it declares the small interfaces that it needs"},
	{"server", []string{module + "core", module + "store", module + "billing", module + "server", module + "proto", "google.golang.org",
		"github.com/grpc-ecosystem/grpc-gateway", "buf.build/go/protovalidate", "github.com/prometheus", "go.opentelemetry.io", "golang.org/x/net"},
		"handlers convert, call, convert; storage and Rego are injected"},
	{"clients/go", []string{generated, module + "proto/codec", module + "proto/convert", module + "core/complexity", module + "core/money", module + "core/pricing", module + "core/routing", module + "core/usage", "google.golang.org"},
		"a client's users must not carry the server; leased calls are priced in the client by the server's own arithmetic"},
	{"billing", []string{module + "core", module + "store", "github.com/parquet-go/parquet-go", "golang.org/x/text"}, "bills are read and kept without knowing a database or a server"},
	{"manifest", []string{module + "core/money", module + "proto/gen", "google.golang.org/protobuf", "buf.build/go/protovalidate", "go.yaml.in/yaml"},
		"manifests are another form of the contract"},
	{"prices", []string{module + "core"}, "published lists are turned into the prices of core, without a server"},
	{"replay", []string{module + "core/money", module + "core/usage", module + "clients/go", module + "proto/gen", "google.golang.org", "golang.org/x"},
		"a load is a client like any other"},
	{"calibrate", []string{module + "core", "github.com/prometheus"},
		"a calibration reads the APIs of Prometheus and OpenCost and gives a price; who keeps it is another's business"},
	{"chaos/oracle", []string{module + "proto/gen/go/chartergate/store", module + "store/archive", "google.golang.org/protobuf", "go.etcd.io/etcd/client", "github.com/anishathalye/porcupine"},
		"a judge shares no code with what it judges but the messages of the records"},
	{"chaos", nil, "tests only"},
	{"examples", nil, "data"},
	{"internal/dataset", nil, "tests only: where the public data is"},
	{"sim", nil, "tests only: it puts the production code into a simulated world"},
	{"cmd", []string{""}, "wiring: the only place that may import everything"},
}

func TestImportsPointInward(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, e.Stderr)
		}
		t.Fatal(err)
	}
	packages := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		folder, inside := strings.CutPrefix(p.ImportPath, module)
		if !inside {
			continue // the module's root, which has tests only
		}
		packages++
		r := ruleFor(folder)
		if r == nil {
			t.Errorf("%s: no rule for this folder; add one with its reason", folder)
			continue
		}
		for _, imported := range p.Imports {
			if !allowed(r, imported) {
				t.Errorf("%s imports %s: %s", folder, imported, r.why)
			}
			if in(imported, module+"server") && !in(p.ImportPath, module+"cmd") && !in(p.ImportPath, module+"server") {
				t.Errorf("%s imports %s: only cmd imports the server", folder, imported)
			}
		}
	}
	if packages < 10 {
		t.Errorf("only %d packages were seen", packages)
	}
}

func ruleFor(folder string) *rule {
	for i := range rules {
		if in(folder, rules[i].folder) {
			return &rules[i]
		}
	}
	return nil
}

func allowed(r *rule, path string) bool {
	if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") || in(path, module+r.folder) {
		return true // the standard library, or the same folder
	}
	for _, prefix := range r.may {
		if prefix == "" || in(path, prefix) {
			return true
		}
	}
	return false
}

// in says whether a path is a folder or below it.
func in(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }
