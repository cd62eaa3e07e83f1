package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/chartergate/chartergate/store/etcd"
)

// secureEtcd asks for client certificates and passwords. The user gate may use the keys under etcd.Prefix and no others;
// the user nobody may use none.
type secureEtcd struct {
	endpoint string
	ca       *authority
	root     *clientv3.Client
	flags    []string // for serve, but for the user
}

const gatePassword = "correct horse"

func startSecureEtcd(t *testing.T) *secureEtcd {
	t.Helper()
	ca := newAuthority(t, "etcd CA")
	serverCert, serverKey := ca.issue(t, "etcd")
	clientCert, clientKey := ca.issue(t, "a gate")
	loopback := []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	peer := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = t.TempDir(), "fatal"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = loopback, loopback, peer, peer
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ClientTLSInfo = transport.TLSInfo{CertFile: serverCert, KeyFile: serverKey, TrustedCAFile: ca.file, ClientCertAuth: true}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(20 * time.Second):
		t.Fatal("etcd does not get ready")
	}
	s := &secureEtcd{endpoint: "https://" + e.Clients[0].Addr().String(), ca: ca}
	s.flags = []string{"--etcd-endpoints", s.endpoint, "--etcd-cacert", ca.file, "--etcd-cert", clientCert, "--etcd-key", clientKey}
	secure := ca.clientTLS(t, clientCert, clientKey)
	admin := s.dial(t, clientv3.Config{TLS: secure})
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { _, err := admin.RoleAdd(ctx, "chartergate"); return err },
		func() error {
			_, err := admin.RoleGrantPermission(ctx, "chartergate", etcd.Prefix, clientv3.GetPrefixRangeEnd(etcd.Prefix), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := admin.UserAdd(ctx, "gate", gatePassword); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "gate", "chartergate"); return err },
		func() error { _, err := admin.UserAdd(ctx, "nobody", gatePassword); return err },
		func() error { _, err := admin.UserAdd(ctx, "root", "r00t"); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := admin.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	s.root = s.dial(t, clientv3.Config{TLS: secure, Username: "root", Password: "r00t"})
	return s
}

func (s *secureEtcd) dial(t *testing.T, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	cfg.Endpoints, cfg.Logger, cfg.DialTimeout = []string{s.endpoint}, zap.NewNop(), 10*time.Second
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// serve starts a server as the user gate.
func (s *secureEtcd) serve(t *testing.T) *childServer {
	t.Helper()
	t.Setenv(etcdPasswordEnv, gatePassword)
	var addr [2]string
	for i := range addr {
		a, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		addr[i] = a
	}
	dir := t.TempDir()
	args := append([]string{"serve", "--data-dir", dir, "--grpc-addr", addr[0], "--http-addr", addr[1], "--etcd-username", "gate"}, s.flags...)
	c, err := startChild(t.Context(), dir, addr[0], addr[1], args...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A role for the keys under the prefix is all that a server needs: to start, to decide, to settle, to take a lost server
// over and to stop. Nothing is written elsewhere.
func TestServeOnSecureEtcd(t *testing.T) {
	s := startSecureEtcd(t)
	first, second := s.serve(t), s.serve(t)
	c := cli{t, []string{"--server", first.grpcAddr}}
	other := cli{t, []string{"--server", second.grpcAddr}}
	c.contains(c.ok("apply", "-f", filepath.Join("..", "..", "examples", "acme")), "15 created")
	hold := cli{t: t}.hold(first.grpcAddr)
	eventually(t, 10*time.Second, "the second server knows what was applied", func() bool {
		exit, _, _ := other.run("", "get", "charter", "support-copilot")
		return exit == exitOK
	})
	lost := cli{t: t}.hold(second.grpcAddr)
	c.contains(c.ok("settle", "--hold", hold, "--input-tokens", "1200", "--output-tokens", "180"), "cost      0.00171 USD")
	if err := second.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-second.exited
	other.fails(exitFailed, []string{"no server answers at " + second.grpcAddr}, "status")
	await(t, "the lost server is taken over", 30*time.Second, func() bool {
		return strings.Contains(c.ok("status"), "gone; its grants are out of reach for another 10m")
	})
	c.contains(c.ok("settle", "--hold", lost, "--input-tokens", "1200", "--output-tokens", "180"), "cost      0.00171 USD")
	if st := c.ok("get", "status", "acme", "-o", "json"); !strings.Contains(st, `"settled_nanos": "3420000"`) || !strings.Contains(st, `"forced_nanos": "0"`) {
		t.Errorf("the two settlements are not 0.00342 in time:\n%s", st)
	}
	stopChild(t, first)

	all, err := s.root.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Kvs) < 20 {
		t.Errorf("only %d keys were written", len(all.Kvs))
	}
	for _, kv := range all.Kvs {
		if !strings.HasPrefix(string(kv.Key), etcd.Prefix) {
			t.Errorf("%s is outside of %s", kv.Key, etcd.Prefix)
		}
	}
}

// hold reserves a call of the examples and gives the token.
func (c cli) hold(addr string) string {
	c.t.Helper()
	c.flags = []string{"--server", addr}
	out := c.ok("reserve", "--feature", "support-copilot", "--task-class", "chat", "--input-tokens", "1200", "--max-output-tokens", "400", "-o", "json")
	_, token, _ := strings.Cut(out, `"token": "`)
	token, _, _ = strings.Cut(token, `"`)
	return token
}

// await polls until ok, at most for a time.
func await(t *testing.T, what string, most time.Duration, ok func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(200*time.Millisecond), time.After(most)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", most, what)
		}
	}
}

