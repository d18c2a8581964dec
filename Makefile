# Two commands on a fresh machine: `make demo` and `make test`.  Python 3.11, git and make are all they need.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
STAMPS := .stamps
RUN := .venv/bin
# The packages of a device, whose tests must pass where nothing but a device's packages is installed.
DEVICE_TESTS := $(addprefix tests/,core bundle update runtime measure plan selftest predict samples fleet) \
	$(addprefix tests/,client calibrate personalize) \
	$(filter-out tests/attacks/test_hostile_updates.py tests/attacks/test_hostile_routes.py,$(wildcard tests/attacks/*.py))

.PHONY: help setup .venv-device demo check test test-fast test-device proto golden clean

help:  ## Show the targets
	@grep -hE '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMPS)/venv  ## Make .venv with everything

$(STAMPS)/venv: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgefl needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(RUN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]'
	@mkdir -p $(STAMPS) && touch $@

.venv-device: $(STAMPS)/venv-device  ## Make .venv-device with what a device installs

$(STAMPS)/venv-device: pyproject.toml constraints.txt $(shell find edgefl export server -name '*.py' -o -name '*.safetensors')
	$(PYTHON) -m venv .venv-device
	.venv-device/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --force-reinstall .
	@mkdir -p $(STAMPS) && touch $@

# Test tools beside the device environment, not in it.
$(STAMPS)/device-test-tools: constraints.txt $(STAMPS)/venv-device
	rm -rf .device-test-tools
	.venv-device/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--target .device-test-tools pytest hypothesis
	@mkdir -p $(STAMPS) && touch $@

demo: $(STAMPS)/venv $(STAMPS)/venv-device  ## Run the main job: export, federate, compare
	$(RUN)/edgefl demo

check: $(STAMPS)/venv  ## Lint, format, types, architecture
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	PYTHONPATH=export:server $(RUN)/lint-imports

test-fast: check  ## Checks and the tests that take seconds
	$(RUN)/pytest -n 2 -m 'not slow'

test-device: $(STAMPS)/device-test-tools  ## The tests of the device packages, where nothing else is installed
	PYTHONPATH=.device-test-tools .venv-device/bin/python -m pytest -p no:cacheprovider -m 'not slow' $(DEVICE_TESTS)

test: check $(STAMPS)/venv-device test-device  ## All checks and all tests
	$(RUN)/pytest -n 2

proto:  ## Generate code from predict.proto again, for the oldest protobuf that a device may have
	$(PYTHON) -m venv $(STAMPS)/protoc
	$(STAMPS)/protoc/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.68.1 mypy-protobuf==3.6.0
	PATH="$(CURDIR)/$(STAMPS)/protoc/bin:$$PATH" $(STAMPS)/protoc/bin/python -m grpc_tools.protoc -I. \
		--python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. edgefl/serve/predict.proto

golden: $(STAMPS)/venv  ## Make tests/golden/bundle again; look at the difference before you commit it
	$(RUN)/python -m tests.golden.make_bundle

clean:  ## Remove everything make has made
	rm -rf .venv .venv-device .device-test-tools $(STAMPS) demo-output
