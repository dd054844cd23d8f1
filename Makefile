# Everything runs in .venv, which these targets make and keep up to date.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak lint format bench wheel-check clean

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: .venv/installed ## run a real agent: killed, resumed, forked, 20 at once
	$(BIN)/python examples/agent.py

test: .venv/installed ## the tests; many wait for servers, so that four keep two cores busy
	$(BIN)/python -m pytest -n 4 --dist worksteal -m "not soak"

soak: .venv/installed ## the long runs: more kills, more threads, more examples
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n 2 -m "soak or not soak" --timeout 1800

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
