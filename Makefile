# The commands of a working day; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# Without it every process compiles our modules again, and pytest its tests: five seconds of each.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL = PYTHON=$(PYTHON) requirements/install.sh $(BIN)/python
HOST   ?= 127.0.0.1
PORT   ?= 8000

# `make serve CUDA=1 MODEL=…` installs the CUDA lock and serves a model of yours; without them: the demo.
LOCK   := requirements/$(if $(CUDA),cuda,cpu).txt
SERVE   = $(if $(MODEL),--model $(MODEL),--demo) $(ARGS)

# torch's CPU build is on no public index of packages: ask the configured ones first, then PyTorch's own.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_CPU       := $(shell sed -n 's/^\(torch==[^ ]*+cpu\).*/\1/p' $(LOCK) 2>/dev/null)

.PHONY: help setup serve test test-unit unit-server unit-others test-served test-processes test-fast fast-server fast-others test-long test-real test-clients test-accessibility screenshots conformance mutants lint format lock bench soak docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \t\2/p' Makefile | expand -t 20

$(VENV)/.runtime-$(notdir $(LOCK)): $(LOCK) pyproject.toml
	@echo "installing $(LOCK) into $(VENV)"
	@if [ -n "$(TORCH_CPU)" ]; then \
	  $(INSTALL) --no-deps '$(TORCH_CPU)' || \
	  $(INSTALL) --no-deps --index-url $(TORCH_CPU_INDEX) '$(TORCH_CPU)'; fi
	@$(INSTALL) --no-deps -r $(LOCK)
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime-$(notdir $(LOCK)) requirements/dev.txt requirements/quantize.txt requirements/preferences.txt requirements/cluster.txt
	@echo "installing requirements/dev.txt, quantize.txt, preferences.txt and cluster.txt into $(VENV)"
	@$(INSTALL) --no-deps -r requirements/dev.txt -r requirements/quantize.txt -r requirements/preferences.txt \
	  -r requirements/cluster.txt
	@touch $@

$(VENV)/.mutants: $(VENV)/.dev requirements/mutants.txt
	@$(INSTALL) --no-deps -r requirements/mutants.txt
	@touch $@

setup: $(VENV)/.runtime-$(notdir $(LOCK)) ## make .venv and install what the server needs

# Before gigabytes are downloaded for nothing.
.PHONY: gpu
gpu:
	@nvidia-smi -L >/dev/null 2>&1 || { echo "CUDA=1 needs an NVIDIA GPU, and nvidia-smi lists none. Leave CUDA=1 out to serve on the CPU." >&2; exit 1; }

serve: $(if $(CUDA),gpu) setup ## start the server (the demo, or MODEL=… on CUDA=1)
	@exec $(BIN)/loragate serve $(SERVE) --host $(HOST) --port $(PORT)

# Those that start, stop and kill servers of their own wait for most of their time: two at once.
# schemathesis's plugin takes a second of each process; only tests/e2e/test_fuzzing.py uses the library.
UNIT := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:schemathesis
# Tests without an engine run in two processes, one thread each. The first imports vLLM, the second only torch: workers
# of one run would each collect every test, and import everything. With more cores, each of the two has workers.
LIGHT       := tests/unit/server/cli tests/unit/server/fairness
UNIT_SERVER := tests/unit/server $(addprefix --ignore ,$(LIGHT)) tests/unit/sampling tests/unit/deploy \
  $(sort $(wildcard tests/unit/test_*.py))
UNIT_OTHERS := tests/unit/adapters tests/unit/benchmarks tests/unit/demo $(LIGHT)
WORKERS     := $(shell expr $$(nproc) / 2)
PARALLEL    := $(if $(filter 0 1,$(WORKERS)),,-n $(WORKERS) --maxprocesses 4 --dist loadfile)
FAST        := $(PARALLEL) --hypothesis-profile fast -m "not long and not slow and not postgres" $(ARGS)
COVERED     := $(PARALLEL) --cov --cov-report= --cov-fail-under=0
BESIDE      := $(MAKE) -j2 --no-print-directory --output-sync=target
# With ARGS, one of the two may have no test that fits: pytest's exit code 5.
MAY_BE_NONE := $(if $(ARGS),|| [ $$? -eq 5 ])

