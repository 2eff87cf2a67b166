"""The outside world's mail servers: a mail exchanger on port 25, a relay host with authentication on port 587.

Each accepted message becomes a line of JSON in `messages`. The local part of a recipient decides the answer: `defer@…`
gets 451, `refuse@…` 550. For `strict@…`, SPF, DKIM and DMARC are checked, and a message that fails DMARC is refused
where its domain's policy is `reject`. While there is a file `old`, 8BITMIME is not offered.

Runs in the Internet container, as `mail.py DIRECTORY`. DIRECTORY contains `messages`, `mx.pem`, `mx.key` and
`relay.json` (user, password).
"""

import asyncio
import base64
import json
import os
import socket
import ssl
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import receiver  # type: ignore[import-not-found]  # beside this file
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

ANSWERS = {"defer": "451 4.7.1 Try again later", "refuse": "550 5.1.1 No such mailbox"}


class MessageHandler:
    """aiosmtpd's handler: records the messages of a listener, `mx` or `relay`."""

    def __init__(self, messages: Path, listener: str) -> None:
        self.messages = messages
        self.listener = listener

    async def handle_EHLO(  # noqa: N802
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        is_old = (self.messages.parent / "old").exists()
        return [line for line in responses if not (is_old and line.endswith(("8BITMIME", "SMTPUTF8")))]

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = ANSWERS.get(address.split("@")[0].lower())
        if answer is None:
            envelope.rcpt_tos.append(address)
            envelope.rcpt_options.extend(options)
        return answer or "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        address = cast(tuple[str, int], session.peer)  # aiosmtpd annotates it as a str
        results = {}
        if any(recipient.startswith("strict@") for recipient in envelope.rcpt_tos):
            content, sender = envelope.original_content or b"", envelope.mail_from or ""
            results = await asyncio.to_thread(
                receiver.check_message, content, address[0], session.host_name or "", sender
            )
            if results["dmarc"] == "fail" and results["policy"] == "reject":
                return f"550 5.7.26 {' '.join(f'{name}={result}' for name, result in results.items())}"
        auth = session.auth_data
        message = {
            "listener": self.listener,
            "time": time.time(),
            "peer": address[0],
            "helo": session.host_name,
            "tls": session.ssl["cipher"][1] if session.ssl else None,
            "user": auth.login.decode() if isinstance(auth, LoginPassword) else None,
            "sender": "" if envelope.mail_from == "<>" else envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "data": base64.b64encode(envelope.original_content or b"").decode(),
            "results": results,
        }
        with self.messages.open("a") as out:
            out.write(json.dumps(message) + "\n")
        return "250 2.0.0 Stored"


async def run_servers(directory: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(directory / "mx.pem", directory / "mx.key")
    account = json.loads((directory / "relay.json").read_text())
    login = LoginPassword(account["user"].encode(), account["password"].encode())

    def check_login(_server: object, _session: object, _envelope: object, _mechanism: str, data: object) -> AuthResult:
        return AuthResult(success=data == login, handled=False, auth_data=data)

    common: dict[str, Any] = {
        "hostname": "mx.outside.test",
        "tls_context": tls,
        "enable_SMTPUTF8": True,
        "data_size_limit": 64 << 20,
    }
    relay: dict[str, Any] = {"authenticator": check_login, "auth_required": True, "auth_require_tls": True}
    for port, listener, options in ((25, "mx", {}), (587, "relay", relay)):
        make_server = partial(SMTP, MessageHandler(directory / "messages", listener), **common, **options)
        await asyncio.get_running_loop().create_server(make_server, host=None, port=port)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])  # sd_notify(3)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run_servers(Path(sys.argv[1])))
