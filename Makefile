# The only door: people and machines call the same targets.

CARGO ?= cargo
OUT = $(or $(CARGO_TARGET_DIR),target)
# The runner of tests: nextest where there is one.
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
SEEDS ?= $(if $(SEED),1,2000)
SEED ?=
SECONDS ?= 30
KILLS ?= 300
LEGS ?= 54
HOLD ?= 30
CUTS ?= 200
REPLAYS ?= 2000
LIVES ?= 8
SECOND ?= 20
ONLY ?=

.PHONY: help demo test tools check unit models bench mutants sim crashpoints kills isolation powercuts fuzz figures fuzz-coverage sanitizers

help:
	@echo 'make demo [DISK=path] [VAULT=url]   a disk under load, replicated and restored, in a minute'
	@echo 'make test                           everything that must hold'
	@echo 'make check                          format, lints, documentation'
	@echo 'make sim [SEEDS=n] [SEED=s]         the simulator: seed s, n from s on, or n more and a line to tests/CAMPAIGNS.md'
	@echo 'make crashpoints [LIVES=n] [SECOND=n] a crash at each step of small lives, and of one in n another in the recovery'
	@echo 'make kills [KILLS=n] [SEED=s]       kill -9 under verified load; adds a line to tests/CAMPAIGNS.md'
	@echo 'make isolation [LEGS=n] [HOLD=s]    sidecar or store full, stalled, gone under verified load; adds a line there too'
	@echo 'make powercuts [CUTS=n] [REPLAYS=n]  power cuts of an emulated machine, and of a record of its drives; likewise'
	@echo 'make fuzz [SECONDS=n] [TARGET=name] [SANITIZER=none] what reads foreign bytes, fed by a fuzzer; adds lines there too'
	@echo 'make fuzz-coverage                  which regions of the decoders the committed inputs reach, 90 % at least: tests/COVERAGE.md'
	@echo 'make sanitizers [PACKAGE=name] [ONLY=address|thread|miri]  what is unsafe or has threads, under sanitizers and in Miri'
	@echo 'make figures                        adds up what the campaigns ran, at the end of tests/FAILURES.md'
	@echo 'make models                         what processes share in memory, in every order of accesses'
	@echo 'make mutants [ONLY=name]            the tests notice known bugs; writes tests/MUTANTS.md'
	@echo 'make bench [ARGS=...]               speed, side by side with others'

demo:
	$(CARGO) build --release -p towline-tracker -p towline -p towline-tests --bins
	TOWLINE_BIN_DIR='$(abspath $(OUT))/release' '$(OUT)/release/towline-demo' \
		$(if $(DISK),--disk '$(DISK)') $(if $(VAULT),--vault '$(VAULT)')

test: tools check unit models mutants

tools:
	tests/tools/install.sh
	tests/tools/guest.sh '$(abspath $(OUT))/guest'
	tests/tools/servers.sh '$(abspath $(OUT))/tools'

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The programs are built first, where the integration tests look for them.
unit: tools
	$(CARGO) build --workspace --bins
ifeq ($(NEXTEST),yes)
	TOWLINE_BIN_DIR='$(abspath $(OUT))/debug' $(CARGO) nextest run --workspace --no-fail-fast
	$(CARGO) test --workspace --doc
else
	TOWLINE_BIN_DIR='$(abspath $(OUT))/debug' $(CARGO) test --workspace --no-fail-fast
endif

# In a build of its own: the words of maps and headers are loom's. As with all mutants no assertion of the product's helps.
models:
	CARGO_TARGET_DIR='$(abspath $(OUT))/models' RUSTFLAGS='--cfg loom' \
		$(CARGO) test --profile mutants -p towline-tracker --lib -- schedules::models

# The programs with their bugs on demand, without debug assertions; then each bug until it is killed. Writes the table.
mutants: tools models
	$(CARGO) build --profile mutants --workspace --bins --features towline-tests/mutants
	TOWLINE_BIN_DIR='$(abspath $(OUT))/mutants' TOWLINE_ONLY='$(ONLY)' $(CARGO) test --profile mutants -p towline-tests \
		--features mutants --test it -- --exact mutants::every_mutant_is_killed --nocapture

