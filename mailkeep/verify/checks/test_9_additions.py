"""What is on the machine beside what mail.yml declares and packages installed."""

from collections.abc import Iterator

from mailkeep.parts.server_package import PYTHON
from mailkeep.verify.outcome import warn_if_any
from mailkeep.verify.target import ProbeResult, Target

OF_SERVICES = ("setting", "drop-in")
"""Kinds of findings (mailkeep_server.common.root_access) that change how a service runs."""
ACCEPT = "If it is yours, write its name (with or without `@` and the digits) under `accepted` in mail.yml."


def test_nothing_was_added_to_the_services(observed: ProbeResult, target: Target) -> None:
    """Services have no configuration beside that of mail.yml and of packages."""
    warn_if_any(
        _describe_findings(observed, target, of_services=True),
        expected="what was there at the first deploy, and nothing else",
        remedy=f"{ACCEPT} If not, remove the file, and restart its service.",
    )


def test_nobody_new_can_become_root(observed: ProbeResult, target: Target, deploy: str) -> None:
    """Nobody and nothing can become root that could not at the first deploy."""
    warn_if_any(
        [] if observed["root access"]["recorded"] else ["it is not recorded who could become root"],
        expected="the record of the first deploy",
        remedy=f"{deploy} records who can now. `{PYTHON} root-access` on the server lists them.",
    )
    warn_if_any(
        _describe_findings(observed, target, of_services=False),
        expected="what was there at the first deploy, and nothing else",
        remedy=f"{ACCEPT} If not, somebody else has been root here: see docs/after-a-break-in.md.",
    )


def _describe_findings(observed: ProbeResult, target: Target, *, of_services: bool) -> Iterator[str]:
    declared = {file.path for part in target.parts for file in part.files}
    accepted = set(target.settings.accepted)
    for finding in observed["root access"]["findings"]:
        name = finding["name"]
        is_ours = finding["path"] in declared
        is_accepted = not accepted.isdisjoint((name, name.rpartition("@")[0]))
        if (name.partition(":")[0] in OF_SERVICES) == of_services and not is_ours and not is_accepted:
            yield f"{name}  {finding['text']}"
