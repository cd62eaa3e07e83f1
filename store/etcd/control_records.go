package etcd

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/proto/convert"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
)

const (
	controlPrefix = Prefix + "ctl/"
	epochKey      = Prefix + "epoch"
)

// transaction makes the operations of changes to s, the epoch's last. Of several changes of one record the last counts,
// for etcd takes a key once in a transaction.
func transaction(s *charter.Snapshot, changes []charter.Change, now time.Time) ([]clientv3.Op, error) {
	last := make(map[string]int, len(changes))
	for i, c := range changes {
		last[c.Name] = i
	}
	ops := make([]clientv3.Op, 0, len(last)+1)
	epoch := &storev1.Epoch{Keys: make([]string, 0, len(last))}
	for i, c := range changes {
		if last[c.Name] != i {
			continue
		}
		key := controlPrefix + c.Name
		epoch.Keys = append(epoch.Keys, key)
		if c.Record == nil {
			ops = append(ops, clientv3.OpDelete(key))
			continue
		}
		control, err := convert.RecordToControl(charter.WithMeta(c.Record, charter.NewMeta(s.Record(c.Name), now)))
		if err != nil {
			return nil, err
		}
		value, err := proto.Marshal(control)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		ops = append(ops, clientv3.OpPut(key, string(value)))
	}
	value, err := proto.Marshal(epoch)
	if err != nil {
		return nil, err
	}
	return append(ops, clientv3.OpPut(epochKey, string(value))), nil
}

// change is what a key and value mean. Error: the value is not a record that this version knows.
func change(kv *mvccpb.KeyValue) (charter.Change, error) {
	name := strings.TrimPrefix(string(kv.Key), controlPrefix)
	control := &storev1.Control{}
	err := proto.Unmarshal(kv.Value, control)
	if err == nil {
		var r charter.Record
		if r, err = convert.RecordFromControl(control, kv.ModRevision); err == nil && r.Name() != name {
			err = fmt.Errorf("it holds %s", r.Name())
		}
		if err == nil {
			return charter.Change{Name: name, Record: r}, nil
		}
	}
	return charter.Change{}, fmt.Errorf("the record at etcd key %s cannot be read; another version of Chartergate may have written it: %w", kv.Key, err)
}

// TooLargeError says that changes do not fit one transaction of etcd. It is store.ErrTooLarge.
type TooLargeError struct {
	Changes, Bytes int
	cause          error
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%d changes (%d bytes) are more than one etcd transaction takes: make them in parts, or raise "+
		"--max-txn-ops and --max-request-bytes of the etcd cluster (%v)", e.Changes, e.Bytes, e.cause)
}

// Unwrap gives store.ErrTooLarge and etcd's error.
func (e *TooLargeError) Unwrap() []error { return []error{store.ErrTooLarge, e.cause} }

func writeError(err error, ops []clientv3.Op) error {
	var known rpctypes.EtcdError
	tooLarge := errors.Is(err, rpctypes.ErrTooManyOps) || errors.Is(err, rpctypes.ErrRequestTooLarge) ||
		// gRPC's own limit on messages comes before etcd's on requests.
		!errors.As(err, &known) && status.Code(err) == codes.ResourceExhausted
	if !tooLarge {
		return unavailable(err)
	}
	e := &TooLargeError{Changes: len(ops) - 1, cause: err}
	for _, op := range ops {
		e.Bytes += len(op.KeyBytes()) + len(op.ValueBytes())
	}
	return e
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", store.ErrUnavailable, err) }
