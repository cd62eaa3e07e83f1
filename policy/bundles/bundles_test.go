package bundles

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/chartergate/chartergate/policy"
)

// signer is a key pair as files in PEM.
type signer struct{ private, public []byte }

func newSigner(t *testing.T) *signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})}
}

func allow(tier string) string {
	return fmt.Sprintf("package chartergate.routing\n\ndecision := {\"effect\": \"allow\", \"tiers\": [%q]}\n", tier)
}

// build makes a bundle as `opa build --signing-key` does; a nil signer leaves it unsigned. change alters it after that.
func (s *signer) build(t *testing.T, revision string, files map[string]string, change func(*bundle.Bundle)) []byte {
	t.Helper()
	unsigned := &bytes.Buffer{}
	b := bundle.Bundle{Manifest: bundle.Manifest{Revision: revision}, Data: map[string]any{}}
	b.Manifest.Init()
	for path, text := range files {
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: path, Path: path, RelativePath: path, Raw: []byte(text)})
	}
	if s != nil {
		if err := b.GenerateSignature(bundle.NewSigningConfig(string(s.private), "ES256", ""), "any", false); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&b)
	}
	if err := bundle.NewWriter(unsigned).UseModulePath(true).DisableFormat(true).Write(b); err != nil {
		t.Fatal(err)
	}
	return unsigned.Bytes()
}

// served is an HTTP server of one bundle, with an ETag; nil: it is out of order.
type served struct {
	raw      []byte
	requests int
	unchange int
}

