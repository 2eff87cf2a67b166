.PHONY: test test-fast lint

test: test-fast
	.venv/bin/pytest -m lab -n 2 --dist loadfile

test-fast: lint
	.venv/bin/pytest -m "not lab" -n 2

lint: bootstrap
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

.PHONY: bootstrap
bootstrap:
	@scripts/bootstrap
