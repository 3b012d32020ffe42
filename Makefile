# One verb per kind of work; each bootstraps whatever it needs. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SOAK   ?= 1h
RATE   ?= 1000
PEERS  := iperf=iperf ffmpeg=ffmpeg tcpdump=tcpdump socat=socat tshark=tshark chromium=chromium avahi-daemon=avahi-daemon avahi-browse=avahi-utils upnpc=miniupnpc minidlnad=minidlna ptp4l=linuxptp prometheus=prometheus
PACKAGE := objdump=binutils patchelf=patchelf lintian=lintian
RIVALS := smcrouted=smcroute socat=socat perf=linux-perf
CHECK  := debootstrap=debootstrap systemd-nspawn=systemd-container setpriv=util-linux setcap=libcap2-bin

export PATH := $(PATH):/usr/sbin:/sbin
# Tests start thousands of Pythons: each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := build
.PHONY: help build demo test lint soak experiments bench bench-quick bench-full bench-micro asan tsan fuzz dist deb release-check clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{ n = split($$2, word, " "); \
		line = sprintf("%-14s", $$1); for (i = 1; i <= n; i++) { if (length(line " " word[i]) > 79) { print line; \
		line = sprintf("%-14s", "") } line = line " " word[i] } print line }'

$(READY): pyproject.toml
	@echo "the first time takes one to two minutes. First, what this machine lacks to build"
	@PYTHON=$(PYTHON) bash .ci/system
	@echo "then a Python environment in $(VENV), with what mcrelay, its build and its tests need"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check 'setuptools>=77' 'Cython~=3.3'
	@MCRELAY_CORE_LATER=1 $(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -e '.[dev]'
	@echo "at last the core is compiled"
	@touch $@

build: $(READY) ## compile pyx/ into mcrelay._core; .venv/bin/mcrelay is then the command
	@bash .ci/compile $(BIN)/python

demo: build ## a sender, the relay and a receiver in their own namespaces: no hardware, no configuration
	@bash .ci/privileged $(BIN)/mcrelay demo

test: build ## every test, in namespaces that they build themselves
	@PYTHON=$(PYTHON) bash .ci/system $(PEERS)
	@bash .ci/privileged $(BIN)/pytest -n 2 --dist worksteal -m 'not alone'
	@bash .ci/privileged $(BIN)/pytest -m alone

lint: build ## ruff, mypy, stubtest, cython-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest mcrelay._core --concise --allowlist .ci/stubtest
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/cython-lint pyx/*.pyx pyx/*.pxd tests/core/*.pyx tests/fuzz/*.pyx bench/micro/*.pyx

soak: build ## the long run: SOAK=1h (also 10m, 90s) at RATE=1000 datagrams a second, into bench/results/soak.json and soak.png
	@PYTHON=$(PYTHON) bash .ci/system
	@PYTHONPATH=tests bash .ci/privileged $(BIN)/python -m soak --duration $(SOAK) --rate $(RATE)

experiments: ## what Linux really does: every experiment again, compared with its recorded verdicts
	@PYTHON=$(PYTHON) bash .ci/system
	@bash .ci/privileged $(PYTHON) experiments/run_all.py

bench: build ## mcrelay and its peers side by side: table, JSON and plot in bench/results, 25 minutes of a quiet machine
	@PYTHON=$(PYTHON) bash .ci/system $(RIVALS)
	@bash .ci/privileged $(BIN)/python bench/run.py

bench-quick: build ## the main rows of it, in 2 minutes, into bench/results/quick
	@PYTHON=$(PYTHON) bash .ci/system $(RIVALS)
	@bash .ci/privileged $(BIN)/python bench/run.py --quick --to bench/results/quick

bench-full: build ## every path with every workload, into bench/results/full
	@PYTHON=$(PYTHON) bash .ci/system $(RIVALS)
	@bash .ci/privileged $(BIN)/python bench/run.py --full --to bench/results/full

bench-micro: build ## parse, find and queue by themselves
	@$(BIN)/pytest bench/micro

asan: $(READY) ## the core tests under AddressSanitizer and UBSan
	@bash .ci/sanitize address,undefined $(BIN)

tsan: $(READY) ## the core tests under ThreadSanitizer
	@bash .ci/sanitize thread $(BIN)

fuzz: build ## parser, reassembler, splitter and cutter fuzzed under ASan: FUZZ=60 seconds in all
	@bash .ci/fuzz $(BIN)/python $(or $(FUZZ),60)

dist/mcrelay: build
	@PYTHON=$(PYTHON) bash .ci/system $(PACKAGE)
	@bash packaging/build $(BIN)/python

dist: dist/mcrelay ## dist/mcrelay: one executable that needs no Python

deb: dist/mcrelay ## dist/mcrelay_VERSION_ARCH.deb, lintian clean
	@bash packaging/deb

release-check: dist deb ## prove both in clean Debian roots, with real dpkg and under a real systemd: as root, 10 minutes
	@PYTHON=$(PYTHON) bash .ci/system $(CHECK)
	$(BIN)/python packaging/release-check $(BIN)/python

clean: ## remove what was built
	rm -rf build dist *.egg-info $(filter-out %.bpf.c,$(wildcard pyx/*.c)) mcrelay/_core/*.so mcrelay/_core/*.o $(VENV)
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
