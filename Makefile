# Two commands: `make demo` shows the main job, `make test` checks all of it. Both set up what they
# need (bootstrap.sh). `make help` lists the rest.
PY := .venv/bin/python
.DEFAULT_GOAL := help

# Two at once, file by file: the tests of a file share a lab. Their folder has a short name, since
# that of a socket of gpg's is limited (unix(7)); it stays where a test failed.
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
TESTS = folder=$$(mktemp -d /tmp/t.XXXX) && $(PY) -m pytest -q --basetemp=$$folder/b
TIDY = && rm -rf $$folder

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

.PHONY: ready
ready: ## install what is missing: system packages (as root), .venv
	@./bootstrap.sh

.PHONY: ready-for-tests
ready-for-tests: ## the same, and what only tests and benchmarks run
	@./bootstrap.sh tests

.PHONY: demo
demo: ready ## the main job in a lab of 4 blades; KEEP=1 leaves it running
	@$(PY) -m headnode.demo $(if $(KEEP),--keep)

.PHONY: lint
lint: ready-for-tests ## style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

.PHONY: test
test: lint ## lint, types and tests: what CI runs; WORKERS=1 for one after the other
	@$(TESTS) -m "not slow" $(PARALLEL) $(ARGS) $(TIDY)

.PHONY: test-full
test-full: lint ## every test, the long ones too
	@$(TESTS) $(PARALLEL) $(ARGS) $(TIDY)

.PHONY: lab58
lab58: ready-for-tests ## the cycle with 58 blades, for real
	@$(PY) -m pytest -q tests/test_fleet.py $(ARGS)

.PHONY: bench-http
bench-http: ready-for-tests ## our HTTP server against nginx; the last line is JSON
	@$(PY) -P tests/bench/http.py $(ARGS)

.PHONY: bench-tree
bench-tree: ready-for-tests ## trees by image against rsync, and our sync against bare rsync
	@$(PY) -P tests/bench/tree.py $(ARGS)

.PHONY: bench-index
bench-index: ready-for-tests ## one more package to 10,000, against emaint: 10 minutes; the last line is JSON
	@$(PY) -m tests.bench.index $(ARGS)

.PHONY: bench-distcc
bench-distcc: ready-for-tests ## builds with 0, 1, 2, 4 helpers; ARGS=--kernel for Linux; the last line is JSON
	@$(PY) -P tests/bench/distcc.py $(ARGS)

.PHONY: bench-patch
bench-patch: ready-for-tests ## a patch to 58 blades against plain emerge; ARGS=--blades=8; the last line is JSON
	@$(PY) -P tests/bench/patch.py $(ARGS)

.PHONY: bench-scale
bench-scale: ready-for-tests ## 10,000 simulated pulls against server and ledger; the last line is JSON
	@$(PY) -P tests/bench/scale.py $(ARGS)

.PHONY: bench-night
bench-night: ready-for-tests ## nights over 58 blades against plain emerge; ARGS="--blades 8" for fewer; JSON
	@$(PY) -m tests.bench.night $(ARGS)

.PHONY: docs
docs: ready ## the manual: renew what is generated, and make docs/_build/html and headnode.8
	@$(PY) -m config.reference > docs/options.md
	@$(PY) -m headnode.reference > docs/commands.md
	@$(PY) -m headnode.status.api > docs/openapi.json
	@$(PY) -m headnode.remedies > docs/errors.md
	@$(PY) -m sphinx -q -W -b html docs docs/_build/html
	@$(PY) -m sphinx -q -W -b man docs docs/_build/man
	@echo "The manual is docs/_build/html/index.html."

.PHONY: screens
screens: ready-for-tests ## renew the manual's screenshots, in docs/img
	@mkdir -p docs/img
	@SCREENS=docs/img $(PY) -m pytest -q tests/headnode/status/test_screens.py -k fits

.PHONY: clean
clean: ## remove the environment, the lab and all caches
	@! test -x .venv/bin/headnode || .venv/bin/headnode lab down
	@rm -rf .venv .lab dist docs/_build .mypy_cache .pytest_cache .ruff_cache