test: $(VENV)/.dev ## run the whole suite; with ARGS="…" what pytest is told
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(MAKE) --no-print-directory test-unit test-served test-processes
endif

test-unit: $(VENV)/.dev ## everything without an engine, with its coverage
	@$(BESIDE) unit-server unit-others
	@$(BIN)/coverage combine --quiet .coverage.server .coverage.others
	@$(BIN)/coverage report

unit-server: ; @COVERAGE_FILE=.coverage.server $(UNIT) $(UNIT_SERVER) $(COVERED)
unit-others: ; @COVERAGE_FILE=.coverage.others $(UNIT) $(UNIT_OTHERS) $(COVERED)

# A test waits for its server most of the time, so two of them, with a server each, share the cores; but not those that
# measure times.
SERVED := $(BIN)/python -m pytest tests/console tests/e2e tests/engine tests/gpu tests/isolation

test-served: $(VENV)/.dev ## what one server or one engine is asked
	@$(SERVED) -m "not long and not alone" -n 2 --dist loadfile
	@$(SERVED) -m "alone and not long"

test-processes: $(VENV)/.dev ## servers that are started, stopped and killed
	@$(BIN)/python -m pytest tests/cluster tests/processes -n 2 --dist loadfile

test-fast: $(VENV)/.dev ## everything without an engine that neither trains, compiles, starts processes nor computes for long
	@$(BESIDE) fast-server fast-others

fast-server: ; @$(UNIT) $(UNIT_SERVER) $(FAST) $(MAY_BE_NONE)
fast-others: ; @$(UNIT) $(UNIT_OTHERS) $(FAST) $(MAY_BE_NONE)

test-long: $(VENV)/.dev ## the long forms: many kills, large statistics, all examples of random tests
	@$(BIN)/python -m pytest --hypothesis-profile long -m long $(ARGS)

test-real: $(VENV)/.dev ## what is served is what peft computes: a real model, in the folder LORAGATE_REAL_MODEL (10 minutes)
ifdef LORAGATE_REAL_MODEL
	@$(BIN)/python -m pytest tests/real -s $(ARGS)
else
	@echo "test-real is skipped: LORAGATE_REAL_MODEL names no folder of a real model, such as Qwen2.5-Coder-0.5B-Instruct."
endif

# vLLM's tests come with its source distribution; .conformance keeps it.
conformance: $(VENV)/.dev ## vLLM's own OpenAI and Anthropic tests against a running demo (4 minutes)
	@PYTHONPATH=.:tests $(BIN)/python tests/conformance/run.py $(ARGS)

# Each lock of clients has an environment of its own beside $(VENV): the clients want other versions than the server.
$(VENV)-%/.installed: requirements/%.txt
	@echo "installing $< into $(@D)"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r $<
	@touch $@

tests/clients/node/node_modules: tests/clients/node/package-lock.json
	@cd $(@D) && npm ci --omit=optional --no-progress --loglevel=error
	@touch $@

CLIENTS := clients clients-openai3
test-clients: $(VENV)/.dev $(CLIENTS:%=$(VENV)-%/.installed) tests/clients/node/node_modules ## the clients people use, against a running demo (Node 20 or later)
	@PYTHONPATH=.:tests $(BIN)/python tests/clients/run.py "openai 2=$(VENV)-clients" "openai 3=$(VENV)-clients-openai3" $(ARGS)

tests/console/node_modules: tests/console/package-lock.json
	@cd $(@D) && npm ci --ignore-scripts --no-progress --loglevel=error
	@touch $@

test-accessibility: $(VENV)/.dev tests/console/node_modules ## axe-core looks at every view of the console (Node, Chromium)
	@$(BIN)/python -m pytest tests/console/test_accessibility.py $(ARGS)

