# make book    set everything up, run the default study, build the book    make serve  to read it
# make test    set everything up, run the tests                            make lab    to work live
PYTHON  ?= python3.11
STUDY   ?= studies/quick.yaml
PORT    ?= 8000
BENCH   ?= pipeline epoch together layers evaluate maps measures
WORKERS ?= 2
INPUTS  ?= 10000
SEED    ?= 0
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help:
	@sed -n 's/^# //p' Makefile
	@echo "also: make bench and make growth (speed), make check (linters), make sound (is the installation?), make clean"

book: .venv/ready
	@python -m kdlib study $(STUDY)
	@echo "The book: $(CURDIR)/_build/html/index.html (or: make serve)"

test: .venv/ready  # a file at a time in each worker, the longest first
	pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

fuzz: .venv/ready  # files changed at random
	KDLIB_FUZZ=$(INPUTS) pytest -s tests/test_fuzz.py --hypothesis-seed $(SEED)

bench: .venv/ready  # reads what make book left; a quarter of an hour
	for each in $(BENCH); do python benchmarks/$$each.py || exit 1; done

growth: .venv/ready
	python benchmarks/growth.py

check: .venv/ready
	ruff check .
	ruff format --check .
	mypy

sound: .venv/ready
	python -m kdlib check

serve:
	@python -m kdlib serve --port $(PORT)

lab: .venv/ready
	jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root)

clean:
	rm -rf _build build .snakemake runs/quick runs/smoke book/results/quick

.venv/ready: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	pip install --progress-bar off --requirement requirements.txt --constraint constraints.txt
	touch $@

.PHONY: help book test fuzz bench growth check sound serve lab clean
