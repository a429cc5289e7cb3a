# Two commands set up a fresh machine: `make demo` and `make test`. To use an existing virtual environment, e.g. one with a
# CUDA build of torch: `make VENV=path/to/it demo`.

# Waiting threads sleep: on a busy machine, spinning threads make the LSTM a hundred times slower.
export OMP_WAIT_POLICY = PASSIVE

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo space web test test-fast nightly coverage docs lint clean

install: $(INSTALLED)

# torch is installed first and pinned: a version range would install the newest CUDA build, several GB.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: install
	$(BIN)/python train_avb.py
	$(BIN)/python predict_avb.py runs/sample --corpus hume_vb --data_dir data/sample --task high --split test \
		--output runs/sample/test.csv --overwrite
	head -n 4 runs/sample/test.csv | cut -c1-100
	$(BIN)/python predict_avb.py emogator-small data/sample/audio/wav/10*.wav --output runs/sample/emogator-small.csv --overwrite
	head -n 4 runs/sample/emogator-small.csv | cut -c1-100

# The demo app, on this machine only; `make space MODELS="runs/mine org/avb-high"` shows other models than runs/sample.
space: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo]"
	$(BIN)/python demo/app.py $(if $(MODELS),--models $(MODELS))

# The page that runs models in the browser, in build/web; npm downloads its runtime, or ORT_DIR=folder provides it.
web: install
	$(BIN)/python -m avb.export.page build/web $(MODELS) --overwrite $(if $(ORT_DIR),--ort_dir $(ORT_DIR))

# The tests of a file run in one process, in order, because they share trained models. tests/conftest.py orders the files.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST)

test-fast: install
	$(PYTEST) -m "not slow and not nightly"

# Too long for CI: every benchmark at toy size, the fuzzers and the soak test. Run it before an issue is closed.
nightly: install
	$(PYTEST) -m nightly
	$(BIN)/python tests/fuzz.py tables 100000
	$(BIN)/python tests/fuzz.py audio 20000
	$(BIN)/python tests/fuzz.py recipes 20000
	$(BIN)/python tests/soak.py --predictions 50000 --requests 2000

# Line coverage of the model, metrics, tasks and corpora: at least 95 % each. Code in other processes does not count.
COVERED_BY := modeling losses front_end metrics metric_spaces evaluate_modules tasks corpora emogator decode prepare \
	multitask hub
coverage: install
	$(BIN)/python -m pytest $(COVERED_BY:%=tests/test_%.py) --cov --cov-report=term
	for part in modeling_avb.py "avb/metrics/*" avb/tasks.py "avb/corpora/*"; do \
		$(BIN)/coverage report --include="$$part" --fail-under=95 || exit 1; \
	done

# The documentation as a site, in build/site.
docs: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m mkdocs build --quiet

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf runs data/sample build *.egg-info
