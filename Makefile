# Two commands do all the set-up by themselves, and can be run again:
#   make demo    the main job end to end on this machine: draw, train, score, evaluate, query
#   make test    format, lint, types, tests
# Needed beforehand: make, and Python 3.11, 3.12 or 3.13 with venv. Another interpreter: make PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
# uv reads neither pip's settings nor what is installed elsewhere: what the lock names is what it gets.
UV := UV_HTTP_TIMEOUT=300 $(BIN)/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	--generate-hashes --custom-compile-command "make lock"

.DEFAULT_GOAL := .venv
.PHONY: .venv help demo test long fuzz soak lint format lock licences api clean audit

.venv: $(STAMP) ## the environment, from the hash-pinned lock (done again only when that changes)

$(STAMP): requirements.lock requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
		sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else "$(PYTHON) is Python %d.%d: 3.11, 3.12 or 3.13 is needed. Say which: make PYTHON=python3.12" % v[:2])'
	@echo "==> $(VENV): installing what requirements.lock names (several minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/uv.txt
# Compiled here once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each of a job's dozen processes
# would compile what it imports of torch and Ray anew, and on a busy machine Ray's node gives up before it has.
	@$(UV) pip sync --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

help: ## what each target does
	@sed -n 's/^\([a-z.]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(STAMP) ## the main job end to end: a bucket, a Ray cluster, training, scoring, mAP, queries (about 5 minutes)
	@echo "==> demo: everything runs on this machine and ends with it"
	@$(BIN)/python jobs/demo.py

# Two processes, since most of a test here is waiting for Ray; one thread each, since two that spin for the same
# cores take five times as long as one.
test: lint ## format, lint and types, then every test but the long ones
	@echo "==> tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations=10

long: $(STAMP) ## what takes minutes: killed trainings, every submitted form; CI runs it after `make test`
	@echo "==> long tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long --numprocesses 2 --dist loadfile --durations=10

fuzz: $(STAMP) ## 10,000 damaged images through the guard, with another seed each day (a few minutes)
	@NUM_FUZZED=10000 FUZZ_SEED=$$(date +%Y%m%d) $(BIN)/python -m pytest --timeout=0 \
		tests/pipeline/images/test_hostile_images.py

# Each test there starts servers and a cluster of its own.
soak: $(STAMP) ## kill, starve and lie to scoring jobs: the fault matrix, then ten rounds of 2,000 images (over an hour)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak --timeout=3600 --durations=0
	@$(BIN)/python -m tests.soak --rounds 10 --images 2000

lint: $(STAMP) ## format, lint and types
	@echo "==> format"
	@$(BIN)/ruff format --check .
	@echo "==> lint"
	@$(BIN)/ruff check .
	@echo "==> types"
	@$(BIN)/mypy
	@echo "==> language"
	@$(BIN)/python -m tests.language

format: $(STAMP) ## put the code in ruff's format and order
	@$(BIN)/ruff check --select I --fix .
	@$(BIN)/ruff format .

lock: $(STAMP) ## name and hash again every package, at its newest version that pyproject.toml allows
	@echo "==> requirements.lock, requirements/uv.txt"
	@$(COMPILE) --upgrade --extra dev -o requirements.lock pyproject.toml
	@echo uv | $(COMPILE) --upgrade -o requirements/uv.txt -

audit: $(STAMP) ## the lock against PyPI's known vulnerabilities; needs PyPI's own index, mirrors know of none
	@$(UV) tool run pip-audit --disable-pip --require-hashes -r requirements.lock

api: $(STAMP) ## docs/api.md, the public functions and classes, from their docstrings
	@$(BIN)/python docs/make_api.py

licences: $(STAMP) ## docs/licences.md, after a new lock: every package and its licence
	@$(BIN)/python requirements/licences.py

clean: ## remove the environment, caches and what the demo wrote
	rm -rf $(VENV) demo-output .mypy_cache .pytest_cache .ruff_cache .hypothesis