# Goes on behind the last seed of the table; one seed is replayed, with a trace if it fails.
sim:
	TOWLINE_SEEDS='$(SEEDS)' TOWLINE_SEED='$(SEED)' $(if $(SEED),,TOWLINE_CAMPAIGNS='$(CURDIR)/tests/CAMPAIGNS.md') \
		$(CARGO) test --profile sim -p towline-tests --test it -- --nocapture --exact sim::random_seeds_break_no_promise
	$(if $(SEED),,$(MAKE) figures)

# Eight lives of each workload are of one disk and of two, direct and buffered, exact and fuzzy.
crashpoints:
	TOWLINE_LIVES='$(LIVES)' TOWLINE_SECOND='$(SECOND)' TOWLINE_SEED='$(SEED)' TOWLINE_CAMPAIGNS='$(CURDIR)/tests/CAMPAIGNS.md' \
		$(CARGO) test --profile sim -p towline-tests --test it -- --nocapture --exact crashpoints::a_crash_at_every_step_breaks_no_promise
	$(MAKE) figures

kills: tools
	$(CARGO) build --workspace --bins
	TOWLINE_BIN_DIR='$(abspath $(OUT))/debug' TOWLINE_KILLS='$(KILLS)' TOWLINE_SEED='$(SEED)' \
		TOWLINE_CAMPAIGNS='$(CURDIR)/tests/CAMPAIGNS.md' \
		$(CARGO) test -p towline-tests --test it -- --nocapture --exact kills::programs_killed_at_any_moment_cost_no_guest_a_write
	$(MAKE) figures

isolation: tools
	$(CARGO) build --workspace --bins
	TOWLINE_BIN_DIR='$(abspath $(OUT))/debug' TOWLINE_LEGS='$(LEGS)' TOWLINE_HOLD='$(HOLD)' TOWLINE_SEED='$(SEED)' \
		TOWLINE_CAMPAIGNS='$(CURDIR)/tests/CAMPAIGNS.md' $(CARGO) test -p towline-tests --test it -- --nocapture \
		--exact isolation::guests_wait_neither_for_the_sidecar_nor_for_the_store
	$(MAKE) figures

# Goes on behind the last seed of the table, optimized and with every assertion; a line is renewed whenever a machine's or a
# record's cuts are over. What was mounted is gone with the run, however it ends.
powercuts: tools
	$(CARGO) build --profile sim --workspace --bins
	TOWLINE_BIN_DIR='$(abspath $(OUT))/sim' TOWLINE_CUTS='$(CUTS)' TOWLINE_REPLAYS='$(REPLAYS)' \
		TOWLINE_SEED='$(SEED)' TOWLINE_CAMPAIGNS='$(CURDIR)/tests/CAMPAIGNS.md' unshare --mount \
		$(CARGO) test --profile sim -p towline-tests --test it -- --nocapture --test-threads 1 powercuts:: replays::
	$(MAKE) figures

fuzz:
	nice -n 10 tests/tools/fuzz.sh '$(SECONDS)' '$(abspath $(OUT))' '$(TARGET)' '$(SANITIZER)'
	$(MAKE) figures

figures:
	TOWLINE_FIGURES=1 $(CARGO) test -p towline-tests --test it -- --exact campaigns::the_figures_are_the_sums_of_all_runs

fuzz-coverage:
	nice -n 5 tests/tools/fuzz-coverage.sh '$(abspath $(OUT))' '$(TARGET)'

sanitizers:
	nice -n 5 tests/tools/sanitizers.sh '$(abspath $(OUT))' '$(PACKAGE)' '$(ONLY)'

bench: tools
	benches/tools/install-peers.sh
	$(CARGO) build --release --workspace --bins
	$(CARGO) run --release -p towline-benches -- $(or $(ARGS),--help)
