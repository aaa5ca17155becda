# Everything a developer runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/reef-operator
export REEF_TOOLS ?= $(CACHE)/tools
DENY_VERSION := 0.20.2
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
SANDBOX := $(BUILT)/reef-sandbox
DIR ?= .reef-sandbox
# End-to-end stories at a time: each has a sandbox of its own, of about 2 GB, and waits for most of its time.
STORIES ?= 3

.PHONY: help
help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: prerequisites
prerequisites:
	@need() { command -v "$$1" >/dev/null || { echo "error: $$1 is missing: $$2" >&2; exit 1; }; }; \
	need cargo "install Rust 1.95 or later from https://rustup.rs"; \
	need go "install Go 1.26 or later from https://go.dev/dl"; \
	need cc "install a C compiler (Debian package gcc)"; \
	need unshare "install util-linux"; \
	need setpriv "install util-linux"; \
	unshare --user --map-root-user --mount --net --uts --pid --fork --mount-proc true 2>/dev/null || { \
	  echo "error: the sandbox needs unprivileged user namespaces: on Debian set sysctl kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0" >&2; exit 1; }

.PHONY: tools
tools: prerequisites ## Build etcd, the Kubernetes control plane and helm (four to six minutes, once)
	@e2e/tools/build.sh "$(REEF_TOOLS)"

.PHONY: build
build: prerequisites ## Build the operator and the sandbox
	cargo build --workspace --locked

.PHONY: demo
demo: tools build ## Run the sandbox with the operator and the samples; DEMO_EXIT=1 ends when all are Ready
	@$(SANDBOX) up --dir "$(DIR)" --samples docs/samples $(if $(DEMO_EXIT),--exit-when-ready)

.PHONY: test
# Not after `build`: the tests' own features would have it compile much of it again.
test: tools ## Run every test, unit to end to end
	RUST_BACKTRACE=0 RUST_TEST_THREADS=$(STORIES) cargo test --workspace --locked --no-fail-fast

.PHONY: random-worlds
random-worlds: tools ## Try SEEDS=20 new random worlds (about two minutes each); SEED=7 repeats one
	$(if $(SEED),REEF_SEED=$(SEED),REEF_SEEDS=$(or $(SEEDS),20)) cargo test --package reef-e2e --test stories --locked -- --nocapture random_worlds::

.PHONY: crash-matrix
crash-matrix: tools ## Kill the operator before and after each of its writes (about 80 minutes; SHARD=2/3 for a part)
	REEF_CRASHES=$(or $(CRASHES),all) $(if $(SHARD),REEF_SHARD=$(SHARD)) $(if $(SEED),REEF_SEED=$(SEED)) \
	  RUST_TEST_THREADS=$(STORIES) cargo test --package reef-e2e --test stories --locked -- --nocapture crash_matrix::

.PHONY: test-recordings
test-recordings: prerequisites ## Try client and emulator against recorded traffic: ARM_RECORDINGS=folder
	RUST_BACKTRACE=0 cargo test --workspace --test recordings --locked -- --nocapture --test-threads 1 client:: emulator::

.PHONY: test-azure
# The program itself and not cargo is what Ctrl-C meets: cargo would end at once, and leave it behind while it cleans up.
test-azure: ## Run the story on a real subscription, which COSTS MONEY (docs/test-azure.md); CLEAN=1 only cleans up
	@built="$$(cargo test --package reef-e2e --test stories --locked --no-run 2>&1 | tee /dev/stderr)"; \
	program="$$(sed -n 's/.*Executable tests.stories.main.rs (\(.*\)).*/\1/p' <<<"$$built")"; \
	exec "$$program" --ignored --exact --nocapture real_azure::$(if $(CLEAN),clean_up,from_creation_to_deletion)

.PHONY: generate
generate: ## Write the CRDs, the chart's copies of them and the API reference
	cargo run --quiet --locked --package reef-crds --bin crdgen

.PHONY: check
check: tools cargo-deny ## Format, lints, licences, generated files, charts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo build --workspace --all-targets --locked
	$(BUILT)/crdgen --check
	cargo deny --log-level error check bans licenses sources
	"$(REEF_TOOLS)/helm" lint --quiet --strict charts/reef-operator-crds
	"$(REEF_TOOLS)/helm" lint --quiet --strict charts/reef-operator --set fleet=lint

.PHONY: cargo-deny
cargo-deny: prerequisites
	@cargo deny --version 2>/dev/null | grep -qF " $(DENY_VERSION)" || { \
	  echo "installing cargo-deny $(DENY_VERSION) (about two minutes, once)"; \
	  cargo install cargo-deny --locked --quiet --debug --version $(DENY_VERSION); }

.PHONY: clean
clean: ## Remove what was built here (the tools in the cache stay)
	cargo clean
