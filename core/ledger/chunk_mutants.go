//go:build mutants

package ledger

// ChunkSize is small in the simulation, where an owner has few holds: memory lets go of whole chunks.
const ChunkSize = 8
