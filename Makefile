# Everything works from a fresh clone. As root, missing Debian packages are installed; others are told the command.

PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
DESTDIR ?=
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST = $(BIN)/pytest

BUILD_APT = gcc libc6-dev python3-dev python3-venv libffi-dev libseccomp-dev libcap-dev
DEB_APT = dpkg-dev python3-cffi-backend python3-jsonschema python3-prctl
TEST_APT = $(DEB_APT) $(shell sed 's/\#.*//' tests/requirements-apt.txt)

SOURCES = setup.py pyproject.toml README.md $(wildcard install/man/*) $(shell find ociruntime native schemas install -type f \
	\( -name '*.py' -o -name '*.[chS]' -o -name '*.json' \) ! -name _build_info.py ! -name _validator.py ! -name '_*.c' \
	! -path install/deb.py ! -path install/place.py)

# One build at a time in one tree.
LOCKED = flock -o .build-lock $(MAKE) --no-print-directory

.PHONY: help deb demo test test-vm test-vm-engines test-engines-newer bench bench-load coverage coverage-vm lint fuzz faults soak storm venv build install uninstall clean apt test-apt

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 \2/p' Makefile | while read -r name text; do \
		printf '  make %-18s %s\n' "$$name" "$$text"; done

demo: venv ## run a real container from this machine's own files and show how it is isolated
	@$(BIN)/python -m ociruntime.demo

# The integration tests run twice: with the full interpreter first, then, among all others, with the launcher.
test: test-apt ## run every test, with the launcher and with the script
	@$(LOCKED) $(VENV)/.test-installed dist/.deb
	@OCIRUNTIME_WORLD=script OCIRUNTIME_BIN=$(CURDIR)/$(VENV)/script/ociruntime $(PYTEST) tests/integration; first=$$?; \
		$(PYTEST) tests && exit $$first

test-vm: build ## run the tests that need systemd and cgroup v2 in a virtual machine (ALL=1: all that can run there)
	@$(LOCKED) dist/.deb
	@$(BIN)/python tests/vm/suite.py $(if $(ALL),--all) $(VM)

test-vm-engines: build ## run engines that ask systemd for cgroups in a virtual machine (SUITE=trixie: Debian 13's)
	@$(BIN)/python tests/vm/engines.py $(if $(SUITE),--suite $(SUITE)) $(VM)

bench: test-apt ## compare times, memory and system calls with those of runc and crun
	@$(LOCKED) $(VENV)/.test-installed
	@$(BIN)/python -m bench --svg bench.svg --json bench.json

test-engines-newer: test-apt ## run the engine tests among Debian 13's engines, in a root of that release
	@.ci/apt-install mmdebstrap
	@$(PYTHON) -m tests.newer_debian

bench-load: test-apt ## run 200 containers under podman and containerd, and keep 1,000 alive, beside the peers
	@$(LOCKED) $(VENV)/.test-installed
	@$(BIN)/python -m bench load
	@$(BIN)/python -m bench scale

coverage: test-apt ## judge this runtime by the specification and write docs/spec-coverage.md (MORE='TITLE=FILE…': other machines' results)
	@$(LOCKED) $(VENV)/.test-installed
	-@$(BIN)/python -m conformance --runtime $(BIN)/ociruntime --format json >.coverage-default.json
	-@$(BIN)/python -m conformance --runtime '$(BIN)/ociruntime --strict' --format json >.coverage-strict.json
	-@$(BIN)/python -m conformance.as_user $(BIN)/python -m conformance --runtime $(BIN)/ociruntime --format json \
		>.coverage-user.json
	@$(BIN)/python -m conformance.coverage --also tests/conformance/also.json 'default=.coverage-default.json' \
		'strict=.coverage-strict.json' 'user=.coverage-user.json' $(foreach run,root-ours root-strict user-ours,\
		$(patsubst %,'VM $(subst -ours,,$(run))=%',$(wildcard .coverage-vm/$(run).json))) $(MORE) >docs/spec-coverage.md

coverage-vm: build ## judge it in virtual machines with systemd and cgroup v2, for `make coverage` (VM=--peers: runc and crun, too)
	@$(BIN)/python tests/vm/judge.py .coverage-vm $(VM)

lint: test-apt ## check style and types
	@$(LOCKED) $(VENV)/.test-installed
	@$(PYTEST) -q tests/lint

fuzz: test-apt ## fuzz the plan checker, init and whatever is read from elsewhere, each for FUZZ_SECONDS (600)
	@$(LOCKED) $(VENV)/.test-installed
	-@$(BIN)/pip install -q --only-binary :all: 'atheris>=3,<4' # where there is a wheel; its tests skip themselves else
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(PYTEST) -q -s tests/native tests/fuzz tests/unit/build -k fuzz

soak: test-apt ## let 10,000 containers come and go and 1,000 live at once, and see whether anything grows (SOAK='--cycles 500 …')
	@$(LOCKED) $(VENV)/.test-installed
	@$(BIN)/python -m tests.soak $(SOAK)

storm: test-apt ## call the verbs from 16 callers in 500 random storms, then attack the runtime from inside during 500 execs
	@$(LOCKED) $(VENV)/.test-installed
	@$(BIN)/python -m tests.concurrency --examples 500 --verbs 10
	@HUNT_EXECS=500 $(PYTEST) -q tests/integration/test_attacks_process.py -k hunting

faults: test-apt ## make every system call of every verb fail, and kill the runtime and init before each (hours; SELECT=NAME,… JOBS=N)
	@$(LOCKED) $(VENV)/.test-installed
	@$(BIN)/python -m tests.faults --select '$(SELECT)' --jobs $(or $(JOBS),2)

venv: apt ## build, and install into .venv
	@$(LOCKED) $(VENV)/.installed

build: test-apt ## build into the source tree as well, which is what tests import
	@$(LOCKED) $(VENV)/.test-installed

install: apt ## install below PREFIX (/usr/local): the command, manual pages, completion; DESTDIR is honoured
	@$(LOCKED) -s $(VENV)/.wheel
	@$(BIN)/python install/place.py install --destdir '$(DESTDIR)' --prefix '$(PREFIX)' \
		--dependencies $(VENV)/dependencies --wheel $(VENV)/wheel/ociruntime-*.whl

uninstall: ## undo install
	@$(PYTHON) install/place.py uninstall --destdir '$(DESTDIR)' --prefix '$(PREFIX)'

deb: apt ## make a package of this Debian release in dist
	@.ci/apt-install $(DEB_APT)
	@$(LOCKED) dist/.deb
	@ls dist/ociruntime_*.deb

clean: ## remove whatever was built
	rm -rf --one-file-system build dist *.egg-info $(VENV) .newer .build-lock .mypy_cache .ruff_cache .pytest_cache
	rm -f *.so ociruntime/*.so ociruntime/init ociruntime/_build_info.py ociruntime/spec/_validator.py native/_*.c
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --require-hashes -r install/build.txt

# Each dependency as a wheel, downloaded and verified once; everything below installs from there.
$(VENV)/.dependencies: $(BIN)/python install/build.txt install/requirements.txt
	@rm -rf $(VENV)/dependencies
	@$(BIN)/pip wheel -q --require-hashes --no-build-isolation --use-pep517 -w $(VENV)/dependencies \
		-r install/requirements.txt
	@$(BIN)/pip install -q --no-index $(VENV)/dependencies/*.whl
	@touch $@

# One wheel is what .venv, `make install` and the tests install.
$(VENV)/.wheel: $(VENV)/.dependencies $(SOURCES)
	@rm -rf build $(VENV)/wheel
	@$(BIN)/pip wheel -v --no-deps --no-build-isolation -w $(VENV)/wheel . >$(VENV)/build.log 2>&1 || { \
		cat $(VENV)/build.log; exit 1; }
	@sed -n 's/^ *\(ociruntime: \)/\1/p' $(VENV)/build.log
	@touch $@

$(VENV)/.installed: $(VENV)/.wheel
	@$(BIN)/pip install -q --no-deps --force-reinstall $(VENV)/wheel/ociruntime-*.whl
	@OCIRUNTIME_LAUNCHER=script $(BIN)/python setup.py -q build_scripts --build-dir=$(VENV)/script 2>/dev/null
	@$(BIN)/ociruntime --version
	@touch $@

dist/.deb: $(VENV)/.wheel install/deb.py install/place.py $(wildcard install/examples/*)
	@rm -f dist/ociruntime_*.deb
	@$(BIN)/python install/deb.py dist >$(VENV)/deb.log 2>&1 || { cat $(VENV)/deb.log; exit 1; }
	@touch $@

$(VENV)/.test-installed: $(VENV)/.installed pyproject.toml tests/constraints.txt
	@$(BIN)/python -c 'import tomllib; f = open("pyproject.toml", "rb"); \
		print(*tomllib.load(f)["project"]["optional-dependencies"]["test"], sep="\n")' >$(VENV)/test-requirements.txt
	@$(BIN)/pip install -q -c tests/constraints.txt -r $(VENV)/test-requirements.txt
	@$(BIN)/python setup.py -q build_parts build_ext --inplace
	@touch $@

apt:
	@.ci/apt-install $(BUILD_APT)

test-apt: apt
	@.ci/apt-install $(TEST_APT)
