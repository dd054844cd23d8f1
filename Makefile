# Everything runs in .venv, which these targets make and keep up to date.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: demo test matrix soak power lint format bench wheel-check clean

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | $(BIN)/python
	@echo "Installing what the tests and checks need into .venv: a minute or two, once."
	$(PIP) --quiet -e ".[dev]"
	touch .venv/installed-demo $@

.venv/installed-demo: pyproject.toml | $(BIN)/python
	@echo "Installing this library, LangChain and LangGraph into .venv: about a minute, once."
	$(PIP) -e ".[demo]"
	touch $@

demo: .venv/installed-demo ## run a real agent: killed, resumed, forked, 20 at once
	$(BIN)/python examples/agent.py

test: .venv/installed ## the tests; many wait for servers, so that four keep two cores busy
	$(BIN)/python -m pytest -n 4 --dist worksteal -m "not soak"

matrix: .venv/installed ## savers, database and properties on every Python, and on old and new SQLite
	$(BIN)/python tests/matrix.py

soak: .venv/installed ## the long runs: more kills, more threads, more examples
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n 2 -m "soak or not soak" --timeout 1800

power: .venv/installed ## what simulated power cuts leave, thousands of times (part of soak)
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n 2 tests/power --timeout 1800

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed ## measure against the official saver; writes benchmarks/results/
	$(BIN)/python -m benchmarks

wheel-check: .venv/installed ## the wheel alone, in an empty environment
	$(BIN)/python tests/wheel_check.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
