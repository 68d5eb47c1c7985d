# `make demo` and `make test` install what they need into .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
OUT ?= demo_output
ARGS ?=

.PHONY: demo test test-oldest lint format clean

.venv/installed: pyproject.toml constraints.txt gandl/__init__.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gandl needs Python 3.11 or later: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[io,plot,profiles,progress,hub,anndata,fetch,dask]' --group dev
	touch $@

demo: .venv/installed
	$(BIN)/python examples/demo.py --out $(OUT) $(if $(DATA),--data $(DATA)) $(ARGS)

# Two processes of one thread each; in order of names the long files are not the last.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# The readers with the oldest tifffile and zarr that pyproject.toml allows.
test-oldest: .venv/installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/oldest tifffile==2024.8.10 zarr==3.0.8 crc32c==2.9.post0
	PYTHONPATH=.venv/oldest $(BIN)/python -m pytest $(patsubst %,tests/images/test_%.py,readers ome_tiff ome_zarr planes) $(ARGS)

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo_output build dist
