package oracle

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// Prefix is where the records stand in etcd.
const Prefix = "/chartergate/"

// AccountKey names an account: as the API does, and by its period.
type AccountKey struct {
	Name  string
	Start int64 // of the period, Unix seconds
}

func (k AccountKey) String() string { return k.Name }

// KeyOf names the account of a record.
func KeyOf(a *storev1.Account) AccountKey {
	name := "budgets/" + a.GetBudget()
	switch {
	case a.GetKey() != "":
		name += "/keys/" + a.GetKey()
	case a.GetOverflow() != "":
		name += "/overflow/" + a.GetOverflow()
	}
	return AccountKey{name, a.GetPeriodStart()}
}

// Account is what etcd has of an account at one revision.
type Account struct {
	Budget *storev1.BudgetAccount
	Grants map[string]*storev1.Grant // by owner
	Alerts []*storev1.Alert
}

// Records are the ledger's records at one revision of etcd.
type Records struct {
	Revision int64
	Accounts map[AccountKey]*Account
	Batches  map[string][]byte // by `{owner}/{n}`, as written; those that are still in etcd
	// Owners by where they stand: `own`, `id`, `dead`, `qt`, `tk`, `cl`.
	Owners map[string]map[string][]byte
	// Collected are the marks of holds whose batches were collected, by `{owner}/{chunk}`.
	Collected map[string]*storev1.Chunk
	// Tails say by owner where the collected part of a journal ends.
	Tails map[string]*storev1.JournalTail
}

// ReadRecords reads all records at one revision, in pages. Without batches it leaves the journal out, and the marks.
func ReadRecords(ctx context.Context, client *clientv3.Client, batches bool) (*Records, error) {
	r := &Records{
		Accounts: map[AccountKey]*Account{}, Batches: map[string][]byte{}, Owners: map[string]map[string][]byte{}, Collected: map[string]*storev1.Chunk{},
		Tails: map[string]*storev1.JournalTail{},
	}
	for _, prefix := range []string{"bud/", "gr/", "al/", "own/", "id/", "dead/", "qt/", "tk/", "cl/", "bm/", "jt/", "jr/"} {
		if !batches && (prefix == "jr/" || prefix == "bm/") {
			continue
		}
		if err := r.read(ctx, client, prefix); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// page is how many records are read at once.
const page = 2000

func (r *Records) read(ctx context.Context, client *clientv3.Client, prefix string) error {
	from, end := Prefix+prefix, clientv3.GetPrefixRangeEnd(Prefix+prefix)
	for {
		resp, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(r.Revision))
		if err != nil {
			return fmt.Errorf("read %s: %w", prefix, err)
		}
		if r.Revision == 0 {
			r.Revision = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			if err := r.add(strings.TrimSuffix(prefix, "/"), strings.TrimPrefix(string(kv.Key), Prefix+prefix), kv.Value); err != nil {
				return fmt.Errorf("%s: %w", kv.Key, err)
			}
		}
		if !resp.More {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (r *Records) add(kind, key string, value []byte) error {
	switch kind {
	case "bud":
		m := new(storev1.BudgetAccount)
		if err := proto.Unmarshal(value, m); err != nil {
			return err
		}
		a := r.account(m.GetAccount())
		if a.Budget != nil {
			return fmt.Errorf("%s has two records in one period", KeyOf(m.GetAccount()))
		}
		a.Budget = m
	case "gr":
		m := new(storev1.Grant)
		if err := proto.Unmarshal(value, m); err != nil {
			return err
		}
		r.account(m.GetAccount()).Grants[key[strings.LastIndexByte(key, '/')+1:]] = m
	case "al":
		m := new(storev1.Alert)
		if err := proto.Unmarshal(value, m); err != nil {
			return err
		}
		a := r.account(m.GetAccount())
		a.Alerts = append(a.Alerts, m)
	case "jr":
		var n uint64
		owner, number, _ := strings.Cut(key, "/")
		if _, err := fmt.Sscanf(number, "%016x", &n); err != nil {
			return err
		}
		r.Batches[fmt.Sprintf("%s/%d", owner, n)] = value
	case "bm":
		r.Collected[key] = new(storev1.Chunk)
		return proto.Unmarshal(value, r.Collected[key])
	case "jt":
		r.Tails[key] = new(storev1.JournalTail)
		return proto.Unmarshal(value, r.Tails[key])
	default:
		if r.Owners[kind] == nil {
			r.Owners[kind] = map[string][]byte{}
		}
		r.Owners[kind][key] = value
	}
	return nil
}

func (r *Records) account(a *storev1.Account) *Account {
	key := KeyOf(a)
	if r.Accounts[key] == nil {
		r.Accounts[key] = &Account{Grants: map[string]*storev1.Grant{}}
	}
	return r.Accounts[key]
}
