"""What a Linux user with a shell on the server, but without rights, can do."""

from mailkeep.parts import firewall, postfix
from mailkeep.settings.models import Settings
from mailkeep.verify import ruleset
from mailkeep.verify.outcome import CheckFailedError, CheckSkippedError, fail_if_any
from mailkeep.verify.target import ProbeResult, Target


def test_local_programs_cannot_send(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Programs of Linux users that mail.yml does not name cannot send mail."""
    sendmail = observed["unprivileged"]["sendmail"]
    if sendmail["code"] == 0 or "not allowed to submit" not in sendmail["output"]:
        raise CheckFailedError(
            "sendmail: User … is not allowed to submit mail",
            f"exit {sendmail['code']}: {sendmail['output'] or 'the message was accepted'}",
            f"authorized_submit_users must be `{', '.join(settings.local_senders)}`: {deploy} restores it.",
        )


def test_postfix_serves_what_is_declared_only(observed: ProbeResult, target: Target, deploy: str) -> None:
    """Postfix runs the declared services only, and none relays for local programs."""
    listeners, ports, sockets = observed["postfix listeners"], *postfix.list_declared_sockets(target.parts)
    fail_if_any(
        [
            *(f"undeclared: TCP port {port}" for port in listeners["ports"] if port not in ports),
            *(f"undeclared: the socket {path}" for path in listeners["unix"] if path not in sockets),
            *(f"does not run: TCP port {port}" for port in ports if port not in listeners["ports"]),
            *(f"does not run: the socket {path}" for path in sockets if path not in listeners["unix"]),
            *(
                f"{attempt['address']} port {attempt['port']} ({attempt['process']}) accepts mail of an account from "
                f"anybody: {attempt['code']} {attempt['text']}"
                for attempt in listeners["attempts"]
                if attempt["code"] // 100 == 2
            ),
        ],
        expected="the services of the declared master.cf, each of which refuses who has not logged in",
        remedy=f"Mail passes the guard there. {deploy} restores master.cf; then `systemctl restart postfix`.",
    )


def test_local_programs_cannot_reach_other_mail_servers(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Nobody but Postfix connects to other mail servers.

    Nor does root, as in a container with the host's own network; unless the relay host, which is tried, has port 25.
    """
    attempts = observed["unprivileged"]
    connections, root = attempts["connections"], attempts["root"]
    fail_if_any(
        [
            *(result for result in connections if result == "connected"),
            *(() if attempts["rejected"] else (f"no packet was rejected; the connections failed with {connections}",)),
            *(
                ()
                if root["rejected"] or firewall.may_root_send(settings)
                else (f"no packet of root's was rejected; its connection failed with {root['connection']}",)
            ),
        ],
        expected="the firewall rejects connections to port 25",
        remedy=f"The chain `output` of the table `mailkeep` does it: {deploy} restores the firewall.",
    )


def test_containers_cannot_reach_other_mail_servers(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Containers and VPN clients reach other mail servers only if mail.yml says so."""
    declared = ruleset.parse_networks(str(network) for network in settings.firewall.may_send)
    allowed = ruleset.parse_networks(observed["firewall"]["may_send"])
    fail_if_any(
        [
            *(
                fault
                for version, attempt in observed["forwarded mail"].items()
                if (fault := _describe_forwarding(version, attempt))
            ),
            *(f"allowed, but not declared: {network}" for network in allowed - declared),
            *(f"declared, but not allowed: {network}" for network in declared - allowed),
        ],
        expected="the firewall rejects forwarded connections to port 25",
        remedy=f"The chain `forward` of the table `mailkeep` does it: {deploy} restores the firewall. Networks that "
        "may send stand under `firewall.may_send` in mail.yml.",
    )


def _describe_forwarding(version: str, attempt: dict[str, str]) -> str:
    """The fault in an imitated container's attempt; empty if there is none, or no IPv6."""
    if attempt["smtp"] == "connected":
        return f"a container's connection to another mail server over IPv{version} went past Postfix"
    has_no_ipv6 = version == "6" and any(text in attempt["control"] for text in ("not supported", "unreachable"))
    return "" if attempt["control"] == "connected" or has_no_ipv6 else f"IPv{version} not tried: {attempt['control']}"


def test_secrets_are_private(observed: ProbeResult, deploy: str) -> None:
    """No other Linux user reads keys, password hashes, addresses or mailboxes."""
    fail_if_any(
        observed["unprivileged"]["readable"],
        expected="Permission denied",
        remedy=f"{deploy} restores owners and modes. Readable files may have been read: replace keys and passwords.",
    )


def test_private_sockets_are_private(observed: ProbeResult, deploy: str) -> None:
    """No other Linux user reaches the sockets for passwords, signing, delivery."""
    fail_if_any(
        observed["unprivileged"]["connectable"],
        expected="Permission denied",
        remedy=f"{deploy} restores the services' configuration; then restart the service that owns the socket.",
    )


def test_ssh_takes_no_passwords(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """SSH accepts keys only."""
    if settings.ssh.passwords:
        raise CheckSkippedError("mail.yml says `ssh.passwords: true`")
    answer = observed["ssh"]
    if "Permission denied (publickey)" not in answer:
        raise CheckFailedError(
            "Permission denied (publickey)",
            answer,
            f"PasswordAuthentication and KbdInteractiveAuthentication must be `no`: {deploy} restores them.",
        )


def test_every_way_into_ssh_needs_a_key(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """No block of sshd's configuration lets anybody in without a key.

    A `Match` block may do so for one user, or from one network.
    """
    forbidden = {"permitemptypasswords", "hostbasedauthentication"}
    if not settings.ssh.passwords:
        forbidden |= {"passwordauthentication", "kbdinteractiveauthentication"}
    fail_if_any(
        (
            f"{name} {login['options'][name]} for {login['user']} from {login['address']}"
            for login in observed["ssh options"]
            for name in sorted(forbidden)
            if login["options"][name] != "no"
        ),
        expected="keys only, for every user and from everywhere",
        remedy="`sshd -T -C user=USER,host=ADDRESS,addr=ADDRESS` shows it. Remove the block from /etc/ssh, then "
        f"`systemctl reload ssh`; {deploy} restores what Mailkeep wrote.",
    )


def test_only_root_changes_the_configuration(observed: ProbeResult, deploy: str) -> None:
    """Nobody but root and the declared owners can write where configuration is."""
    fail_if_any(
        (f"{path}: {access}" for path, access in observed["loose paths"]),
        expected="directories and files of root's that others cannot write to",
        remedy=f"`chown root PATH; chmod go-w PATH`. Look who wrote there: `ls -la PATH`. {deploy} restores the files.",
    )
