# The two commands: `make demo` builds, verifies and shows a server in containers; `make test` runs everything.
.PHONY: demo drills test test-fast lint manual bench rebuild down

# Python keeps what it has compiled, whatever the environment says: the next run of the tests is faster for it.
export PYTHONDONTWRITEBYTECODE =

# What fails beside other tests is tried once more, alone: a busy machine may be slower than a test allows. Exit code 1
# says that tests failed. Names of tests may have spaces.
run_tests = .venv/bin/$(or $(3),pytest) -m "$(1)" $(2) || { test $$? = 1 && echo "Once more, alone, what failed:" && \
  .venv/bin/python scripts/list_failed_tests.py > .pytest_cache/again && \
  .venv/bin/pytest -m "$(1)" @.pytest_cache/again; }

measure_coverage = python -m slipcover --source mailkeep,mailkeep_server --json --out .coverage.json -m pytest

demo: bootstrap
	@.venv/bin/python -m mailkeep.demo

drills: bootstrap
	@.venv/bin/mailkeep drill all

test: test-fast
	$(call run_tests,slow,-n 3 --dist worksteal)
	$(call run_tests,lab or wheel,-n 3 --dist loadfile --durations 12)
	LC_ALL=C.UTF-8 PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/molecule test

test-fast: lint
	$(call run_tests,not lab and not wheel and not slow,-n auto --dist worksteal,$(measure_coverage))
	@.venv/bin/python scripts/print_coverage.py .coverage.json

lint: bootstrap
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# The manual pages, docs/settings.md and the dashboard, from the sources of the help, the settings and the figures.
manual: bootstrap
	.venv/bin/python -m mailkeep.settings.reference
	.venv/bin/python scripts/make_manual.py
	.venv/bin/python scripts/make_dashboard.py

rebuild: bootstrap
	.venv/bin/python bench/rebuild.py

bench: bootstrap
	.venv/bin/python bench/build.py
	.venv/bin/python bench/rerun.py
	.venv/bin/python bench/policy.py
	.venv/bin/python bench/submission.py
	.venv/bin/python bench/drills.py
	.venv/bin/python bench/accounts.py
	.venv/bin/python bench/mail_bomb.py
	.venv/bin/python bench/full_queue.py
	.venv/bin/python bench/backup.py

down: bootstrap
	.venv/bin/python -m mailkeep.lab down

.PHONY: bootstrap
bootstrap:
	@scripts/bootstrap
