# Everything that this repository is built, tested and shown with. `make help` lists it.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# An older go fetches the toolchain that go.mod names.
export GOTOOLCHAIN := auto

GO       ?= go
FUZZ     ?= .
FUZZTIME ?= 30s
CACHE    ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache,/tmp)/sluice

GOLANGCI_VERSION := v2.15.0
GOLANGCI         := $(CACHE)/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint

.PHONY: help
help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build sluice, sluice-agent and sluice-proxy into bin/
	@echo "building into bin/ (the first time takes a few minutes)"
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/sluice ./cli
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/sluice-agent ./agent
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/sluice-proxy ./l7proxy

# The tag is the one that the chart asks for unless told otherwise.
IMAGE     ?= localhost/sluice:$(shell awk -F '"' '/^appVersion:/ { print $$2 }' charts/sluice/Chart.yaml)
PLATFORMS ?= linux/amd64,linux/arm64

.PHONY: images
images: ## build the container image for amd64 and arm64 into bin/images/sluice.tar, without Docker; IMAGE and PLATFORMS change it
	$(GO) run ./build/images -image $(IMAGE) -platforms $(PLATFORMS)

.PHONY: demo
demo: build ## show on this machine what Sluice does; needs root; KEEP=1 leaves it running to play with
	bin/sluice demo $(if $(KEEP),--keep)

.PHONY: deps
deps: ## what the race detector needs: as root on Debian it is installed, elsewhere it is named
	@.ci/packages gcc=gcc /usr/include/stdio.h=libc6-dev

# The system tests measure times: they run by themselves.
.PHONY: test
test: deps ## go vet, then all tests with the race detector; as root nothing is left out
	$(GO) vet ./...
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v -e /tests/netns -e '/tests/routes$$')
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./tests/netns
	CGO_ENABLED=1 $(GO) test -race -timeout 10m ./tests/routes
	@$(MAKE) --no-print-directory interop

# Modules of their own, so that what they need never enters go.mod.
.PHONY: interop
interop: deps ## h2spec and grpc-go's own interop tests through the whole path (root)
	cd tests/interop && $(GO) vet . && CGO_ENABLED=1 $(GO) test -race -timeout 20m .

.PHONY: chart
chart: ## helm lint, what the chart renders, and that programs and API take it; SLUICE_UPDATE=1 rewrites what is generated
	cd tests/chart && $(GO) vet . && $(GO) test -timeout 20m .

# The cluster's own program is built into the cache, from where it can be called at any time: cluster exec, kubectl, env.
CLUSTER := $(CACHE)/cluster/bin/cluster

.PHONY: cluster-program
cluster-program:
	@mkdir -p $(dir $(CLUSTER)); cd tests/cluster && $(GO) build -o $(CLUSTER) .

.PHONY: cluster
cluster: cluster-program ## bring up a real Kubernetes of two nodes on this machine, with Sluice (root; the first time it takes a quarter of an hour)
	cd tests/cluster && $(CLUSTER) up

.PHONY: cluster-down
cluster-down: cluster-program ## remove that cluster, also one that came up only half
	$(CLUSTER) down

.PHONY: cluster-test
cluster-test: cluster ## what Sluice does in the cluster, the twins of the routes' tests included; RUN=expression chooses
	cd tests/cluster && eval "$$($(CLUSTER) env)" && SLUICE_CLUSTER=$(CLUSTER) $(GO) test -count 1 -v -timeout 40m $(if $(RUN),-run '$(RUN)') ./e2e

.PHONY: conformance
conformance: cluster ## the Gateway API's own conformance suite in the cluster, all mesh features; writes the report to conformance/
	cd tests/conformance && eval "$$($(CLUSTER) env)" && SLUICE_CLUSTER=$(CLUSTER) SLUICE_VERSION="$$(git describe --always --dirty)" SLUICE_INFER=$(INFER) \
		SLUICE_REPORT=$(CURDIR)/conformance/$(or $(CHANNEL),standard)$(if $(INFER),-inferred)-report.yaml $(GO) test -count 1 -v -timeout 60m .

