package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/store"
)

// dialError says in one sentence why a cluster gives no answer, and what to check.
func dialError(c Config, err error) error {
	why := err
	switch code := status.Code(err); {
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		why = fmt.Errorf("etcd refuses the user %q or its password: %w", c.Username, err)
	case errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied), errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty):
		who := "without a user name"
		if c.Username != "" {
			who = fmt.Sprintf("as user %q", c.Username)
		}
		why = fmt.Errorf("etcd lets nobody in %s: use a user whose role may read and write the keys that start with %s: %w", who, Prefix, err)
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded, code == codes.Unavailable:
		why = fmt.Errorf("no answer within %s: check the endpoints, TLS and that a majority of the members is up: %w", c.DialTimeout, probe(c, err))
	}
	return fmt.Errorf("etcd at %s: %w: %w", strings.Join(c.Endpoints, ", "), store.ErrUnavailable, why)
}

// probeTime bounds what probe waits for one endpoint.
const probeTime = time.Second

// probe connects to the endpoints once more for a better reason than a time-out: that of the first which does not take a
// connection; else err.
func probe(c Config, err error) error {
	for _, endpoint := range c.Endpoints {
		u, parseErr := url.Parse(endpoint)
		if parseErr != nil || u.Host == "" {
			continue
		}
		if reason := probeOne(u, c.TLS); reason != nil {
			return fmt.Errorf("%s: %w", endpoint, reason)
		}
	}
	return err
}

func probeOne(u *url.URL, secure *tls.Config) error {
	conn, err := net.DialTimeout("tcp", u.Host, probeTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(probeTime)); err != nil {
		return err
	}
	if u.Scheme != "https" {
		return probePlain(conn)
	}
	if secure == nil {
		secure = &tls.Config{}
	}
	secure = secure.Clone()
	secure.ServerName, secure.NextProtos = u.Hostname(), []string{"h2"}
	t := tls.Client(conn, secure)
	if err := t.Handshake(); err != nil {
		return err
	}
	// A client certificate that is missing or refused shows only when something is read.
	if _, err := t.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the client certificate is missing or refused: %w", err)
	}
	return nil
}

// probePlain tells a member that wants TLS, which closes a connection in plain text. One that does not sends settings.
func probePlain(conn net.Conn) error {
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("it closes connections in plain text: if it wants TLS, write https:// in the endpoint (%w)", err)
	}
	return nil
}
