# Two commands do everything on a machine that has Python 3.10 to 3.12, git and make:
#   make demo   make rooms; evaluate, render and generate some with the shipped models; train a little
#   make test   the checks that CI runs
# make docs builds the documentation site into site/.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(abspath $(BIN)):$(PATH)
# Idle threads of torch sleep instead of holding a core that another process needs (docs/performance.md).
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test checks test-long test-browser kills lint docs notebooks model-assets venv clean

demo: $(STAMP)
	$(BIN)/scenetok demo

test: lint checks

# Two test processes with one thread each: more threads than cores would wait for one another. Files with long tests
# come first (tests/conftest.py), so that no process is left alone with one at the end.
checks: export OMP_NUM_THREADS := 1
checks: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not browser and not long"

# What takes a minute or more: kills in the midst of commands, the notebooks from beginning to end, and the commands of
# the pages in docs (make test runs those of the README, and checks the options of all).
test-long: export OMP_NUM_THREADS := 1
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

# Five minutes, with a Chromium; skips without one.
test-browser: export OMP_NUM_THREADS := 1
test-browser: $(STAMP)
	$(BIN)/python -m pytest -m browser

# Kills eleven commands with -9, twenty times each, and compares what reruns give (20 minutes).
kills: $(STAMP)
	$(BIN)/python tests/support/kills.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Fails on every warning: a broken link, a page outside the navigation, a name that the API reference cannot find.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(STAMP)
	$(BIN)/mkdocs build --strict

# Runs the notebooks and stores their output, to be looked at.
notebooks: $(STAMP)
	$(BIN)/python scripts/run_notebooks.py

# After new bundled weights: figures for the model cards and docs/depth.md, and all pictures of the models. About
# an hour on two idle cores: 15 minutes of figures, 5 of pictures, 10 of notebooks, 5 of the viewer; then look at them.
# Figures and screenshots are left in build/model-assets; the tables of the cards and the viewer's picture are
# brought up to date by hand. splatfacto's sheet needs an NVIDIA GPU: benchmarks/splatfacto.py.
ASSETS := build/model-assets
model-assets: $(STAMP)
	mkdir -p $(ASSETS)
	$(BIN)/python benchmarks/tiny.py --stlpips --output $(ASSETS)/tokenizer.json
	$(BIN)/python benchmarks/tiny.py --generated 8 --output $(ASSETS)/generator.json
	$(BIN)/python benchmarks/depth.py --rooms 4 --output $(ASSETS)/depth.json
	$(BIN)/python scripts/make_pictures.py --figures $(ASSETS)/tokenizer.json
	$(BIN)/python scripts/run_notebooks.py
	SCREENSHOTS=$(abspath $(ASSETS)) $(BIN)/python -m pytest -m browser tests/viewer/test_viewer_browser.py

venv: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --no-compile -e '.[dev,docs]'  # Python compiles the part that is imported
	touch $@

clean:
	rm -rf $(VENV) demo site
