package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// writeBundle makes a signed bundle of one policy as `opa build` does.
func writeBundle(t *testing.T, file string, private []byte, rego string) {
	t.Helper()
	b := bundle.Bundle{Data: map[string]any{}, Modules: []bundle.ModuleFile{{URL: "/routing.rego", Path: "/routing.rego", RelativePath: "/routing.rego", Raw: []byte(rego)}}}
	b.Manifest.Init()
	if err := b.GenerateSignature(bundle.NewSigningConfig(string(private), "RS256", ""), "any", false); err != nil {
		t.Fatal(err)
	}
	out := &bytes.Buffer{}
	if err := bundle.NewWriter(out).UseModulePath(true).DisableFormat(true).Write(b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// A server with a bundle decides by it, takes another one, keeps the one before where the other does not do, and refuses
// to activate a policy for the organisation.
func TestServeBundle(t *testing.T) {
	dir := t.TempDir()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})
	public := filepath.Join(dir, "public.pem")
	if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&k.PublicKey)}), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "bundle.tar.gz")
	deny := func(reason string) string {
		return "package chartergate.routing\n\ndecision := {\"effect\": \"deny\", \"reasons\": [\"" + reason + "\"]}\n"
	}
	writeBundle(t, file, private, deny("The first bundle."))
	refuses(t, []string{"--policy-bundle-key", "missing"}, "serve", "--data-dir", filepath.Join(dir, "none"), "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--policy-bundle", file)

	grpcAddr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	httpAddr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	server, err := startChild(t.Context(), dir, grpcAddr, httpAddr, "serve", "--data-dir", filepath.Join(dir, "data"), "--grpc-addr", grpcAddr, "--http-addr", httpAddr,
		"--policy-bundle", file, "--policy-bundle-key", public, "--policy-bundle-interval", "1s", "--decision-log", filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer stopChild(t, server)
	c := cli{t, []string{"--server", grpcAddr}}
	c.ok("apply", "-f", "../../examples/acme", "-o", "json")
	decision := func() string {
		_, out, errs := c.run("", "check", "--feature", "support-copilot", "--task-class", "chat", "--cohort", "all", "--input-tokens", "1200", "--max-output-tokens", "400")
		return out + errs
	}
	if got := decision(); !strings.Contains(got, "The first bundle.") {
		t.Errorf("the decision is\n%s", got)
	}
	manifest := "kind: Policy\nname: policies/routing\nmodules:\n  routing.rego: |\n    package chartergate.routing\n\n    decision := {\"effect\": \"deny\"}\n"
	if exit, out, errs := c.run(manifest, "apply", "-f", "-"); exit == exitOK || !strings.Contains(errs, "comes from the bundle "+file) {
		t.Errorf("apply of a policy gives %d %s%s", exit, out, errs)
	}
	c.contains(c.ok("get", "policies"), "from "+file, "bundle/")
	c.contains(c.ok("get", "policies", "-o", "yaml"), "active_revision: bundle/")
	c.fails(exitFailed, []string{"bundle/", "files are not stored: look into the bundle"}, "policy", "show", "routing")
	eventually := func(what, want string) {
		t.Helper()
		deadline, tick := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
		defer tick.Stop()
		for !strings.Contains(decision(), want) {
			select {
			case <-deadline:
				t.Fatalf("%s: the decision is still\n%s", what, decision())
			case <-tick.C:
			}
		}
	}
	_, _, _ = c.run("", "reserve", "--feature", "support-copilot", "--task-class", "chat", "--cohort", "all", "--input-tokens", "1200", "--max-output-tokens", "400")
	deadline, tick := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for logged := false; !logged; {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		logged = strings.Contains(string(text), `"result":{"effect":"deny","reasons":["The first bundle."]}`) && strings.Contains(string(text), `"input_tokens":1200`)
		select {
		case <-deadline:
			t.Fatalf("the decision log has %s", text)
		case <-tick.C:
		}
	}
	writeBundle(t, file, private, deny("The second bundle."))
	eventually("the second bundle", "The second bundle.")
	writeBundle(t, file, private, "package chartergate.routing\n\ndecision := input.budgt\n")
	for refused := 0.0; refused == 0; {
		m, err := server.metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		refused = m["chartergate_policy_bundle_failures_total"]
		select {
		case <-deadline:
			t.Fatal("the third bundle was not refused")
		case <-tick.C:
		}
	}
	if got := decision(); !strings.Contains(got, "The second bundle.") {
		t.Errorf("after a bundle that does not compile the decision is\n%s", got)
	}
}
