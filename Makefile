# Two commands do everything, set-up included: `make demo` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Where the machine has certificates of its own, use them: networks with a TLS proxy install theirs there.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS := true
endif

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PRODUCT := agent controller tests tools packaging setup.py

help: ## show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv, with everything that the other targets need

$(READY): pyproject.toml uv.lock setup.py tools/setup.sh $(wildcard agent/native/*.[ch]) $(shell find proto -name '*.proto')
	@tools/setup.sh

demo: $(READY) ## screen made-up traffic under two policies, live calls with the daemon, then a whole fleet
	@tools/demo.sh
	@$(PY) -m tools.demo_fleet

demo-fleet: $(READY) ## the last part of it: a controller, three agents, calls that never stop
	@$(PY) -m tools.demo_fleet

test: $(READY) ## run all tests, with real peers (Kamailio, sipp) where they can be had
	@tools/test-tools.sh
	@$(PY) -m pytest -q

test-fast: $(READY) ## run the tests that take under five seconds each
	@$(PY) -m pytest -q -m "not slow"

lint: $(READY) ## style, types, the walls around the core, and the contracts
	@$(VENV)/bin/ruff check $(PRODUCT)
	@$(VENV)/bin/ruff format --check $(PRODUCT)
	@$(VENV)/bin/mypy
	@$(VENV)/bin/buf lint

breaking: $(READY) ## whether the contracts still serve the clients of the last release (tag v*)
	@release=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || { echo "no release to compare with"; exit 0; }; \
	$(VENV)/bin/buf breaking --against ".git#tag=$$release"

sanitize: $(READY) ## run the compiled twins under the address and undefined-behaviour sanitizers
	@PYTHON=$(PY) tests/fuzz/sanitize.sh

fuzz: $(READY) ## fuzz SIP and HTTP/2 for FUZZ_SECONDS in all (default 600); crashes become corpus files
	@$(VENV)/bin/uv sync --frozen --quiet --all-extras --group fuzz
	@status=0; for target in sip http2; do \
		$(PY) -m tests.fuzz.fuzz_$$target --seconds $$(($${FUZZ_SECONDS:-600} / 2)) || status=1; \
	done; exit $$status

bench: $(READY) ## measure, print ratios, write build/bench.json
	@$(PY) -m tests.benchmarks.run

wheel: $(READY) ## build the installable package into dist/
	@rm -rf dist && $(VENV)/bin/uv build --quiet --wheel --out-dir dist && ls dist

deb: $(READY) ## build the Debian packages into dist/ (ARCH=arm64 for that machine)
	@tools/package/deb.sh

deb-check: $(READY) ## build them twice and compare, lintian, exposure of the service
	@tools/package/check.sh

deb-python: ## lock the Python that Debian has today, security fixes included, for the next `make deb`
	@tools/package/python_debs.sh lock amd64 arm64 && git --no-pager diff --stat -- packaging/tree/python.lock

repo: ## put dist/*.deb into a signed apt repository, dist/repo (KEY=ID of yours; KEY=test: one that is thrown away)
	@tools/package/repo.sh $(if $(filter test,$(KEY)),--test-key,--key "$(KEY)")

DISTROS ?= bookworm
test-install: $(READY) ## install, run, upgrade and purge the packages in a booted Debian 12 (DISTROS="bookworm jammy noble"; needs root)
	@for one in $(DISTROS); do DISTRO=$$one packaging/test-install || exit 1; done
	@packaging/test-install-kamailio
	@packaging/test-install-controller
	@packaging/test-install-upgrade

KERNELS ?= bookworm
test-kernels: $(READY) ## what talks to the kernel, under a distribution's own in QEMU (KERNELS="bookworm jammy noble"; needs root)
	@packaging/test-kernels $(KERNELS)

clean: ## remove everything that was built, .venv too
	rm -rf $(VENV) build dist sbcedge *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis agent/native/*.so

.PHONY: help setup demo demo-fleet test test-fast lint breaking sanitize fuzz bench wheel deb deb-check deb-python repo test-install test-kernels clean
