"""What is on the machine beside what was there: named once, and accepted by name."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailkeep.verify.outcome import Outcome
from mailkeep.verify.target import Target
from mailkeep_server.common import root_access

JOB = {"name": "job:/etc/cron.d/report@0011aabb", "text": "* * * * * root mail", "path": "/etc/cron.d/report"}
KEY = {"name": "key:root:SHA256:abc", "text": "ssh-ed25519 you, in /root/.ssh/authorized_keys", "path": ""}
DROP_IN = {"name": "drop-in:/etc/systemd/system/x.service.d/y.conf@0011aabb", "text": "", "path": "/etc/x"}
OURS = {"name": "setting:/etc/ssh/sshd_config.d/10-mailkeep.conf@01", "text": "", "path": ""}


def observe(*findings: dict[str, str], recorded: bool = True) -> dict[str, object]:
    return {"recorded": recorded, "findings": [*findings]}


@pytest.mark.slow
def test_each_addition_is_a_line_of_a_warning(run_check: Callable[..., Outcome]) -> None:
    access = run_check("nobody_new_can_become_root", root_access=observe(JOB, KEY, DROP_IN))
    assert access.status == "warning"
    assert access.observed.splitlines() == [f"{finding['name']}  {finding['text']}" for finding in (JOB, KEY)]
    services = run_check("nothing_was_added_to_the_services", root_access=observe(JOB, KEY, DROP_IN))
    assert (services.status, services.observed.split()) == ("warning", [DROP_IN["name"]])


@pytest.mark.slow
def test_what_mailkeep_wrote_is_no_addition(run_check: Callable[..., Outcome]) -> None:
    finding = OURS | {"path": "/etc/ssh/sshd_config.d/10-mailkeep.conf"}
    assert run_check("nothing_was_added_to_the_services", root_access=observe(finding)).status == "passed"
    assert run_check("nothing_was_added_to_the_services", root_access=observe(OURS)).status == "warning"


@pytest.mark.slow
def test_without_a_record_the_operator_is_told_to_look(run_check: Callable[..., Outcome]) -> None:
    outcome = run_check("nobody_new_can_become_root", root_access=observe(recorded=False))
    assert outcome.status == "warning"
    assert "root-access" in outcome.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accepted", "status"),
    [
        ("job:/etc/cron.d/report", "passed"),
        ("job:/etc/cron.d/report@0011aabb", "passed"),
        ("job:/etc/cron.d/report@99999999", "warning"),  # the file has changed
        ("job:/etc/cron.d", "warning"),
    ],
)
def test_mail_yml_accepts_by_name(
    target: Target, run_check: Callable[..., Outcome], accepted: str, status: str
) -> None:
    object.__setattr__(target, "settings", target.settings.model_copy(update={"accepted": (accepted,)}))
    assert run_check("nobody_new_can_become_root", root_access=observe(JOB)).status == status


def test_the_record_of_the_first_deploy_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later one would take over the key of an intruder."""
    record, findings = tmp_path / "known.json", [root_access.Finding("uid0:toor", "")]
    monkeypatch.setattr(root_access, "KNOWN_ACCESS", str(record))
    monkeypatch.setattr(root_access, "find_root_access", lambda *_: findings)
    assert root_access.compare_with_record() == {"recorded": False, "findings": []}

    assert root_access.main(["record"]) == 0
    findings.append(root_access.Finding("uid0:evil", ""))
    assert root_access.main(["record"]) == 0

    assert json.loads(record.read_text()) == ["uid0:toor"]
    assert record.stat().st_mode & 0o777 == 0o600
    assert root_access.compare_with_record()["findings"] == [{"name": "uid0:evil", "text": "", "path": ""}]


@pytest.mark.slow
def test_a_search_that_is_cut_off_is_told_and_so_is_a_record_that_lacks_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in (("find", "echo /usr/bin/mine\nexec sleep 30"), ("dpkg-query", ""), ("sshd", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    findings = root_access.find_root_access(0.2)
    assert [finding.name.partition("@")[0] for finding in findings if "setuid" in finding.name] == [
        "incomplete:setuid",
        "setuid:/usr/bin/mine",
    ]
    record = tmp_path / "known.json"
    record.write_text(json.dumps(["incomplete:setuid"]))
    monkeypatch.setattr(root_access, "KNOWN_ACCESS", str(record))
    monkeypatch.setattr(root_access, "find_root_access", list)
    [told] = root_access.compare_with_record()["findings"]  # type: ignore[misc]
    assert "the record of the first deploy lacks some setuid programs" in told["text"]


def test_files_of_packages_are_left_out_unless_they_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, changed, added = (tmp_path / name for name in ("kept", "changed", "added"))
    for path in (kept, changed, added):
        path.write_text("0 3 * * * root true\n")
    digests = {kept: hashlib.md5(kept.read_bytes(), usedforsecurity=False).hexdigest(), changed: "0" * 32}
    outputs = {
        "--search": "".join(f"cron: {path}\n" for path in (kept, changed)),
        "-W": "".join(f" {path} {digest}\n" for path, digest in digests.items()),
    }
    monkeypatch.setattr(root_access, "_run", lambda *command: outputs[command[1]])
    findings = root_access._leave_out_packaged([*root_access._list_files("job", [f"{tmp_path}/*"])])
    assert sorted(Path(finding.path).name for finding in findings) == ["added", "changed"]


@pytest.mark.parametrize(
    ("kind", "mode", "is_shown"),
    [("job", 0o644, True), ("job", 0o600, False), ("unit", 0o640, False), ("sudo", 0o440, True)],
)
def test_what_only_root_may_read_is_not_printed(tmp_path: Path, kind: str, mode: int, is_shown: bool) -> None:
    file = tmp_path / "report"
    file.write_text("curl -u me:secret https://example.org\n")
    file.chmod(mode)
    finding = root_access._describe_file(kind, file)
    assert ("secret" in finding.text) == is_shown
    assert is_shown or finding.text == root_access.HIDDEN_TEXT


def test_a_key_that_was_cut_off_is_named_too(tmp_path: Path) -> None:
    """Its letters may be no base64; the first deploy ended with a traceback."""
    (tmp_path / "keys").write_text("ssh-ed25519 AAAAC anna@laptop\n")
    entry = SimpleNamespace(pw_name="root", pw_dir=str(tmp_path), pw_uid=0)
    [finding] = root_access._list_keys(entry, "keys")  # type: ignore[arg-type]
    assert "anna@laptop" in finding.text


def test_every_key_of_root_has_its_fingerprint_and_its_file(tmp_path: Path) -> None:
    keys = tmp_path / ".ssh" / "authorized_keys"
    keys.parent.mkdir()
    keys.write_text(
        "# ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEJK comment\n\n"
        'from="192.0.2.1",command="backup now" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA anna@laptop\n'
        "cert-authority ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB\n"
    )
    entry = SimpleNamespace(pw_name="root", pw_dir=str(tmp_path), pw_uid=0)
    findings = [*root_access._list_keys(entry, "%h/.ssh/authorized_keys")]  # type: ignore[arg-type]
    assert [finding.name.rpartition(":")[0] for finding in findings] == ["key:root:SHA256", "ca-key:root:SHA256"]
    assert "anna@laptop" in findings[0].text
    assert str(keys) in findings[0].text
