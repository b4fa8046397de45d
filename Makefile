# make setup demo fmt check test slow ray bench docs. Everything runs in .venv, built from constraints.txt.

PYTHON ?= python3
# More words for pip, such as an index with CPU builds of torch (README, "Set-up").
PIP_ARGS ?=
# Workers for the suite: three keep two cores busy, since many tests wait for servers and cameras. And more
# words for pytest: make test PYTEST_ARGS='-k parse'
JOBS ?= 3
PYTEST_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.ready
SYSTEM_LIBRARIES := libgl1 libglib2.0-0 libxcb1

.PHONY: setup demo fmt check test slow ray fuzz mutants audit oldest bench docs clean

setup: $(STAMP)

# The stamp is written last: a set-up that stopped half-way starts again. "compat" puts a path where
# type checkers look for one; by default they do not find an editable package.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'pgvision needs Python 3.11 or newer; this is' "`$(PYTHON) --version 2>&1`."; \
	  echo 'Name another one: make setup PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo 'This Python cannot make virtual environments. On Debian and Ubuntu:'; \
	  echo '  sudo apt-get install -y python3-venv'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
	  --config-settings editable_mode=compat --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'import cv2' || { \
	  echo; echo 'OpenCV is installed, but this system lacks libraries that it needs. Mend it with'; \
	  echo '  sudo apt-get install -y $(SYSTEM_LIBRARIES)'; echo 'and run make setup again.'; exit 1; }
	@touch $@

demo: setup
	$(BIN)/pgvision demo

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet . || true

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

# One thread a worker: two workers with two threads each would fight for two cores. Bytecode is written
# even where the environment forbids it: each worker, and each command of a test, would compile it again.
test slow ray: export OMP_NUM_THREADS = 1
test slow ray: export PYTHONDONTWRITEBYTECODE =
test: setup
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# Runs that are killed and go on, and users' types: a few minutes. Two keep two cores busy.
slow: setup
	$(BIN)/python -m pytest -q -n 2 -m slow $(PYTEST_ARGS)

# Clusters: what the extra "ray" brings.
ray: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt \
	  --config-settings editable_mode=compat --editable '.[ray]'
	$(BIN)/python -m pytest -q -m 'slow or not slow' tests/pgvision/batch $(PYTEST_ARGS)

# A long run of every fuzzing target, from input FIRST on; what fails is printed with its number.
FIRST ?= 0
COUNT ?= 20000
fuzz: setup
	@mkdir -p build; for target in answers pictures files lists videos journals cards codec; do \
	  OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py $$target $(COUNT) $(FIRST) 2>build/fuzz-$$target.log \
	  || { tail -40 build/fuzz-$$target.log; exit 1; }; done

# Some 200 planted faults, and the fast test that notices each; half an hour on two quiet cores.
mutants: setup
	$(BIN)/python tests/mutants/mutate.py

# Known holes in what constraints.txt pins; asks PyPI.
audit: setup
	$(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

# The oldest releases that pyproject.toml allows, in an environment of its own.
oldest:
	$(PYTHON) -m venv build/oldest
	$(PYTHON) -c 'import re, tomllib; \
	  project = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = project["optional-dependencies"]; \
  print(*(re.sub(">=([^,; ]*)[^;]*", r"==\1.* ", one) for one in project["dependencies"] + extras["train"] + extras["serve"]), sep="\n")' \
	  > build/oldest.txt
	build/oldest/bin/pip install --quiet $(PIP_ARGS) -r build/oldest.txt pytest pytest-xdist hypothesis httpx2 onnx
	build/oldest/bin/pip install --quiet --no-deps --editable .
	build/oldest/bin/python -m pytest -q -n $(JOBS) tests/pgvision/images tests/pgvision/tokens tests/pgvision/runtime tests/pgvision/tasks

# All but those that need photographs, which must be named.
bench: setup
	@for file in tests/benchmarks/bench_*.py; do \
	  case "$$file" in *_photographs.py|*_transfer.py) continue;; esac; \
	  echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

# What every public name does, from the docstrings; a link that leads nowhere is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo 'build/docs/index.html'

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis demo build dist
