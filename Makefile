# Everything runs in .venv; the first target that needs it makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test quick lint format docs clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,lint]"
	touch $(STAMP)

demo: $(STAMP)  ## invert a packaged photo through a packaged trained model
	$(BIN)/surgeon apply surgeon:quickstart --out runs/demo --overwrite

test: $(STAMP)  ## every test
	$(BIN)/python -m pytest -n auto

quick: $(STAMP)  ## all but the slow ones
	$(BIN)/python -m pytest -n auto -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## the site, into site/
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site runs build dist
