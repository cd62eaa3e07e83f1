# `make demo` shows the main job, `make test` runs all tests. Both need Go and nothing else.

TOOL := go tool -modfile=tools/go.mod
BUF  := $(TOOL) buf
GENERATE := $(BUF) generate && $(BUF) generate --template buf.gen.hot.yaml
# What runs concurrently is tested with the race detector too, which needs a C compiler.
CONCURRENT := ./clients/... ./core/ledger ./policy ./replay ./server/... ./store/...
PROTOVALIDATE := github.com/bufbuild/protovalidate@v1.2.2

.PHONY: build demo test race bench router-eval bench-policy fuzz policy-fuzz millions rollups replays crash chaos failpoints sim mutants hostile generate check lint breaking clean

build: ## bin/chartergate
	@go build -trimpath -o bin/chartergate ./cmd/chartergate

demo: build ## AI calls being gated by budgets and policy, in ten seconds
	@bin/chartergate demo

test: ## all tests
	go test ./...

race: ## the concurrent packages with the race detector
	@if [ "$$(go env CGO_ENABLED)" = 1 ] && command -v "$$(go env CC)" >/dev/null; then set -x; go test -race $(CONCURRENT); \
	else echo "make race: SKIPPED: the race detector needs a C compiler ($$(go env CC)) and CGO_ENABLED=1"; fi

bench: build ## what a decision costs: over gRPC as a ratio to an empty call with 1 and 3 servers, a budget used up, and in the process
	@bin/chartergate bench
	@bin/chartergate bench --replicas 3
	@bin/chartergate bench --hot --replicas 3
	go test -run '^$$' -bench . -benchmem ./server/preflight ./policy ./core/pricing

CASES := policy/testdata/cases
router-eval: build ## what the shipped routing policy saves and keeps: on the cases that it was tuned on, and on those that it was not
	@for part in train heldout fresh; do echo "== $$part"; go run $(CASES)/generate.go $(CASES)/$$part.txt | \
	bin/chartergate policy evaluate --cases - --at 2026-11-23 || exit 1; done

bench-policy: ## what a policy's decision costs over the Azure trace, beside plain OPA: the shipped one, one on raw token counts, one that is not compiled
	CHARTERGATE_POLICY_BENCH=1 go test ./policy -run 'TestBenchPolicies$$' -v -count=1

N ?= 5000
FROM ?= 1
policy-fuzz: ## N generated policies from seed FROM: memo and closures decide as plain OPA does (a slice of it is in `make test`)
	CHARTERGATE_POLICY_FUZZ=$(N) CHARTERGATE_POLICY_FUZZ_FROM=$(FROM) go test ./policy -run 'TestFuzz$$' -v -count=1 -timeout 4h

replays: ## the public traces, whole, through a server that is killed meanwhile: reports = rollups = ledger on SQLite and PostgreSQL, and what caching saves
	CHARTERGATE_REPLAYS=all go test ./cmd/chartergate -run 'TestReplaysAddUp|TestReplayedCacheSaving' -v -count=1 -timeout 20m

FUZZTIME ?= 30s
fuzz: ## random operation sequences through the ledger, amounts, and hostile manifests, tokens, records and archives
	go test ./core/ledger -run Invariants -rapid.checks=20000 -rapid.steps=150
	go test ./core/money -run '^$$' -fuzz FuzzArithmetic -fuzztime $(FUZZTIME)
	go test ./manifest -run '^$$' -fuzz FuzzParse -fuzztime $(FUZZTIME)
	go test ./server/preflight -run '^$$' -fuzz FuzzToken -fuzztime $(FUZZTIME)
	go test ./store/etcd -run '^$$' -fuzz FuzzRecords -fuzztime $(FUZZTIME)
	go test ./store/archive -run '^$$' -fuzz FuzzReader -fuzztime $(FUZZTIME)

SETTLEMENTS ?= 10000000
millions: ## what SETTLEMENTS settlements leave in etcd, memory and the archive (a slice of it is in `make test`)
	go test ./cmd/chartergate -run 'TestMillions$$' -count=1 -v -timeout 2h -settlements $(SETTLEMENTS) -millions-clock 1 -millions-rate 10000

FEATURES ?= 1000
DAYS ?= 90
rollups: ## time and memory of an allocation over DAYS x FEATURES x 4 tiers x 10 cohorts on SQLite and PostgreSQL (a slice of it is in `make test`)
	go test ./store/sql -run 'TestRollups$$' -count=1 -v -timeout 2h -rollup-features $(FEATURES) -rollup-days $(DAYS) -rollup-times 5

