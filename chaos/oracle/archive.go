package oracle

import (
	"path/filepath"

	"github.com/chartergate/chartergate/store/archive"
)

// Archives are the directories to which servers collected their journals; one that is empty yet is fine.
type Archives []string

// Each gives the batches that were collected.
func (dirs Archives) Each(batch func(owner string, n uint64, data []byte) error) error {
	for _, dir := range dirs {
		if kept, err := filepath.Glob(filepath.Join(dir, "*.journal")); err != nil || len(kept) == 0 {
			if err != nil {
				return err
			}
			continue
		}
		r, err := archive.NewReader(dir)
		if err != nil {
			return err
		}
		for b, err := range r.Batches() {
			if err != nil {
				return err
			}
			if err := batch(b.Owner, b.N, b.Data); err != nil {
				return err
			}
		}
	}
	return nil
}