func (s *served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests++
	if s.raw == nil {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return
	}
	etag := `"` + policy.Hash(map[string]string{"": string(s.raw)}) + `"`
	if r.Header.Get("If-None-Match") == etag {
		s.unchange++
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("ETag", etag)
	_, _ = w.Write(s.raw)
}

func TestFollowsAServer(t *testing.T) {
	ours, others := newSigner(t), newSigner(t)
	first := ours.build(t, "r1", map[string]string{"/routing.rego": allow("economy")}, nil)
	server := &served{raw: first}
	web := httptest.NewServer(server)
	defer web.Close()
	source, err := NewSource(web.URL + "/bundle.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey(ours.public, "")
	if err != nil {
		t.Fatal(err)
	}
	deciding, log := "", &bytes.Buffer{}
	f := &Follower{Source: source, Key: key, Kept: filepath.Join(t.TempDir(), "kept"), Log: slog.New(slog.NewTextHandler(log, nil)),
		Use: func(_ context.Context, b *Bundle) error {
			if _, err := policy.Compile(b.Modules); err != nil {
				return err
			}
			deciding = b.Revision
			return nil
		}}
	if err := f.Start(t.Context()); err != nil || deciding != "r1" {
		t.Fatalf("%v, %s decides", err, deciding)
	}
	if err := f.once(t.Context()); err != nil || server.unchange != 1 {
		t.Errorf("%v after %d of %d requests were answered with 304", err, server.unchange, server.requests)
	}
	big := strings.Repeat("# padding\n", policy.MaxPolicyBytes/10+1)
	for _, c := range []struct {
		name string
		raw  []byte
		says string
	}{
		{"unsigned", (*signer)(nil).build(t, "bad", map[string]string{"/routing.rego": allow("premium")}, nil), "signature"},
		{"another's key", others.build(t, "bad", map[string]string{"/routing.rego": allow("premium")}, nil), "signature"},
		{"changed", ours.build(t, "bad", map[string]string{"/routing.rego": allow("economy")}, func(b *bundle.Bundle) {
			b.Modules[0].Raw = []byte(allow("premium"))
		}), "digest mismatch"},
		{"a file more", ours.build(t, "bad", map[string]string{"/routing.rego": allow("economy")}, func(b *bundle.Bundle) {
			b.Modules = append(b.Modules, bundle.ModuleFile{URL: "/more.rego", Path: "/more.rego", RelativePath: "/more.rego", Raw: []byte(allow("premium"))})
		}), "not included in bundle signature"},
		{"a file less", ours.build(t, "bad", map[string]string{"/routing.rego": allow("economy"), "/lib.rego": "package chartergate.routing.lib\n\nx := 1\n"}, func(b *bundle.Bundle) {
			b.Modules = b.Modules[:1]
		}), "not found in the target bundle"},
		{"too big", ours.build(t, "bad", map[string]string{"/routing.rego": allow("economy") + big}, nil), "exceeded max size"},
		{"a bomb", bomb(t), "bytes unpacked"},
		{"no tarball", []byte("hello"), "no gzipped tarball"},
		{"does not compile", ours.build(t, "bad", map[string]string{"/routing.rego": "package chartergate.routing\n\ndecision := input.budgt\n"}, nil), "routing.rego:3:13: undefined ref: input.budgt"},
		{"out of order", nil, "503"},
		{"too long", bytes.Repeat([]byte("x"), MaxBytes+1), "has more than 4194304 bytes"},
	} {
		server.raw = c.raw
		if err := f.once(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) || deciding != "r1" {
			t.Errorf("%s: %v, %s decides; want an error with %q", c.name, err, deciding, c.says)
		}
	}
	server.raw = ours.build(t, "r2", map[string]string{"/routing.rego": allow("standard"), "/routing_test.rego": "package chartergate.routing_test\n\nimport data.chartergate.routing\n\ntest_standard if routing.decision.tiers == [\"standard\"]\n"}, nil)
	if err := f.once(t.Context()); err != nil || deciding != "r2" {
		t.Errorf("the second bundle: %v, %s decides", err, deciding)
	}
	server.raw = first // the way back is the older bundle
	if err := f.once(t.Context()); err != nil || deciding != "r1" {
		t.Errorf("back to the first bundle: %v, %s decides", err, deciding)
	}
	if loaded, failed := f.Counts(); loaded != 3 || failed != 11 {
		t.Errorf("%d bundles taken, %d refused", loaded, failed)
	}

	// A server that starts while the source is out of order takes what it kept, and verifies it again.
	server.raw, deciding = nil, ""
	again := &Follower{Source: &Source{location: source.location, client: source.client}, Key: key, Kept: f.Kept, Log: f.Log, Use: f.Use}
	if err := again.Start(t.Context()); err != nil || deciding != "r1" {
		t.Errorf("from what was kept: %v, %s decides", err, deciding)
	}
	kept, err := os.ReadFile(f.Kept)
	if err != nil {
		t.Fatal(err)
	}
	kept[len(kept)/2] ^= 1
	if err := os.WriteFile(f.Kept, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again.Start(t.Context()); err == nil {
		t.Error("a kept bundle that was changed is taken")
	}
}

// A bundle that is refused again and again is told of once.
func TestToldOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	source, err := NewSource(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey(newSigner(t).public, "")
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	f := &Follower{Source: source, Key: key, Log: slog.New(slog.NewTextHandler(log, nil)), Use: func(context.Context, *Bundle) error { return nil }}
	if err := f.Start(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tick, done := make(chan time.Time), make(chan struct{})
	go func() { f.Run(ctx, tick); close(done) }()
	for range 5 {
		tick <- time.Time{}
	}
	cancel()
	<-done
	if n := strings.Count(log.String(), "is not taken"); n != 1 {
		t.Errorf("told %d times\n%s", n, log)
	}
}

func TestKeys(t *testing.T) {
	s := newSigner(t)
	for text, says := range map[string]string{
		"":                "no PEM block",
		string(s.private): "private key",
		"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n": "no public key",
	} {
		if _, err := NewKey([]byte(text), ""); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q gives %v, want %q", text, err, says)
		}
	}
	scoped, err := NewKey(s.public, "prod")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := scoped.Read(s.build(t, "r", map[string]string{"/routing.rego": allow("economy")}, nil)); err == nil || !strings.Contains(err.Error(), "scope mismatch") {
		t.Errorf("a bundle without the scope: %v", err)
	}
	if _, err := NewSource("ftp://host/x"); err == nil {
		t.Error("an FTP source is taken")
	}
}

// bomb is small and unpacks to more than a bundle may have.
func bomb(t *testing.T) []byte {
	t.Helper()
	b := &bytes.Buffer{}
	z := gzip.NewWriter(b)
	if _, err := z.Write(make([]byte, MaxUnpackedBytes+1)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