CRASHES ?= 10
crash: ## kill -9 under load, CRASHES times; an independent oracle adds the ledger up (a slice of it is in `make test`)
	CHARTERGATE_CRASHES=$(CRASHES) go test ./cmd/chartergate -run TestCrashes -count=1 -v

FAULTS ?= 40
SEED ?=
chaos: ## 3 replicas, an etcd of 3 members and clients as processes; FAULTS of every kind; an oracle and porcupine judge
	CHARTERGATE_FAULTS=$(FAULTS) CHARTERGATE_CHAOS_SEED=$(SEED) go test ./chaos -run TestChaos -count=1 -v -timeout 3h

HITS ?= 100
GOFAIL := go.etcd.io/gofail
# A copy of the tree gets the code of its failpoints; this one never has it.
failpoints: ## crashes, stalls and lost answers at every `gofail:` comment, each HITS times, under load; the same oracle judges
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && mkdir "$$dir/tree" && \
	git ls-files -z -co --exclude-standard | tar --null -T - -c | tar -x -C "$$dir/tree" && cd "$$dir/tree" && \
	go get $(GOFAIL)@$$(go list -modfile=tools/go.mod -m -f '{{.Version}}' $(GOFAIL)) && \
	$(TOOL) gofail enable $$(grep -rl --include='*.go' '// gofail: var' . | xargs -n 1 dirname | sort -u) && \
	go build -trimpath -buildvcs=false -o "$$dir/chartergate" ./cmd/chartergate && cd "$(CURDIR)" && \
	CHARTERGATE_HITS=$(HITS) CHARTERGATE_CHAOS_SEED=$(SEED) CHARTERGATE_CHAOS_SERVER="$$dir/chartergate" \
	go test ./chaos -run TestFailpoints -count=1 -v -timeout 2h

SEEDS ?= 2000
sim: ## the ledger of several servers over a simulated etcd, network and clock, with faults: SEEDS=N runs from FROM, for at most FOR (4h); SEED=n: one with its trace
ifdef SEED
	GOGC=800 CHARTERGATE_SIM_SEED=$(SEED) go test -tags mutants ./sim -run 'TestSim$$' -count=1 -v
else
	GOGC=800 CHARTERGATE_SIM_SEEDS=$(SEEDS) CHARTERGATE_SIM_FROM=$(FROM) CHARTERGATE_SIM_FOR=$(FOR) go test -tags mutants ./sim -run 'TestSim$$' -count=1 -v -timeout 4h
endif

mutants: ## each guard of the ledger protocol, switched off in the simulation only, must be missed
	GOGC=800 go test -tags mutants ./sim -run TestEachGuard -count=1 -v -timeout 4h

hostile: ## hostile policies: what becomes of each, time and memory, and what Reserve of a server takes while they are uploaded
	go test ./policy/vetting ./cmd/chartergate -run 'TestHostile' -count=1 -v

generate: .cache/proto ## code and OpenAPI from proto/
	$(BUF) format -w proto
	$(GENERATE)

check: .cache/proto lint breaking ## everything but the tests
	$(GENERATE)
	@git diff --exit-code --stat -- proto/gen || { echo "make check: proto/gen is not what proto/ generates: run make generate and commit"; exit 1; }
	@test -z "$$(git ls-files --others --exclude-standard -- proto/gen)" || { echo "make check: generated files are not committed"; exit 1; }
	go test -run TestImportsPointInward .

lint: .cache/proto
	$(BUF) lint
	$(BUF) format -d --exit-code proto
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "make lint: run gofmt -w on these"; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	go mod tidy -diff

# The contract may grow, but not break: it is compared with the newest release, or before there is one with the first
# commit that had it.
breaking: .cache/proto
	@base=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || git log --reverse --format=%H -- proto/chartergate/v1/preflight.proto | head -n 1); \
	if [ -z "$$base" ]; then echo "make breaking: SKIPPED: no commit has the contract yet"; exit 0; fi; \
	rm -rf .cache/against && mkdir -p .cache/against/.cache && git archive "$$base" buf.yaml proto | tar -x -C .cache/against && \
	cp -r .cache/proto .cache/against/.cache/proto && echo "buf breaking --against $$base" && $(BUF) breaking --against .cache/against

# validate.proto from the Go module that has it: the buf registry is not needed.
.cache/proto:
	@mkdir -p .cache && rm -rf .cache/proto.new && mkdir .cache/proto.new && \
	dir=$$(go mod download -json $(PROTOVALIDATE) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') && \
	cp -r "$$dir/proto/protovalidate/buf" .cache/proto.new/ && chmod -R u+w .cache/proto.new && mv .cache/proto.new .cache/proto

clean:
	rm -rf bin .cache
