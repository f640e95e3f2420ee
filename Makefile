# `make lab` opens the course, `make test` proves the package, `make course` the notebooks, `make check`
# both. All set up .venv from the lock first.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export JUPYTER_PLATFORM_DIRS := 1
# Empty: the suite starts dozens of processes, and each would compile the package and its tests again.
export PYTHONDONTWRITEBYTECODE :=

# Tests never touch the network; in the lab, `fetch` may.
unit course notebooks figures: export HF_HUB_OFFLINE := 1

.PHONY: lab test course check lint unit notebooks figures test-engines book test-book test-live test-site students \
    check-student slides clean
.NOTPARALLEL:

# Jupyter wants to hear from root, who is alone in a container, that it is meant. LAB holds more options:
# make lab LAB="--ip=0.0.0.0 --no-browser" is for a container whose port 8888 is published.
lab: .venv/ready
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) \
	    --LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb $(LAB)

check: test course

test: lint unit

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

# Without nbval, whose import alone takes seconds in each of the three processes.
unit: .venv/ready
	$(BIN)/python -m pytest -p no:nbval -n 2 --dist worksteal --durations=10 tests

course: .venv/ready
	QWEN3_FIGURES=check $(BIN)/python -m pytest -n 2 --dist loadscope --nbval --nbval-current-env \
	    --nbval-cell-timeout=300 notebooks

# The same tokens from transformers, llama.cpp, ONNX Runtime and CTranslate2? What is not installed here is
# put into the user's cache; what cannot be is "not checked", and a difference fails.
test-engines: .venv/ready
	$(BIN)/python -m qwen3_ref engines light --install

# Execute every notebook in a clean kernel and write it back, byte-stable; figures are drawn on the way.
notebooks figures: .venv/ready
	$(BIN)/python tests/execute_notebooks.py

# The course to read, in build/book. The book has an environment of its own: it reads notebooks and source as
# text, and what it needs for that no reader of the notebooks does. (.venv has the official merges, which one
# of the live pages shows.)
book: .venv/ready .venv-book/ready
	.venv-book/bin/python book/build.py build/book

# In Chromium and node where there are any; without, those tests say "not checked".
test-book: test-live test-site

# qwen3.js in node against PyTorch, and the live pages in Chromium.
test-live: .venv/ready .venv-book/ready
	$(BIN)/python -m pytest -p no:nbval -rs book/live/tests/test_live_model.py
	.venv-book/bin/python -m pytest -rs book/live/tests/test_live_pages.py

test-site: book
	.venv-book/bin/python -m pytest -c book/tests/pytest.ini --rootdir book/tests book/tests

# For a class: see TEACHING.md.
students: .venv/ready
	$(BIN)/python -m qwen3_ref.course.students write

check-student: .venv/ready
	@$(BIN)/python -m qwen3_ref.course.students check $(NOTEBOOK)

slides: .venv/ready
	$(BIN)/python tests/execute_notebooks.py --slides

.venv-book/ready: book/requirements.lock
	$(PYTHON) -m venv .venv-book
	.venv-book/bin/pip install --quiet --requirement book/requirements.lock
	@touch .venv-book/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python " + \
	    sys.version.split()[0] + " is too old: 3.11 or newer is needed; try make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module;" \
	    "install it (Debian and Ubuntu: apt install python3-venv), or give another PYTHON=." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch .venv/ready

clean:
	rm -rf .venv .venv-book build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