// What is wrong with the connection to etcd is said in one line.
func TestSecureEtcdRefuses(t *testing.T) {
	s := startSecureEtcd(t)
	stranger := newAuthority(t, "another CA")
	strangerCert, strangerKey := stranger.issue(t, "a gate")
	replaced := func(flags []string, pairs ...string) []string {
		all := append([]string(nil), flags...)
		for i := 0; i < len(pairs); i += 2 {
			for j := range all {
				if all[j] == pairs[i] {
					all[j+1] = pairs[i+1]
				}
			}
		}
		return all
	}
	for _, c := range []struct {
		name, user, password string
		flags                []string
		says                 []string
	}{
		{"wrong password", "gate", "wrong", s.flags, []string{`the user "gate" or its password`}},
		{"no such user", "ghost", gatePassword, s.flags, []string{`the user "ghost" or its password`}},
		{"no user", "", "", s.flags, []string{"without a user name", etcd.Prefix}},
		{"no permission", "nobody", gatePassword, s.flags, []string{`as user "nobody"`, "permission denied", etcd.Prefix}},
		{"wrong CA", "gate", gatePassword, replaced(s.flags, "--etcd-cacert", stranger.file), []string{"certificate signed by unknown authority"}},
		{"client certificate of another CA", "gate", gatePassword, replaced(s.flags, "--etcd-cert", strangerCert, "--etcd-key", strangerKey), []string{"client certificate is missing or refused"}},
		{"no client certificate", "gate", gatePassword, s.flags[:4], []string{"client certificate is missing or refused"}},
		{"no TLS", "gate", gatePassword, []string{"--etcd-endpoints", strings.Replace(s.endpoint, "https:", "http:", 1)}, []string{"if it wants TLS, write https://"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(etcdPasswordEnv, c.password)
			args := []string{"serve", "--data-dir", t.TempDir(), "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"}
			if c.user != "" {
				args = append(args, "--etcd-username", c.user)
			}
			refuses(t, append([]string{"etcd at "}, c.says...), append(args, c.flags...)...)
		})
	}
}

// authority signs certificates.
type authority struct {
	file string // of its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, dir: t.TempDir()}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = filepath.Join(a.dir, "ca.pem")
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// issue signs a certificate of 127.0.0.1 for servers and clients, and gives its files.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	file := strings.ReplaceAll(name, " ", "-")
	cert, key = filepath.Join(a.dir, file+".pem"), filepath.Join(a.dir, file+".key")
	writePEM(t, cert, "CERTIFICATE", der)
	writePEM(t, key, "PRIVATE KEY", private)
	return cert, key
}

func (a *authority) clientTLS(t *testing.T, cert, key string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
