// Package bundles loads signed OPA bundles as the organisation's policy.
package bundles

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/keys"

	"github.com/chartergate/chartergate/policy"
)

// Limits of a bundle.
const (
	MaxBytes         = 4 << 20  // as it is sent, compressed
	MaxUnpackedBytes = 16 << 20 // with what is not Rego
	fetchTimeout     = 30 * time.Second
)

// Bundle is a verified bundle.
type Bundle struct {
	Modules  map[string]string // Rego files by their path, and data.json
	Revision string            // of the manifest; may be empty
	Raw      []byte
}

// Key verifies bundles.
type Key struct{ config *bundle.VerificationConfig }

// NewKey reads a public key in PEM: RSA (RS256), ECDSA on P-256, P-384 or P-521 (ES256, ES384, ES512) or Ed25519 (EdDSA).
// scope is what the signature must be for; empty: no scope.
func NewKey(text []byte, scope string) (*Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it holds no PEM block: give the public key of the signer")
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return nil, errors.New("it holds a private key: give the public one, such as of `openssl pkey -in key.pem -pubout`")
	}
	public, err := parsePublic(block)
	if err != nil {
		return nil, fmt.Errorf("it holds no public key: %w", err)
	}
	algorithm := ""
	switch k := public.(type) {
	case *rsa.PublicKey:
		algorithm = "RS256"
	case *ecdsa.PublicKey:
		algorithm = map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		algorithm = "EdDSA"
	}
	if algorithm == "" || !keys.IsSupportedAlgorithm(algorithm) {
		return nil, fmt.Errorf("a %T cannot verify bundles: use RSA or ECDSA on P-256, P-384 or P-521", public)
	}
	// NewKeyConfig of OPA would take the text for a file's name first.
	k := &keys.Config{Key: string(text), Algorithm: algorithm, Scope: scope}
	const id = "bundle" // whatever the signature calls it: there is one key
	return &Key{bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{id: k}, id, scope, nil)}, nil
}

func parsePublic(block *pem.Block) (any, error) {
	switch block.Type {
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// Read verifies a bundle and gives its files. Nothing of it is parsed before its signature is verified.
func (k *Key) Read(raw []byte) (*Bundle, error) {
	if err := checkSize(raw); err != nil {
		return nil, err
	}
	b, err := bundle.NewCustomReader(bundle.NewTarballLoader(bytes.NewReader(raw))).
		WithBundleVerificationConfig(k.config).
		WithSizeLimitBytes(policy.MaxPolicyBytes + 1).
		WithRegoVersion(ast.RegoV1).
		Read()
	if err != nil {
		return nil, fmt.Errorf("the bundle is refused: %w", err)
	}
	if len(b.WasmModules) > 0 || b.Type() != bundle.SnapshotBundleType {
		return nil, errors.New("the bundle is refused: it must hold Rego and data, no WebAssembly and no patches")
	}
	modules := map[string]string{}
	for _, m := range b.Modules {
		modules[strings.TrimPrefix(m.Path, "/")] = string(m.Raw)
	}
	if len(b.Data) > 0 {
		data, err := json.Marshal(b.Data)
		if err != nil {
			return nil, fmt.Errorf("the bundle is refused: its data: %w", err)
		}
		modules["data.json"] = string(data)
	}
	return &Bundle{modules, b.Manifest.Revision, raw}, nil
}

// checkSize unpacks a bundle into nothing.
func checkSize(raw []byte) error {
	if len(raw) > MaxBytes {
		return fmt.Errorf("the bundle is refused: it has more than %d bytes", MaxBytes)
	}
	unpack, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("the bundle is refused: it is no gzipped tarball: %w", err)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(unpack, MaxUnpackedBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("the bundle is refused: it is no gzipped tarball: %w", err)
	case n > MaxUnpackedBytes:
		return fmt.Errorf("the bundle is refused: it has more than %d bytes unpacked", MaxUnpackedBytes)
	}
	return nil
}

// Source is where a bundle comes from. Its methods are for one goroutine.
type Source struct {
	location string // a file, or the URL of an HTTP server
	client   *http.Client
	etag     string
	last     []byte
}

// NewSource makes a source of a file, or of the http or https URL of a bundle.
func NewSource(location string) (*Source, error) {
	if strings.Contains(location, "://") {
		u, err := url.Parse(location)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("%q is no http or https URL and no file", location)
		}
	}
	return &Source{location: location, client: &http.Client{Timeout: fetchTimeout}}, nil
}

// Fetch gives the bundle's bytes when they are others than the last time; otherwise nil.
func (s *Source) Fetch(ctx context.Context) ([]byte, error) {
	raw, etag, err := s.read(ctx)
	if err != nil || raw == nil || s.last != nil && bytes.Equal(raw, s.last) {
		return nil, err
	}
	if len(raw) > MaxBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", s.location, MaxBytes)
	}
	s.last, s.etag = raw, etag
	return raw, nil
}

func (s *Source) read(ctx context.Context) (raw []byte, etag string, err error) {
	if !strings.Contains(s.location, "://") {
		f, err := os.Open(s.location)
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		raw, err = io.ReadAll(io.LimitReader(f, MaxBytes+1))
		return raw, "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.location, nil)
	if err != nil {
		return nil, "", err
	}
	if s.etag != "" {
		r.Header.Set("If-None-Match", s.etag)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotModified:
		return nil, "", nil
	case http.StatusOK:
		raw, err = io.ReadAll(io.LimitReader(resp.Body, MaxBytes+1))
		return raw, resp.Header.Get("ETag"), err
	}
	return nil, "", fmt.Errorf("%s answers %s", s.location, resp.Status)
}
