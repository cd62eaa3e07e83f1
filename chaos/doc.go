// Package chaos runs real processes (three replicas, an etcd of three members, clients) on loopback, breaks them on a random
// schedule that a seed repeats, and has package oracle judge what is left. It is all tests: see `make chaos`.
package chaos
