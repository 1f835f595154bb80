# Every target does all its own set-up, once, into .venv. A fresh machine needs Python 3.11+ with venv, make and a C++ compiler.
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
FUZZ_SECONDS := 60

LOWEST := $(VENV)-lowest
LOWEST_PYTHON := python3

.PHONY: demo digits test check docs format audit lowest fuzz kills soak clean

demo: $(READY)  ## EfficientNet-Lite0 from trained weights to a proven integer ONNX file, without data
	$(PYTHON) examples/efficientnet_lite0.py

digits: $(READY)  ## real accuracy on scikit-learn's digits, four kinds of calibration images
	$(PYTHON) examples/digits.py

check: $(READY)  ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The tests' tensors are tiny: two processes of one thread each are faster than threads that wait for each other. The
# tests of a file stay together, since they share what they have made; those that measure time have the machine alone.
test: $(READY)  ## unit and integration tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses 2 --dist loadfile -m "not alone"
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m alone

docs: $(READY)  ## the site, in docs/_build; a warning is an error
	$(PYTHON) docs/reference.py
	$(PYTHON) -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build

audit: $(READY)  ## known weaknesses of what is installed; says so when the list of them cannot be had
	$(PYTHON) -m pip install --quiet --editable ".[audit]"
	$(PYTHON) .ci/audit.py

lowest: $(READY)  ## the tests with the oldest versions that setup.py allows; LOWEST_PYTHON=python3.11 for the oldest Python
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	$(PYTHON) -m pip install --quiet --editable ".[lowest]"
	$(PYTHON) -m uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[test]"
	DFQ_EXTENSION_DIR=$(abspath $(LOWEST))/extension OMP_NUM_THREADS=1 $(abspath $(LOWEST))/bin/python -m pytest --numprocesses 2 --dist loadfile -m "not alone"

fuzz: $(READY)  ## every reader of files, FUZZ_SECONDS each; a finding stops it and leaves its input in crash-*
	$(PYTHON) -m pip install --quiet --editable ".[fuzz]"
	for target in config legacy tensors model; do \
		$(PYTHON) -m integration_tests.fuzz $$target -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

kills: $(READY)  ## a whole job, killed at 100 random moments; each has to end as an unbroken one
	OMP_NUM_THREADS=1 $(PYTHON) -m integration_tests.kill_matrix --kills 100

soak: $(READY)  ## 500 generations in one process; memory has to stay flat
	OMP_NUM_THREADS=1 $(PYTHON) -m integration_tests.soak --generations 500

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): setup.py
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[test]"
	touch $(READY)

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info
