# Two commands that also install everything. They can be run again at any time:
#   make demo    train and score end to end on this machine: draw, train, score, evaluate, query
#   make test    format, lint, types, tests
# They need make, and Python 3.11, 3.12 or 3.13 with venv. To choose the interpreter: make PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.synced
# uv ignores pip's settings and packages outside the environment: it installs exactly the packages of the lock.
UV := UV_HTTP_TIMEOUT=300 $(BIN)/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	--generate-hashes --custom-compile-command "make lock"

.DEFAULT_GOAL := .venv
.PHONY: .venv help demo test long fuzz soak peers lint format lock licences api clean audit

.venv: $(STAMP) ## install the environment from the lock file (again only after the lock changes)

$(STAMP): requirements.lock requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
		sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else "$(PYTHON) is Python %d.%d. Expected 3.11, 3.12 or 3.13. Choose one, for example: make PYTHON=python3.12" % v[:2])'
	@echo "==> $(VENV): installing the packages of requirements.lock (several minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/uv.txt
# Bytecode is compiled once, here. With PYTHONDONTWRITEBYTECODE, as in many containers, each of the dozen processes of
# a job would compile torch and Ray again, and on a busy machine Ray's node would time out before that is done.
	@$(UV) pip sync --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

help: ## show the targets
	@sed -n 's/^\([a-z.]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(STAMP) ## train and score end to end: a bucket, a Ray cluster, training, scoring, queries, a report (some minutes)
	@echo "==> demo: all servers run on this machine and stop at the end"
	@$(BIN)/python jobs/demo.py

# Two processes, because tests mostly wait for Ray. One thread each, because two processes whose threads compete for
# the same cores take five times as long.
test: lint ## check format, lint and types, then run all tests except the long ones
	@echo "==> tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations=10

long: $(STAMP) ## run the tests that take minutes, e.g. killed trainings
	@echo "==> long tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long --numprocesses 2 --dist loadfile --durations=10

fuzz: $(STAMP) ## decode 10,000 damaged images, with another seed each day (a few minutes)
	@NUM_FUZZED=10000 FUZZ_SEED=$$(date +%Y%m%d) $(BIN)/python -m pytest --timeout=0 \
		tests/pipeline/images/test_hostile_images.py

# Each soak test starts its servers and its cluster.
soak: $(STAMP) ## break scoring jobs on purpose: all faults, then ten rounds of 2,000 images (three to six hours)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak --timeout=3600 --durations=0
	@$(BIN)/python -m tests.soak --rounds 10 --images 2000

# Other tools' libraries bring another OpenCV, which would break ours.
peers: $(STAMP) $(PEERS_STAMP) ## let other tools read our exports, in a separate environment (2 GB)
	@echo "==> tests with other tools' libraries"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m peers --durations=10 tests/peers

$(PEERS_STAMP): requirements/peers.lock $(STAMP)
	@echo "==> $(PEERS): installing the packages of requirements/peers.lock"
	@test -x $(PEERS)/bin/python || $(BIN)/python -m venv --without-pip $(PEERS)
	@$(UV) pip sync --compile-bytecode --python $(PEERS)/bin/python --require-hashes requirements/peers.lock
	@touch $@

lint: $(STAMP) ## check format, lint and types
	@echo "==> format"
	@$(BIN)/ruff format --check .
	@echo "==> lint"
	@$(BIN)/ruff check .
	@echo "==> types"
	@$(BIN)/mypy
	@echo "==> language"
	@$(BIN)/python -m tests.language

format: $(STAMP) ## format the code and sort imports with ruff
	@$(BIN)/ruff check --select I --fix .
	@$(BIN)/ruff format .

lock: $(STAMP) ## write the lock files again, with the newest versions that pyproject.toml allows
	@echo "==> requirements.lock, requirements/uv.txt, requirements/peers.lock"
	@$(COMPILE) --upgrade --extra dev -o requirements.lock pyproject.toml
	@echo uv | $(COMPILE) --upgrade -o requirements/uv.txt -
	@$(COMPILE) --upgrade --overrides requirements/peers-overrides.txt -o requirements/peers.lock \
		requirements/peers.in

audit: $(STAMP) ## check the lock for known vulnerabilities; needs the index of PyPI, not a mirror
	@$(UV) tool run pip-audit --disable-pip --require-hashes -r requirements.lock

api: $(STAMP) ## write docs/api.md, the public functions and classes, from their docstrings
	@$(BIN)/python docs/make_api.py

licences: $(STAMP) ## write docs/licences.md after a new lock: every package and its licence
	@$(BIN)/python requirements/licences.py

clean: ## remove the environment, caches and the output of the demo
	rm -rf $(VENV) $(PEERS) demo-output .mypy_cache .pytest_cache .ruff_cache .hypothesis
