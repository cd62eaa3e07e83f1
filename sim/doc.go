// Package sim runs the production ledger (server/preflight, core/ledger and the transactions of store/etcd) on several
// replicas over a simulated etcd, network and clock, with faults, and checks the invariants of the ledger protocol after
// every transaction. It has tests only. A seed fixes a run exactly: `make sim SEEDS=N` runs many, `make sim SEED=n` one
// with its trace.
package sim
