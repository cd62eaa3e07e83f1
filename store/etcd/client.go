// Package etcd keeps control records and the ledger in etcd, embedded or a cluster: both are reached through a
// *clientv3.Client.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"math"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Prefix is what every key of Chartergate starts with.
const Prefix = "/chartergate/"

// Config says where an etcd cluster is.
type Config struct {
	// Endpoints of the members, such as `https://etcd-1:2379`. Required.
	Endpoints []string
	// TLS secures the connection. nil: plain text.
	TLS *tls.Config
	// Username and Password, where the cluster has authentication.
	Username, Password string
	// DialTimeout is how long Dial waits for a first answer. 0: 5 s.
	DialTimeout time.Duration
}

const (
	defaultDialTimeout = 5 * time.Second
	// A connection is given up after keepAlive + keepAliveTimeout of silence. etcd refuses pings more often than 5 s.
	keepAlive        = 6 * time.Second
	keepAliveTimeout = 4 * time.Second
)

// Dial connects to a cluster and waits until it answers. Errors wrap store.ErrUnavailable: nobody answers in time, or
// the cluster refuses the credentials.
func Dial(ctx context.Context, c Config) (*clientv3.Client, error) {
	if c.DialTimeout == 0 {
		c.DialTimeout = defaultDialTimeout
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints, TLS: c.TLS, Username: c.Username, Password: c.Password, DialTimeout: c.DialTimeout,
		DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: keepAliveTimeout, PermitWithoutStream: true,
		MaxCallSendMsgSize: math.MaxInt32, // the cluster's --max-request-bytes decides
		Logger:             zap.NewNop(),
	})
	if err != nil {
		return nil, dialError(c, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.DialTimeout)
	defer cancel()
	if _, err := client.Get(ctx, Prefix+"epoch", clientv3.WithKeysOnly()); err != nil {
		return nil, errors.Join(dialError(c, err), client.Close())
	}
	return client, nil
}
