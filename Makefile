# Two commands: `make demo` and `make test`. Each creates the environment it needs, from complete lock files.
PYTHON ?= python3
PIP_FLAGS = --quiet --disable-pip-version-check --no-deps
WORKERS ?= 2
DEMO ?= demo
FUZZ ?= 3000
ROUNDS ?= 50

.PHONY: help demo test test220 test215 faults replicas fuzz lint format lock clean

help:
	@echo "make demo    train, evaluate and draw on built-in pictures: about 8 minutes on 2 cores"
	@echo "make test    lint, all tests on TensorFlow 2.20, a smoke ring on TensorFlow 2.15"
	@echo "make fuzz    the fuzz tests with FUZZ=3000 new examples each, rather than the few of make test"
	@echo "make faults  kill tiny runs ROUNDS times (50) at random, and compare every number: about 15 minutes on 2 idle cores"
	@echo "make replicas 20 steps on 2 and 4 devices and 2 workers against one device"
	@echo "make lock    renew requirements/*.txt from requirements/*.in and setup.cfg"
	@echo "make clean   remove environments, demo and caches"

.venv/installed: requirements/tf220.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install $(PIP_FLAGS) -r requirements/tf220.txt
	.venv/bin/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

.venv215/installed: requirements/tf215.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv215
	.venv215/bin/python -m pip install $(PIP_FLAGS) -r requirements/tf215.txt
	.venv215/bin/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

demo: export TF_CPP_MIN_LOG_LEVEL = 2
demo: .venv/installed
	.venv/bin/python -m spinenet_tf.prepare synthetic --output=$(DEMO)/data
	.venv/bin/python -m spinenet_tf.train --gin_file=experiments/demo.gin --gin_param="DATA_DIR='$(DEMO)/data'" --model_dir=$(DEMO)/run
	.venv/bin/python -m spinenet_tf.evaluate --model_dir=$(DEMO)/run
	.venv/bin/python -m spinenet_tf.predict --model_dir=$(DEMO)/run --output=$(DEMO)/pictures $(DEMO)/data/pictures
	@echo "look at $(DEMO)/pictures/overview.jpg; then try"
	@echo "  .venv/bin/tensorboard --logdir=$(DEMO)/run/tensorboard"
	@echo "  .venv/bin/python -m spinenet_tf.predict --model_dir=$(DEMO)/run YOUR_PICTURES"
	@echo "  .venv/bin/python -m spinenet_tf.prepare coco --help      (your own boxes; docs/train.md goes on from there)"

test: lint test220 test215

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check --quiet .

test220: .venv/installed
	.venv/bin/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile tests

test215: .venv215/installed
	.venv215/bin/python -m pytest tests/smoke

fuzz: .venv/installed
	SPINENET_TF_FUZZ=$(FUZZ) .venv/bin/python -m pytest --timeout=0 --tb=short tests/fuzz

faults: export TF_CPP_MIN_LOG_LEVEL = 2
faults: .venv/installed
	SPINENET_TF_FAULTS=1 .venv/bin/python -m pytest tests/faults/test_workers.py
	.venv/bin/python -m tests.faults.rounds --rounds=$(ROUNDS)

replicas: .venv/installed
	SPINENET_TF_REPLICAS=20 .venv/bin/python -m pytest -s tests/training/test_replicas.py

format: .venv/installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock:
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) -m uv pip compile --quiet --no-annotate --no-header --python-version 3.11 --extra test --extra dev \
		--extra onnx --extra search --extra serve setup.cfg requirements/tf220.in --output-file requirements/tf220.txt
	$(PYTHON) -m uv pip compile --quiet --no-annotate --no-header --python-version 3.11 --extra test --extra dev \
		--extra addons setup.cfg requirements/tf215.in --output-file requirements/tf215.txt

clean:
	rm -rf .venv .venv215 $(DEMO) .pytest_cache .ruff_cache
