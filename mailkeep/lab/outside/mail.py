"""The outside world's mail servers: a mail exchanger on port 25, a relay host with authentication on port 587.

Each message that is accepted becomes one line of JSON in `messages`. Recipients can steer the answer by their local
part: `defer@…` gets 451, `refuse@…` 550, for as long as the server runs; `strict@…` has SPF, DKIM and DMARC looked at,
and refuses what fails DMARC where the policy says so.

Runs in the internet container, as `mail.py DIRECTORY`: there are `messages`, `mx.pem`, `mx.key` and `relay.json`
(user, password).
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


class Store:
    """aiosmtpd's handler: writes down what arrives at one listener, `mx` or `relay`."""

    def __init__(self, messages: Path, listener: str) -> None:
        self.messages = messages
        self.listener = listener

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
        address = cast(tuple[str, int], session.peer)  # annotated as a str, which it is not
        results = {}
        if any(recipient.startswith("strict@") for recipient in envelope.rcpt_tos):
            content, sender = envelope.original_content or b"", envelope.mail_from or ""
            results = await asyncio.to_thread(receiver.results, content, address[0], session.host_name or "", sender)
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


async def serve(directory: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(directory / "mx.pem", directory / "mx.key")
    known = json.loads((directory / "relay.json").read_text())
    login = LoginPassword(known["user"].encode(), known["password"].encode())

    def authenticate(_server: object, _session: object, _envelope: object, _how: str, data: object) -> AuthResult:
        return AuthResult(success=data == login, handled=False, auth_data=data)

    common: dict[str, Any] = {
        "hostname": "mx.outside.test",
        "tls_context": tls,
        "enable_SMTPUTF8": True,
        "data_size_limit": 64 << 20,
    }
    relay: dict[str, Any] = {"authenticator": authenticate, "auth_required": True, "auth_require_tls": True}
    for port, listener, options in ((25, "mx", {}), (587, "relay", relay)):
        dialogue = partial(SMTP, Store(directory / "messages", listener), **common, **options)
        await asyncio.get_running_loop().create_server(dialogue, host=None, port=port)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])  # sd_notify(3)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
