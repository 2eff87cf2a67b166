"""Postfix's checks of its configuration refuse each warning but that of a kernel without IPv6."""

import subprocess
from pathlib import Path

import pytest

from mailkeep.parts import postfix
from mailkeep.settings.models import Settings

NO_IPV6 = "warning: inet_protocols: disabling IPv6 name/address support: Address family not supported by protocol"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("warnings", "is_accepted"),
    [
        ([], True),
        ([NO_IPV6], True),
        (["warning: /etc/postfix/main.cf: unused parameter: mynetwork=x"], False),
        ([NO_IPV6, "warning: table row without a value"], False),
    ],
)
def test_a_warning_of_postfix_refuses_the_configuration_unless_only_ipv6_is_missing(
    settings: Settings, tmp_path: Path, warnings: list[str], is_accepted: bool
) -> None:
    for name in ("postconf", "postmap"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n" + "".join(f"echo 'postconf: {line}' >&2\n" for line in warnings))
        program.chmod(0o755)
    checks = [
        check.command for check in postfix.build_part(settings, None).checks if "postfix check" not in check.command
    ]
    assert len(checks) > 3
    for check in checks:
        done = subprocess.run(
            ["sh", "-euc", check],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == is_accepted, check
        assert ("disabling IPv6" in done.stdout) is False
