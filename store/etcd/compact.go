package etcd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// How etcd's history is compacted: without it the database grows with every write. A watch that is longer behind than
// CompactKeep lists again.
const (
	CompactEvery = 10 * time.Second
	CompactKeep  = 30 * time.Second
)

// Compactor compacts etcd's history, all of it and not only Chartergate's keys. Any number of replicas may run one: they
// take turns by comparing the version of one key, as the Kubernetes API server does.
type Compactor struct {
	client  *clientv3.Client
	log     *slog.Logger
	version int64        // of the key, as last seen
	seen    []revisionAt // ascending
	target  int64        // what was seen CompactKeep ago
	done    int64        // up to here it has compacted
}

type revisionAt struct {
	revision int64
	time     time.Time
}

// NewCompactor compacts the etcd behind client.
func NewCompactor(client *clientv3.Client, log *slog.Logger) *Compactor {
	return &Compactor{client: client, log: log}
}

// Run steps every CompactEvery until ctx ends.
func (c *Compactor) Run(ctx context.Context) {
	tick := time.NewTicker(CompactEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if _, err := c.Step(ctx, now); err != nil && ctx.Err() == nil {
				c.log.Warn("the history of etcd is not compacted", "error", err)
			}
		}
	}
}

// Step compacts the revisions that it has seen CompactKeep ago, unless another replica has had its turn since the last
// Step. It gives the revision before which all is gone, 0 when it did nothing.
func (c *Compactor) Step(ctx context.Context, now time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	for len(c.seen) > 0 && now.Sub(c.seen[0].time) >= CompactKeep {
		c.target, c.seen = c.seen[0].revision, c.seen[1:]
	}
	k := key("compact")
	mine, err := put(k, &storev1.Compaction{Revision: c.target})
	if err != nil {
		return 0, err
	}
	resp, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(k), "=", c.version)).Then(mine).Else(clientv3.OpGet(k, clientv3.WithKeysOnly())).Commit()
	if err != nil {
		return 0, unavailable(err)
	}
	c.seen = append(c.seen, revisionAt{resp.Header.Revision, now})
	if !resp.Succeeded {
		c.version = 0
		for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
			c.version = kv.Version
		}
		return 0, nil
	}
	c.version++
	if c.target == c.done {
		return 0, nil
	}
	if _, err := c.client.Compact(ctx, c.target); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return 0, unavailable(err)
	}
	c.done = c.target
	return c.target, nil
}
