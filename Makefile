# The verbs of the project. `make demo` and `make test` set up what they need on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests and the demo start many processes: each would compile the program anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: dev demo lint test proto bench interop-deps clean

$(READY): requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings editable_mode=compat -e .
	touch $(READY)

dev: $(READY)  ## set up the environment

demo: $(READY)  ## run all phases between real processes, purchases included
	$(BIN)/tapveil demo

lint: $(READY)  ## style, types, import rules, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHONPATH=tests $(BIN)/lint-imports --config tests/conformance/importlinter.toml
	$(BIN)/python -m parties.contract --check

test: $(READY)  ## all tests with coverage, and the bounds on it
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=
	$(BIN)/coverage report --include='protocol/*' --fail-under=100
	$(BIN)/coverage report --include='attestation/*' --fail-under=95

proto: $(READY)  ## generate stubs, CDDL, error codes and spec map anew
	$(BIN)/python -m parties.contract

bench: $(READY)  ## measure purchases, taps, cards and registrations on this machine
	$(BIN)/tapveil bench

interop-deps:  ## install the programs that the interop tests drive (as root)
	tests/interop/install.sh $(PYTHON)

clean:  ## remove what was built
	rm -rf $(VENV) .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
