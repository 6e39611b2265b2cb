# The verbs of this project. `make` alone lists them. Each sets up what it needs, in .venv.
VENV := .venv
BIN := $(VENV)/bin
# a name on the PATH may be a shim with nothing behind it, so each is tried
FIND_PYTHON := for p in python3.14 python3.13 python3.12 python3.11 python3 $(HOME)/.pyenv/versions/3.1[1234]*/bin/python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done
PYTHON ?= $(shell $(FIND_PYTHON))
VENVS := benchmarks/.venvs
EMULATOR := .venv-emulator
LAMBDA := .venv-lambda
NODE := .venv-node
FIND_LAMBDA_PYTHON := for p in python3.14 python3.13 python3.12 $(HOME)/.pyenv/versions/3.1[234]*/bin/python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done
WORKERS ?= 2
IN_PARALLEL := -n $(WORKERS) --dist worksteal
FAST_PORTS := $(addprefix tests/ports/test_,store_writing.py fault_injector.py store_port.py ledger_port.py queue_port.py)
FAST_STEPS := $(addprefix tests/pipeline/test_,numbering_and_order.py queries_and_batches.py what_a_function_returns.py)
FAST_TESTS := tests/architecture tests/oracle/test_results_by_hand.py $(FAST_PORTS) $(FAST_STEPS)
NOT_ON_AWS := -k "not aws and not sqs and not s3 and not dynamo"
PEERS := $(notdir $(basename $(wildcard benchmarks/peers/requirements/*.txt)))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
VERSION_OF = $(shell $(1) -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null)

# an environment of another Python than the one that is asked for is made anew
ifeq ($(origin PYTHON),command line)
ifneq ($(wildcard $(BIN)/python),)
ifneq ($(call VERSION_OF,$(PYTHON)),$(call VERSION_OF,$(BIN)/python))
$(shell rm -rf $(VENV))
endif
endif
endif

.DEFAULT_GOAL := help
.PHONY: help demo compiled test test-fast test-aws test-matrix drill-aws lint format bench bench-full bench-peers docs clean

help:  ## list these verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

demo: $(VENV)/core.done  ## make a mobile operator's data and price all of it
	@$(BIN)/hundredfold demo

test: $(VENV)/dev.done $(EMULATOR)/done $(LAMBDA)/tried $(NODE)/done compiled  ## run all tests, in two processes (or WORKERS=8)
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-fast: $(VENV)/dev.done compiled  ## run the tests of ports, oracle, steps and layers: the inner loop
	$(BIN)/python -m pytest $(IN_PARALLEL) $(NOT_ON_AWS) $(FAST_TESTS)

test-aws: $(VENV)/dev.done $(EMULATOR)/done $(LAMBDA)/tried $(NODE)/done compiled  ## run the tests on emulated AWS alone
	$(BIN)/python -m pytest $(IN_PARALLEL) tests/aws tests/ports

# where PYTHONDONTWRITEBYTECODE is set, each of the thousands of processes that the tests start would compile the package
compiled: $(VENV)/core.done
	@$(BIN)/python -m compileall -q src

# the short form has no test that needs the emulator
test-matrix: $(VENV)/venv.done $(if $(findstring --short,$(MATRIX)),,$(EMULATOR)/done)  ## the demo and the tests on every installed Python, with the newest and the lowest versions
	@$(BIN)/python -m pip install --quiet uv || echo "uv cannot be installed here: pip makes the environments, which takes longer"
	$(BIN)/python tests/matrix.py $(MATRIX)

drill-aws: $(VENV)/dev.done $(EMULATOR)/done  ## thousands of batches on emulated AWS, with killed workers and lost events: minutes
	$(BIN)/python -m pytest -m drill tests/aws

lint: $(VENV)/dev.done  ## check format, style, types and language
	$(BIN)/ruff format --check src tests examples benchmarks docs
	$(BIN)/ruff check src tests examples benchmarks docs
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/docs/test_language.py tests/docs/test_style.py

format: $(VENV)/dev.done  ## put the code into the house's format
	$(BIN)/ruff format src tests examples benchmarks docs
	$(BIN)/ruff check --fix src tests examples benchmarks docs

bench: $(VENV)/bench.done  ## the engine beside whichever peers are installed, in three minutes
	@$(BIN)/python -m benchmarks compare --quick

bench-full: $(VENV)/bench.done  ## all workloads and all installed peers, for hours; then the report and its plots
	@$(BIN)/python -m benchmarks compare
	@$(BIN)/python -m benchmarks scale
	@$(BIN)/python -m benchmarks report

bench-peers: $(PEERS:%=$(VENVS)/%.tried)  ## install the peers, each in an environment of its own

# one that cannot be installed is told, and the others go on; only what is missing or has changed is installed
$(VENVS)/%.tried: benchmarks/peers/requirements/%.txt FORCE
	@test $(VENVS)/$*/done -nt $< || { \
	  echo "installing the peers of $*" && test -n "$(PYTHON)" && $(PYTHON) -m venv $(VENVS)/$* \
	  && $(VENVS)/$*/bin/python -m pip install --quiet --requirement $< && touch $(VENVS)/$*/done \
	  || echo "$* cannot be installed here: its peers are left out of the comparison"; }
FORCE:

docs: $(VENV)/dev.done  ## write docs/reference-cli.md anew from --help
	$(BIN)/python docs/cli_reference.py

clean:  ## remove what these verbs made: the environment, caches, the demo's runs
	rm -rf $(VENV) .hundredfold .pytest_cache .hypothesis .mypy_cache .ruff_cache build dist benchmarks/data benchmarks/results $(VENVS) $(EMULATOR) $(LAMBDA) $(NODE) .venvs-matrix
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/venv.done:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is wanted, and none is on the PATH"; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy python3-venv; \
	  else echo "$(PYTHON) cannot make environments here: sudo apt-get install python3-venv"; exit 1; fi; \
	  $(PYTHON) -m venv $(VENV); }
	@touch $@

$(VENV)/core.done: $(VENV)/venv.done pyproject.toml
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/dev.done: $(VENV)/core.done
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/bench.done: $(VENV)/dev.done
	@$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

# the emulated AWS pins libraries that the project does not, so it has an environment of its own
$(EMULATOR)/done: tests/support/emulator/requirements.txt $(VENV)/venv.done
	@echo "setting up $(EMULATOR), the emulator of AWS that the tests start"
	@$(BIN)/python -m venv --clear $(EMULATOR)
	@$(EMULATOR)/bin/python -m pip install --quiet --requirement $<
	@touch $@

# checkers of SQL and of state machines, programs for Node.js: a grammar of Trino, the schema of Amazon States Language. Without npm's registry, their tests are skipped
$(NODE)/done: tests/support/javascript/package.json $(VENV)/dev.done
	@echo "setting up $(NODE), the checkers of SQL and of state machines"
	@PYTHONPATH=tests $(BIN)/python -m support.javascript || echo "the checkers could not be installed: their tests are skipped"

# what Lambda's own Python has, and nothing else: the package must bring the rest. Without a Python that Lambda has, its tests are skipped
$(LAMBDA)/tried: tests/aws/lambda-requirements.txt
	@mkdir -p $(LAMBDA)
	@python=$$($(FIND_LAMBDA_PYTHON)); if [ -n "$$python" ]; then echo "setting up $(LAMBDA) with $$python" \
	  && $$python -m venv --clear $(LAMBDA) && $(LAMBDA)/bin/python -m pip install --quiet --requirement $<; \
	  else echo "there is no Python 3.12 to 3.14 here: the package is not tried under Lambda's runtime"; fi
	@touch $@
