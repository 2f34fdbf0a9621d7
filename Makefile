# Each target does the set-up that it needs, once: one virtual environment with two stamps, `run`
# (the package alone, so that `make demo` starts soon) and `dev` (the tools besides).

VENV ?= .venv
PYTHON ?=
NT_PYTHON ?= python3.11
WORKERS ?= 2
ARGS ?=
BENCH ?= $(sort $(wildcard benchmarks/[!_]*.py))

PEERS := $(VENV)-peers
NT := $(patsubst benchmarks/neural_tangents_%.txt,%,$(wildcard benchmarks/neural_tangents_*.txt))
BIN := $(VENV)/bin
RUN := $(VENV)/.stamp-run
DEV := $(VENV)/.stamp-dev
INSTALL = scripts/make-venv "$(VENV)" "$(PYTHON)" && echo "Setting up $(VENV) (once)" && \
  $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-slow bench bench-peers bench-nt lint format notebooks clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r name text; do printf '%-18s %s\n' "$$name" "$$text"; done
	@echo 'Variables: ARGS="-k kernel" (passed on), WORKERS=2, BENCH=benchmarks/x.py, PYTHON=python3.12, VENV=.venv'

demo: $(RUN) ## set up once, then `implicit-ntk run`
	@$(BIN)/implicit-ntk run $(ARGS)

test: $(DEV) ## set up once, then the tests, the slow ones left out
	@$(BIN)/pytest -n $(WORKERS) $(ARGS)

test-slow: $(DEV) ## every test
	@$(BIN)/pytest -n $(WORKERS) -m "" $(ARGS)

bench: $(DEV) ## every script in benchmarks/, or those named by BENCH
	@for script in $(BENCH); do echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; done

bench-peers: ## benchmarks/solvers.py beside other libraries, in an environment of its own
	@scripts/make-venv "$(PEERS)" "$(PYTHON)"
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e . -r benchmarks/peers.txt
	@$(PEERS)/bin/python benchmarks/solvers.py $(ARGS)

bench-nt: $(DEV) ## benchmarks/ntk_vs_neural_tangents.py, with the old versions of jax that it runs with
	@for name in $(NT); do \
	  scripts/make-venv ".venv-nt-$$name" "$(NT_PYTHON)" && ".venv-nt-$$name/bin/python" -m pip install -qq \
	    --disable-pip-version-check -r "benchmarks/neural_tangents_$$name.txt" || exit 1; done
	@$(BIN)/python benchmarks/ntk_vs_neural_tangents.py $(ARGS)

lint: $(DEV) ## ruff and pyright, changing nothing
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(DEV) ## ruff, changing what it can mend
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

notebooks: $(DEV) ## run every notebook and keep its output in it
	@$(BIN)/python scripts/run_notebooks.py $(sort $(wildcard notebooks/*.ipynb))

clean: ## remove the virtual environment, build products and caches; runs/ stays
	@rm -rf "$(VENV)" "$(PEERS)" $(NT:%=.venv-nt-%) build dist .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): pyproject.toml constraints.txt
	@$(INSTALL) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt
	@$(INSTALL) -e '.[dev]'
	@touch $(RUN) $@
