//go:build !mutants

package ledger

// ChunkSize is how many holds of an owner share one chunk record of marks.
const ChunkSize = 4096
