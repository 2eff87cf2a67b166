"""Runs the checks in a pytest session of their own, without the operator's configuration, plugins or output."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import Outcome, outcome_of
from mailkeep.verify.target import ProbeResult, Target

CHECKS = Path(__file__).parent / "checks"
OPTIONS = (
    *("-c", os.devnull, f"--rootdir={CHECKS}", "--noconftest", "--import-mode=importlib"),
    *("--disable-plugin-autoload", "-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:faulthandler"),
    # This plugin collects garbage several times at the end, which takes as long as all the checks.
    *("-p", "no:unraisableexception"),
)
PYTEST_VARIABLES = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_THEME", "PYTEST_THEME_MODE")

Subject = tuple[Target, ProbeResult]


class ChecksPlugin:
    """A pytest plugin that runs every check on every subject, provides the fixtures, and collects the outcomes."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subjects = subjects
        self.outcomes: list[Outcome] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.tbstyle = "value"  # tracebacks are never shown, and building them takes longer than the checks

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        names = [target.name for target, _ in self.subjects]
        metafunc.parametrize("subject", self.subjects, ids=names, scope="session", indirect=True)

    @pytest.fixture(scope="session")
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        subject: Subject = request.param
        return subject

    @pytest.fixture
    def observed(self, subject: Subject) -> ProbeResult:
        return subject[1]

    @pytest.fixture
    def target(self, subject: Subject) -> Target:
        return subject[0]

    @pytest.fixture
    def settings(self, target: Target) -> Settings:
        return target.settings

    @pytest.fixture
    def secrets(self, target: Target) -> Secrets:
        return target.secrets

    @pytest.fixture
    def deploy(self, target: Target) -> str:
        """The command that restores the server, for remedies."""
        return f"`mailkeep deploy {target.remote.inventory_label}`"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Function, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        error = call.excinfo.value if call.excinfo else None
        if call.when == "call" or error:
            target, _ = cast(Subject, item.callspec.params["subject"])
            name = item.originalname.removeprefix("test_")
            promise = (item.function.__doc__ or name).strip().splitlines()[0].removesuffix(".")
            self.outcomes.append(outcome_of(target.name, name, promise, error))
        return (yield)


def judge_results(subjects: Sequence[Subject]) -> list[Outcome]:
    """The outcome of every check on these subjects, host by host."""
    plugin = ChecksPlugin(subjects)
    with _without_variables(*PYTEST_VARIABLES):
        code = pytest.main([*OPTIONS, str(CHECKS)], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"the checks did not run: pytest ended with {code!r}")
    return plugin.outcomes


@contextmanager
def _without_variables(*names: str) -> Iterator[None]:
    """Remove environment variables that would change how pytest runs, and restore them afterwards."""
    removed = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed)
