package sql

import (
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/chartergate/chartergate/core/usage"
)

// attribution is usage.Attribution as the database keeps it.
type attribution struct {
	Feature       string            `json:"feature,omitempty"`
	Owner         string            `json:"owner,omitempty"`
	Team          string            `json:"team,omitempty"`
	Budget        string            `json:"budget,omitempty"`
	BudgetPath    string            `json:"budget_path,omitempty"`
	Cohort        string            `json:"cohort,omitempty"`
	Tier          string            `json:"tier,omitempty"`
	Model         string            `json:"model,omitempty"`
	Provider      string            `json:"provider,omitempty"`
	PromptPattern string            `json:"prompt_pattern,omitempty"`
	Effect        string            `json:"effect,omitempty"`
	Currency      string            `json:"currency,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
}

type dimHash [16]byte

// encodeDim gives the text of an attribution, which is the same for the same, and its hash.
func encodeDim(a *usage.Attribution) (string, dimHash) {
	text, _ := json.Marshal((*attribution)(a)) // strings marshal
	sum := sha256.Sum256(text)
	return string(text), dimHash(sum[:16])
}

// dimensions are the dims of the database that this process has read: all up to one id.
type dimensions struct {
	mu     sync.RWMutex
	byID   []*usage.Attribution // nil: there is none of this id
	byHash map[dimHash]int64
	same   map[string]string // one copy of each string
}

func (d *dimensions) reset() {
	d.byID, d.byHash, d.same = make([]*usage.Attribution, 1), map[dimHash]int64{}, map[string]string{}
}

// catchUp reads what other writers have added.
func (d *dimensions) catchUp(t *tx) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return t.each(func(r *sql.Rows) error {
		var id int64
		var hash, data []byte
		if err := r.Scan(&id, &hash, &data); err != nil {
			return err
		}
		var a attribution
		if err := json.Unmarshal(data, &a); err != nil || len(hash) != len(dimHash{}) || id < 1 || id > 1<<31 {
			return fmt.Errorf("dims %d: %w", id, errPack)
		}
		d.add(id, (*usage.Attribution)(&a), dimHash(hash))
		return nil
	}, `SELECT id, hash, data FROM dims WHERE id >= $1 ORDER BY id`, len(d.byID))
}

func (d *dimensions) add(id int64, a *usage.Attribution, hash dimHash) {
	for _, s := range []*string{&a.Feature, &a.Owner, &a.Team, &a.Budget, &a.BudgetPath, &a.Cohort, &a.Tier, &a.Model, &a.Provider,
		&a.PromptPattern, &a.Effect, &a.Currency} {
		*s = d.one(*s)
	}
	if len(a.Labels) > 0 {
		labels := make(map[string]string, len(a.Labels))
		for k, v := range a.Labels {
			labels[d.one(k)] = d.one(v)
		}
		a.Labels = labels
	}
	for int64(len(d.byID)) <= id {
		d.byID = append(d.byID, nil)
	}
	d.byID[id], d.byHash[hash] = a, id
}

func (d *dimensions) one(s string) string {
	if same, ok := d.same[s]; ok {
		return same
	}
	d.same[s] = s
	return s
}

// all gives the attributions by id as they are known now.
func (d *dimensions) all() []*usage.Attribution {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byID
}

func (d *dimensions) find(hash dimHash) (int64, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	id, ok := d.byHash[hash]
	return id, ok
}

// interner gives ids to attributions within a transaction; what is new is known to others once that is committed.
type interner struct {
	t     *tx
	known *dimensions
	fresh map[dimHash]int64
	next  int64
}

func (s *Store) intern(t *tx) (*interner, error) {
	if err := s.dims.catchUp(t); err != nil {
		return nil, err
	}
	return &interner{t: t, known: &s.dims, fresh: map[dimHash]int64{}, next: int64(len(s.dims.all()))}, nil
}

func (n *interner) id(a *usage.Attribution) (int64, error) {
	text, hash := encodeDim(a)
	if id, ok := n.known.find(hash); ok {
		return id, nil
	}
	if id, ok := n.fresh[hash]; ok {
		return id, nil
	}
	id := n.next
	n.next++
	n.fresh[hash] = id
	return id, n.t.exec(`INSERT INTO dims (id, hash, data) VALUES ($1, $2, $3)`, id, hash[:], text)
}