screenshots: $(VENV)/.dev ## make the console's pictures in docs/images again (Chromium)
	@CONSOLE_SCREENSHOTS=1 $(BIN)/python -m pytest tests/console/test_screenshots.py

# `make mutants MODULE=server.auth` for one of them.
mutants: $(VENV)/.mutants ## change the code that decides, and see that a test fails; at most 5 % survive
	@rm -rf mutants
	@OMP_NUM_THREADS=1 $(BIN)/mutmut run $(addsuffix *,$(MODULE)) >/dev/null || true
	@$(BIN)/python tests/lint/mutants.py

lint: $(VENV)/.dev ## ruff, import contracts, sizes, strict types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python tests/lint/sizes.py
	@$(BIN)/mypy

format: $(VENV)/.dev ## let ruff rewrite the layout of the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The CPU build of torch is looked up where pip looks it up (PIP_FIND_LINKS), then on PyTorch's own index.
lock: ## make the locks from requirements/*.in
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(PIP) install uv; }
	@cd requirements && compile() { \
	  ../$(BIN)/uv pip compile --quiet --python-version 3.11 --no-header --annotation-style line --upgrade \
	  --no-emit-index-url --no-emit-find-links "$$@"; } && \
	{ UV_FIND_LINKS="$$PIP_FIND_LINKS" compile cpu.in --override cpu.overrides -o cpu.txt || \
	  compile cpu.in --override cpu.overrides --index $(TORCH_CPU_INDEX) --index-strategy unsafe-best-match -o cpu.txt; } && \
	compile cuda.in --python-platform x86_64-manylinux_2_28 -o cuda.txt && \
	compile dev.in -o dev.txt && \
	compile clients.in -o clients.txt && \
	compile clients-openai3.in -o clients-openai3.txt && \
	compile docs.in -o docs.txt && sed -i '/-c cpu.txt/d; /-c dev.txt/d' docs.txt && \
	compile mutants.in -o mutants.txt && sed -i '/-c cpu.txt/d; /-c dev.txt/d' mutants.txt && \
	compile cluster.in -o cluster.txt && sed -i '/-c cpu.txt/d; /-c dev.txt/d' cluster.txt && \
	{ UV_FIND_LINKS="$$PIP_FIND_LINKS" compile quantize.in --override cpu.overrides -o quantize.txt || \
	  compile quantize.in --override cpu.overrides --index $(TORCH_CPU_INDEX) --index-strategy unsafe-best-match \
	  -o quantize.txt; } && \
	{ UV_FIND_LINKS="$$PIP_FIND_LINKS" compile preferences.in --override cpu.overrides -o preferences.txt || \
	  compile preferences.in --override cpu.overrides --index $(TORCH_CPU_INDEX) --index-strategy unsafe-best-match \
	  -o preferences.txt; } && \
	sed -i '/-c cpu.txt/d' quantize.txt preferences.txt # what the server's lock has already

bench: $(VENV)/.dev ## run a benchmark: make bench ARGS="serving --help"
	@$(BIN)/python -m benchmarks $(ARGS)

MINUTES ?= 20
soak: $(VENV)/.dev ## swaps, limits and disconnects for MINUTES=20: no error, no growth
	@$(BIN)/python -m benchmarks soak --minutes $(MINUTES) $(ARGS)

$(VENV)/.docs: $(VENV)/.dev requirements/docs.txt
	@echo "installing requirements/docs.txt into $(VENV)"
	@$(INSTALL) --no-deps -r requirements/docs.txt
	@touch $@

docs: $(VENV)/.docs ## build the documentation site into site/; a warning is an error
	@$(BIN)/python -m sampling.options_table docs/decoding.md
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --clean

clean: ## remove .venv and caches
	rm -rf $(VENV) $(VENV)-* .conformance tests/clients/node/node_modules tests/console/node_modules site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* mutants
