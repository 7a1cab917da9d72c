# Everything happens in .venv, which is made on first use: `make demo` is the whole story, `make test` what CI runs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test slow lint clean

demo: $(VENV)/installed
	$(BIN)/vadd compare toy.checkerboard --methods vadd mdm --seeds 1 --train.steps 2000 --evaluation.num 20000 --evaluation.held-out 1000 --out comparisons/demo-checkerboard
	$(BIN)/vadd compare image.digits --methods vadd mdm --seeds 1 --evaluation.particles 16 --out comparisons/demo-digits
	@echo
	@echo "Open comparisons/demo-checkerboard/report.html and comparisons/demo-digits/report.html"

test: $(VENV)/tests-installed
	$(BIN)/ruff check vadd tests benchmarks
	$(BIN)/ruff format --check vadd tests benchmarks
	$(BIN)/pytest -q -n auto --dist loadfile

slow: $(VENV)/tests-installed
	$(BIN)/pytest -q -m slow

lint: $(VENV)/tests-installed
	$(BIN)/ruff check --fix vadd tests benchmarks
	$(BIN)/ruff format vadd tests benchmarks

# --no-compile: Python compiles what it imports anyway, and most of what is installed is never imported.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vadd needs Python 3.11 or newer; give one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e .
	touch $@

$(VENV)/tests-installed: $(VENV)/installed
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