.PHONY: test-unprivileged
test-unprivileged: ## the tests that need no root, as an ordinary user (as root: as nobody)
	@.ci/test-unprivileged

.PHONY: lint
lint: $(GOLANGCI) ## go vet, gofmt, go fix and golangci-lint
	$(GO) vet ./...
	@echo gofmt; bad=$$(git ls-files -co --exclude-standard '*.go' | xargs "$$($(GO) env GOROOT)/bin/gofmt" -l); \
		if [ -n "$$bad" ]; then echo "not formatted, run gofmt -w on: $$bad"; exit 1; fi
	@echo go fix; $(GO) fix -diff ./...
	$(GOLANGCI) run
	@for module in tests/interop tests/chart tests/cluster tests/conformance; do echo $$module; \
		(cd $$module && $(GO) vet ./... && $(GO) fix -diff ./... && $(GOLANGCI) run) || exit 1; done

$(GOLANGCI):
	@echo "building golangci-lint $(GOLANGCI_VERSION) into $(CACHE), once (about three minutes)"
	@mkdir -p $(@D)
	GOBIN=$(@D) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

.PHONY: generate
generate: ## regenerate the BPF objects, their Go types, and the CRDs' schemas
	@.ci/packages clang=clang llvm-strip=llvm /usr/include/bpf/bpf_helpers.h=libbpf-dev /usr/include/linux/bpf.h=linux-libc-dev
	$(GO) generate ./...

.PHONY: check-generated
check-generated: generate ## regenerate, and fail when what is committed differs
	@git diff --exit-code --stat -- . || { echo "what is generated is not what is committed: run 'make generate' and commit it"; exit 1; }

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s); FUZZ=./l7proxy/router names a folder
	@grep -rlE '^func Fuzz' --include='*_test.go' $(FUZZ) | xargs -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -d' ' -f2); do \
			echo "== $$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x ./$$dir; \
		done; done

.PHONY: bench-micro
bench-micro: ## router match, header edit, one exchange over real sockets; allocations per request in the real proxy (root)
	$(GO) test -run '^$$' -bench . -benchmem ./l7proxy/router ./l7proxy/filter ./l7proxy/http1 ./l7proxy/http2/... ./l7proxy/forward
	$(GO) test -count 1 -v -run '^TestNoAllocationPer' ./tests/netns

.PHONY: instructions
instructions: ## instructions per exchange, under valgrind, against the committed baseline; UPDATE=1 writes a new one
	@.ci/packages valgrind=valgrind
	SLUICE_INSTRUCTIONS=1 $(if $(UPDATE),SLUICE_UPDATE=1 )$(GO) test -count 1 -v ./tests/instructions

.PHONY: bench
bench: ## measure beside HAProxy, nginx, Envoy and others (root, half an hour); writes docs/performance.*; BENCH=-quick is a smoke test
	$(GO) run ./tests/bench $(BENCH)

.PHONY: mutations
mutations: ## break the code in known ways and see that the tests notice each
	SLUICE_MUTATIONS=1 $(GO) test -count 1 -v -timeout 20m ./tests/mutations

.PHONY: verify
verify: deps ## what takes long: heavy loads, the programs built with the race detector, every fuzz target, mutations
	SLUICE_VERIFY=1 CGO_ENABLED=1 $(GO) test -count 1 -race -timeout 60m $$($(GO) list ./... | grep -v -e /tests/netns -e '/tests/routes$$')
	SLUICE_RACE=1 CGO_ENABLED=1 $(GO) test -count 1 -race -timeout 10m ./tests/routes
	SLUICE_VERIFY=1 $(GO) test -count 1 -v -timeout 60m ./tests/netns
	SLUICE_RACE=1 CGO_ENABLED=1 $(GO) test -count 1 -v -timeout 60m -skip '^TestNoAllocationPer|^TestManyHTTP2' ./tests/netns
	cd tests/interop && SLUICE_VERIFY=1 CGO_ENABLED=1 $(GO) test -count 1 -v -timeout 30m .
	cd tests/interop && SLUICE_RACE=1 CGO_ENABLED=1 $(GO) test -count 1 -timeout 30m .
	@$(MAKE) --no-print-directory fuzz mutations

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin
