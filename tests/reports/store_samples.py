"""A database of reports for a test, and what is in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.store import ReportStore

TABLES = ("reports", "dmarc_rows", "tls_rows")


@contextmanager
def open_new_store(directory: Path, config: ReportsConfig) -> Iterator[ReportStore]:
    """In one transaction."""
    store = ReportStore(directory / "reports.db", config)
    with store.transaction():
        yield store
    store.close()


def count_rows(store: ReportStore) -> dict[str, int]:
    """By table."""
    return {table: store.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}  # noqa: S608 - constants
