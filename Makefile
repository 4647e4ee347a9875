# Everything a person needs; each target makes .venv when it is missing or older than what pins it.
SHELL := /bin/sh
PY := .venv/bin/python
# One thread of torch per test process: two spinning threads beside a busy neighbour are far slower.
# What Python compiled is kept, also where the environment says otherwise: each worker and child would compile it anew.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=
# The files of a suite are dealt out to processes; each has an API server of its own.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile

.PHONY: help demo test test-unit test-integration test-e2e lint format bench images generated \
	cluster-up cluster-images cluster-down clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

.venv/.ready: pyproject.toml constraints.txt make/venv.sh
	@make/venv.sh serve,dev

demo: .venv/.ready ## Make a small model, run it disaggregated as local processes, print its answer
	@$(PY) -m demo

test: .venv/.ready ## All tests; what cannot run here is skipped with the reason
	$(TEST_ENV) $(PY) -m pytest tests/unit -n auto
	$(TEST_ENV) $(PY) -m pytest tests/integration $(SIDE_BY_SIDE)
	$(TEST_ENV) $(PY) -m pytest tests/e2e

test-unit: .venv/.ready ## Tests that need no services
	$(TEST_ENV) $(PY) -m pytest tests/unit -n auto

test-integration: .venv/.ready ## Tests against a real API server
	$(TEST_ENV) $(PY) -m pytest tests/integration $(SIDE_BY_SIDE)

test-e2e: .venv/.ready ## Tests on a real node (needs root)
	$(TEST_ENV) $(PY) -m pytest tests/e2e

lint: .venv/.ready ## Style, types, imports, freshness of generated files
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-cache
	$(PY) -m tandem.api.crd --check crds
	$(PY) -m tandem.api.crd --check charts/tandem/files/crds
	$(PY) -m tandem.api.reference --check docs/reference
	$(PY) -m tandem.generator.pages --check docs/reference
	$(PY) make/pod_fields.py --check
	$(PY) make/torch_constraints.py --check

format: .venv/.ready ## Put files into shape
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

generated: .venv/.ready ## Write again what is generated: CRDs, reference, fields of pods, torch's part of constraints.txt
	$(PY) -m tandem.api.crd crds
	$(PY) -m tandem.api.crd charts/tandem/files/crds
	$(PY) -m tandem.api.reference docs/reference
	$(PY) -m tandem.generator.pages docs/reference
	$(PY) make/pod_fields.py
	$(PY) make/torch_constraints.py

bench: .venv/.ready ## Benchmarks, as JSON under build/bench/
	$(PY) -m tests.bench

images: ## Container images of operator and server (docker or buildah)
	make/images.sh

cluster-up: .venv/.ready ## A real cluster on this machine; prints how to use it
	@$(PY) -m tests.cluster up

cluster-images: .venv/.ready ## Build both images and bring them into that cluster; prints the helm line
	@$(PY) -m tests.cluster images

cluster-down: .venv/.ready ## Stop what cluster-up started
	@$(PY) -m tests.cluster down

clean: ## Remove what the targets made in this directory
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
