# `make` lists the targets. Every recipe is lines that a person could type.

PYTHON ?= python3
TESTERS ?= 2
CORPUS ?= data/corpus/train.txt
BUDGET ?= 60
ACTIVATE := . .venv/bin/activate
INSTALLED := .venv/installed

# Many containers forbid Python to keep compiled modules: then each stage would compile torch anew, for some seconds.
unexport PYTHONDONTWRITEBYTECODE
FREE = @$(ACTIVATE) && python -c 'import socket, sys; sys.exit("port $(PORT) is taken: make $@ PORT=…" if socket.socket().connect_ex(("127.0.0.1", $(PORT))) == 0 else 0)'

help:    ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:[^#]*## /|/' | awk -F'|' '{ printf "make %-11s %s\n", $$1, $$2 }'

setup: $(INSTALLED)  ## make .venv with the pinned packages of requirements.lock

repro: setup  ## run what is stale of the pipeline: corpus → models → ONNX → data/report
	$(ACTIVATE) && dvc repro

zoo: setup  ## add variants of zoo.yaml to params.yaml, and run what is stale (VARIANTS="mamba2 kda")
	$(ACTIVATE) && python pipelines/zoo.py $(VARIANTS)
	$(ACTIVATE) && dvc repro

compare: setup  ## tune, train and score variants with equal effort (TEXT="my/*.txt" VARIANTS="lstm gru" TRIALS=… SEEDS=…)
	$(ACTIVATE) && python compare/start.py $(if $(TEXT),--text '$(TEXT)') $(if $(VARIANTS),--variants $(VARIANTS)) $(if $(TRIALS),--trials $(TRIALS)) $(if $(SEEDS),--seeds $(SEEDS))

test: setup  ## run the tests, in two processes (TESTERS=…)
	$(ACTIVATE) && pytest -n $(TESTERS) --dist loadscope

test-fast: setup  ## run those that need no DAG, server or browser, without the long ones
	$(ACTIVATE) && pytest -n $(TESTERS) --dist loadscope -m "not system and not long and not slow"

lint: setup  ## check format, style and types
	$(ACTIVATE) && ruff format --check && ruff check && mypy

ui: PORT ?= 5000
ui: setup  ## compare the runs in MLflow, on http://127.0.0.1:5000 (PORT=…)
	$(FREE)
	$(ACTIVATE) && env -u MLFLOW_TRACKING_URI recurlm sync
	@$(ACTIVATE) && env -u MLFLOW_TRACKING_URI python -m recurlm.tracking.view http://127.0.0.1:$(PORT)
	$(ACTIVATE) && MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///.mlflow/mlflow.db

playground: PORT ?= 5002
playground: setup playground/node_modules/.package-lock.json  ## the bundles in a browser, on http://127.0.0.1:5002 (PORT=…)
	$(FREE)
	$(ACTIVATE) && npm --prefix playground run build
	$(ACTIVATE) && python playground/gather.py data/onnx playground/dist
	@echo 'http://127.0.0.1:$(PORT)/  (playground/dist may be put on any static host)'
	$(ACTIVATE) && python -m http.server --bind 127.0.0.1 --directory playground/dist $(PORT)

# npm writes this file last.
playground/node_modules/.package-lock.json: playground/package-lock.json | $(INSTALLED)
	$(ACTIVATE) && npm --prefix playground ci --no-audit --no-fund
	@touch $@

serve: PORT ?= 5001
serve: setup  ## answer prompts with the registry's champion, on http://127.0.0.1:5001 (PORT=…)
	$(FREE)
	$(ACTIVATE) && MLFLOW_DISABLE_TELEMETRY=true MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false MLFLOW_TRACKING_URI=$${MLFLOW_TRACKING_URI:-sqlite:///.mlflow/mlflow.db} mlflow models serve --model-uri 'models:/recurlm@champion' --env-manager local --host 127.0.0.1 --port $(PORT)

bench: setup  ## measure training: its speed, and loss against time on a text (CORPUS=…, BUDGET=… seconds)
	$(ACTIVATE) && python benchmarks/throughput.py
	$(ACTIVATE) && python benchmarks/time_to_quality.py --corpus $(CORPUS) --budget $(BUDGET)
	$(ACTIVATE) && python benchmarks/time_to_quality.py --corpus data/corpus --words 10000 --budget 75 --target 61.1

# The stamp comes last, so that an install that was interrupted starts again from nothing.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("recurlm needs Python 3.11 or newer, and $(PYTHON) is %d.%d: try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -e $@ || rm -rf .venv
	@rm -f $@
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --no-compile -r requirements.lock
	.venv/bin/pip install --no-deps -e .
	# DVC's own notes about files stay in the checkout, not in /var/tmp/dvc. The path has to be absolute: experiments that
	# are queued run in a folder of their own.
	.venv/bin/dvc config --local core.site_cache_dir "$(CURDIR)/.cache/dvc"
	# `dvc plots show` draws without internet.
	.venv/bin/python -m recurlm.report.plots_page .venv/share/plots.html
	.venv/bin/dvc config --local plots.html_template "$(CURDIR)/.venv/share/plots.html"
	@touch $@

.PHONY: help setup repro zoo compare test test-fast lint ui playground serve bench
