# Every target does all its own set-up, once, into .venv. A fresh machine needs Python 3.10+ with venv, make and a C++ compiler.
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo digits test check format clean

demo: $(READY)  ## EfficientNet-Lite0 from trained weights to a proven integer ONNX file, without data
	$(PYTHON) examples/efficientnet_lite0.py

digits: $(READY)  ## real accuracy on scikit-learn's digits, four kinds of calibration images
	$(PYTHON) examples/digits.py

check: $(READY)  ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The tests' tensors are tiny: one thread each is faster than two that wait for each other.
test: $(READY)  ## unit and integration tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): setup.py
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[test]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
