# The front door. `make` explains itself.

PYTHON ?= $(shell tools/open-to-all python)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := umask 022; $(BIN)/python -m pip --disable-pip-version-check --quiet

# Where not every user can read this checkout, for example below /root: a folder for a copy that every user can read.
COPY   := $(shell tools/open-to-all checkout)

# Processes that run tests. Most of the tests' time is waiting, so there are more of them than cores.
WORKERS ?= $(shell expr 2 \* $$(nproc))

# Tests start hundreds of processes; without bytecode files each one would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test .tests test-node test-openstack bench bench-openstack docs lint format clean

help: ## what there is
	@echo "mdmw: instance metadata as a WSGI pipeline"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

ifneq ($(COPY),)
run test test-node test-openstack bench bench-openstack bench-node:
	@tools/copy-checkout $(COPY)
	@$(MAKE) --no-print-directory --directory=$(COPY) $@ $(if $(BESIDE),BESIDE=$(abspath $(BESIDE)))
else
run: $(VENV)/.run ## the whole path with sample guests, until Ctrl-C (ONCE=1: end after the table)
	@tools/need --optional ip=iproute2 nft=nftables curl=curl
	@$(BIN)/mdmw demo $(if $(filter 1,$(ONCE)),--once)

test: $(VENV)/.test ## everything CI checks: style, types, layers, docs, tests
	@tools/need --optional ip=iproute2 nft=nftables iptables=iptables curl=curl haproxy=haproxy \
	    dnsmasq=dnsmasq-base radvd=radvd prometheus=prometheus node=nodejs busybox=busybox udhcpc=udhcpc dhclient=isc-dhcp-client \
	    memcached=memcached rabbitmq-server=rabbitmq-server
	@tools/cloud-init build/cloud-init
	@$(BIN)/coverage erase
	@# Side by side, each shown when it is over.
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target .tests lint docs
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --skip-covered --skip-empty | tail -n 40

test-node: $(VENV)/.test ## 100,000 requests of 500 guests with the same five addresses, on one mdmw-node (root)
	@tools/need ip=iproute2
	MDMW_ISOLATION_REQUESTS=100000 $(BIN)/python -m pytest tests/node/test_isolation.py

.tests:
	$(BIN)/coverage run --parallel-mode -m pytest --numprocesses=$(WORKERS)

test-openstack: $(VENV)/.test ## the same guests before real Keystone, Neutron and Nova (root, Debian)
	@tools/need ip=iproute2
	@tools/cloud-init build/cloud-init
	MDMW_OPENSTACK=build/openstack $(BIN)/python -m pytest --timeout=300 tests/openstack

bench: $(VENV)/.test ## figures of every server, beside haproxy (root; a quarter of an hour; BESIDE=DIRECTORY: and another checkout)
	@tools/need ip=iproute2 haproxy=haproxy wrk=wrk
	$(BIN)/python -m bench $(if $(BESIDE),--beside $(BESIDE))

bench-openstack: $(VENV)/.test ## the storm beside Neutron's own agent (root, Debian; about three minutes)
	@tools/need ip=iproute2 nft=nftables
	MDMW_OPENSTACK=build/openstack PYTHONPATH=tests/openstack $(BIN)/python -m bench.incumbent

bench-node: $(VENV)/.test ## a thousand namespaces on one daemon (root; about eight minutes)
	@tools/need ip=iproute2
	$(BIN)/python -m bench.node
	$(BIN)/python -m bench.node_planned
	$(BIN)/python -m bench.node_servers
endif

docs: $(VENV)/.test ## the documentation, into doc/_build/html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -b html doc doc/_build/html

lint: $(VENV)/.test ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache >build/lint-imports.log 2>&1 || { cat build/lint-imports.log; exit 1; }

format: $(VENV)/.test ## let ruff put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## forget everything that was made here
	rm -rf $(COPY) $(VENV) build doc/_build .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/.made: tools/open-to-all
	@tools/need --venv $(PYTHON)
	umask 022; $(PYTHON) -m venv --clear $(VENV)
	@mkdir -p build
	@touch $@

$(VENV)/.run: $(VENV)/.made setup.cfg constraints.txt
	$(PIP) install --constraint constraints.txt --editable .[node,admin]
	@touch $@

$(VENV)/.test: $(VENV)/.made setup.cfg constraints.txt
	$(PIP) install --constraint constraints.txt --editable .[test,docs]
	@touch $@ $(VENV)/.run
