"""The checks as a pytest session of their own, with no configuration, plugins or output but ours."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import Outcome, outcome
from mailkeep.verify.target import ProbeResult, Target

CHECKS = Path(__file__).parent / "checks"
OPTIONS = (
    *("-c", os.devnull, f"--rootdir={CHECKS}", "--noconftest", "--import-mode=importlib"),
    *("--disable-plugin-autoload", "-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:faulthandler"),
    # It collects garbage again and again at the end, which takes as long as all the checks.
    *("-p", "no:unraisableexception"),
)
ENVIRONMENT = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_THEME", "PYTEST_THEME_MODE")

Subject = tuple[Target, ProbeResult]


class Judge:
    """A pytest plugin: runs every check on every subject, gives the checks their fixtures, keeps what came of them."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subjects = subjects
        self.outcomes: list[Outcome] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.tbstyle = "value"  # nobody sees tracebacks, and making them takes longer than the checks

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        names = [target.name for target, _ in self.subjects]
        metafunc.parametrize("subject", self.subjects, ids=names, scope="session", indirect=True)

    @pytest.fixture(scope="session")
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        found: Subject = request.param
        return found

    @pytest.fixture
    def seen(self, subject: Subject) -> ProbeResult:
        """What the probe saw there."""
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
        """The command that restores what was declared."""
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
            self.outcomes.append(outcome(target.name, name, promise, error))
        return (yield)


def judge_results(subjects: Sequence[Subject]) -> list[Outcome]:
    """What comes of every check on these, host by host."""
    judge = Judge(subjects)
    with _without(*ENVIRONMENT):
        code = pytest.main([*OPTIONS, str(CHECKS)], plugins=[judge])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"the checks did not run: pytest ended with {code!r}")
    return judge.outcomes


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without variables that would change how pytest runs."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
