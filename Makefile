# One way to do each thing; CI runs the same (.ci/run). `make` alone prints what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit test-clients test-databases test-debian12 test-debian13 check bench regret evidence quality faults findings clean

# Not taken from the environment, where some shells keep the machine's own name in HOST: that would serve to the network.
HOST = 127.0.0.1
PORT = 5005
ARGS =
# Containers set it: each of a run's processes would compile all modules and rewrite all tests anew, a twentieth of the run.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@echo "Usage: make TARGET [ARGS='more arguments for the command']"
	@sed -nE 's/^([a-z0-9 -]+):.*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: ## Create .venv with everything that development needs
	@bash scripts/setup.sh dev

run: ## Build the embedded demo and serve it on 127.0.0.1:5005 (PORT=, HOST=) until Ctrl-C
	@# Bytecode is made of what is imported, when it is: of all packages it takes half of pip's time.
	@PIP_COMPILE=0 bash scripts/setup.sh runtime
	@exec .venv/bin/python -m recommendation_service serve --demo --host '$(HOST)' --port '$(PORT)' $(ARGS)

test: setup ## Run every test, side by side, on private MariaDB and Redis servers (ARGS='-k feed', ARGS='-n 0 FILE')
	@bash scripts/install_servers.sh
	@exec .venv/bin/python -m pytest -n auto $(ARGS)

test-unit: setup ## Run the tests that need no server and no further process, in about a minute
	@# One process more than processors: a tenth of their time they wait for the disk.
	@exec .venv/bin/python -m pytest -p tests.forks --forks "$$(( $$(nproc) + 1 ))" tests/unit $(ARGS)

check: setup ## Check format, rules and types
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy

bench: setup ## Measure, and print each figure beside its target
	@bash scripts/install_servers.sh mariadb-server-core mariadb-client-core redis-server wrk apache2-utils
	@exec .venv/bin/python -m benchmarks $(ARGS)

regret: setup ## Simulate the learner for long, beside the ranking that it began with (ARGS='--kind AU --json')
	@OPENBLAS_NUM_THREADS=1 exec .venv/bin/python -m benchmarks.regret $(ARGS)

evidence: setup ## Weigh policies on simulated logs whose truth is known, 1,000 of each kind and length (ARGS='--runs 100 --slots 6')
	@OPENBLAS_NUM_THREADS=1 exec .venv/bin/python -m benchmarks.evidence $(ARGS)

quality: setup ## Replay MovieLens and the examples under the policies that their mappings begin with, beside popularity (ARGS='--data jobs --json')
	@OPENBLAS_NUM_THREADS=1 exec .venv/bin/python -m benchmarks.quality $(ARGS)

faults: setup ## Break everything at random under load, and count every event (ARGS='--seed 7 --faults 40')
	@bash scripts/install_servers.sh mariadb-server-core redis-server
	@exec .venv/bin/python -m tests.faults $(ARGS)

test-databases: setup ## The tests of what talks to databases, on each server that operators have (ARGS='--server 11.8')
	@bash scripts/install_servers.sh mariadb-server-core mariadb-client-core debootstrap
	@exec .venv/bin/python -m tests.databases $(ARGS)

test-clients: setup ## Speak to the service with curl, Java, Python, Node, PHP and Go, straight and through proxies
	@bash scripts/install_servers.sh curl default-jdk-headless nodejs php-cli php-curl golang-go nginx-light haproxy
	@exec .venv/bin/python -m tests.clients $(ARGS)

test-debian12 test-debian13: ## Run, check and test what is committed in a fresh Debian, as root (ARGS=--user)
	@exec bash scripts/test_debian.sh '$(if $(filter %12,$@),bookworm,trixie)' $(ARGS)

findings: ## Try again what outside software was found to do, each in a folder of its own (ARGS='NAME ...')
	@exec bash scripts/findings.sh $(ARGS)

clean: ## Remove .venv and all caches; the service's data in var/ stay
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build ./*.egg-info
	@find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +
