"""Weak passwords are refused, Dovecot verifies the hashes, and a breach check gives nothing away."""

import hashlib
import http.server
import math
import socket
import threading
import time
from collections.abc import Iterator

import argon2
import pytest
from nacl import pwhash
from nacl.exceptions import InvalidkeyError

from mailkeep.errors import UserError
from mailkeep.inventory import passwords
from mailkeep.inventory.passwords import check_password, count_breaches, generate_password, hash_password
from mailkeep.settings.password_hashes import ARGON2ID

DOMAINS = ("example.org", "mail.example.org")


def read_refusal(password: str, address: str = "anna@example.org") -> str:
    with pytest.raises(UserError) as raised:
        check_password(password, address=address, domains=DOMAINS)
    assert len(password) < 3 or password not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "from 12 to 256 characters"),
        ("x7Kq-2mPz9w", "from 12 to 256 characters"),
        ("x7Kq-2mPz9w" * 30, "from 12 to 256 characters"),
        ("qwertyuiop123456", "most common"),
        ("password1234", "most common"),
        ("!!!Password123!!!", "most common"),
        ("1q2w3e4r5t6y", "most common"),
        ("steamsteamsteam", "too easy"),
        ("aaaaaaaaaaaaaaaaaaaaaaaa", "too easy"),
        ("abcdefghijklmnop", "too easy"),
        ("summersummer2026", "too easy"),
        ("a" * 256, "too easy"),
        ("x7Kq-anna-2mPz9w", "'anna'"),
        ("x7Kq-ANNA-2mPz9w", "'anna'"),
        ("x7Kq-example.org-2mPz9w", "'example.org'"),
        ("x7Kq-eXample-2mPz9w", "'example'"),
        ("x7Kq-2mPz\n9wRt5", "printable"),
        ("x7Kq-2mPz\x009wRt5", "printable"),
        ("x7Kq-2mPz\ud8009wRt5", "printable"),
        ("x7Kq-2mPz9wRt5 ", "space"),
    ],
)
def test_a_weak_password_is_refused_with_the_reason(password: str, reason: str) -> None:
    assert reason in read_refusal(password)


def test_the_passwords_of_the_incidents_are_refused_for_their_accounts() -> None:
    for account in ("test", "android", "steam", "alarm"):
        assert read_refusal(account, f"{account}@example.org")
        assert f"{account!r}" in read_refusal(f"x7Kq-{account}-2mPz9w", f"{account}@example.org")


@pytest.mark.parametrize(
    "password", ["x7Kq-2mPz9wRt5", "reef lantern oboe thicket", "Größe sei häufig Übermaß", "k7fh-x2qe-9xqm-ab4d"]
)
def test_a_strong_password_is_accepted(password: str) -> None:
    check_password(password, address="anna@example.org", domains=DOMAINS)


def test_the_longest_password_is_judged_at_once() -> None:
    start = time.process_time()
    check_password("x7Kq-2mPz9wRt5!!" * 16, address="anna@example.org", domains=DOMAINS)
    assert time.process_time() - start < 0.5


@pytest.mark.slow
def test_a_generated_password_has_77_bits_is_easy_to_type_and_strong() -> None:
    generated = {generate_password() for _ in range(200)}
    assert len(generated) == 200
    assert {len(password) for password in generated} == {19}
    assert set("".join(generated)) == {*passwords.ALPHABET, "-"}
    assert 16 * math.log2(len(set(passwords.ALPHABET))) >= 77
    assert not set(passwords.ALPHABET) & set("01loi")
    for password in generated:
        check_password(password, address="somebody@example.org", domains=DOMAINS)


def test_a_hash_is_valid_in_settings_and_never_the_same_twice() -> None:
    first, second = hash_password("x7Kq-2mPz9wRt5"), hash_password("x7Kq-2mPz9wRt5")
    assert first != second
    assert ARGON2ID.fullmatch(first)


@pytest.mark.parametrize("password", ["x7Kq-2mPz9wRt5", "Größe sei häufig Übermaß"])
def test_libsodium_which_dovecot_uses_verifies_the_hash(password: str) -> None:
    phc = hash_password(password).removeprefix("{ARGON2ID}").encode()
    assert pwhash.verify(phc, password.encode())
    with pytest.raises(InvalidkeyError):
        pwhash.verify(phc, password.encode() + b"x")


def test_a_hash_costs_an_attacker_what_owasp_asks_and_a_small_server_little() -> None:
    cost = argon2.extract_parameters(hash_password("x7Kq-2mPz9wRt5").removeprefix("{ARGON2ID}"))
    assert cost.memory_cost >= 19456  # KiB
    assert cost.time_cost >= 2
    assert cost.memory_cost * 10 <= 256 * 1024, "ten logins at a time take over a quarter of 1 GB"


# Breaches, against a server of the test's own


class RangeServer(http.server.ThreadingHTTPServer):
    """Answers as the range API does: the suffixes it was given, with padding of count 0."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.answer = b""
        self.status = 200
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/range/"


class RangeHandler(http.server.BaseHTTPRequestHandler):
    server: RangeServer

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Add-Padding"]))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def range_api() -> Iterator[RangeServer]:
    with RangeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


PASSWORD = "x7Kq-2mPz9wRt5"  # noqa: S105
DIGEST = hashlib.sha1(PASSWORD.encode()).hexdigest().upper()  # noqa: S324


def test_a_breached_password_is_counted_from_the_answer(range_api: RangeServer) -> None:
    range_api.answer = f"{'0' * 35}:0\r\n{DIGEST[5:]}:42\r\n{'F' * 35}:7\r\n".encode()
    assert count_breaches(PASSWORD, url=range_api.url) == 42


def test_a_password_that_is_not_in_the_answer_or_only_padding_was_not_breached(range_api: RangeServer) -> None:
    range_api.answer = f"{'0' * 35}:9\r\n".encode()
    assert count_breaches(PASSWORD, url=range_api.url) == 0
    range_api.answer = f"{DIGEST[5:]}:0\r\n".encode()
    assert count_breaches(PASSWORD, url=range_api.url) == 0


def test_only_five_digits_of_the_digest_leave_and_padding_is_asked_for(range_api: RangeServer) -> None:
    range_api.answer = b""
    count_breaches(PASSWORD, url=range_api.url)
    assert range_api.requests == [(f"/range/{DIGEST[:5]}", "true")]


@pytest.mark.parametrize(("status", "answer"), [(500, b""), (404, b""), (200, b"<html>"), (200, b"\xff\xff")])
def test_no_usable_answer_is_an_error_and_not_a_clean_bill(range_api: RangeServer, status: int, answer: bytes) -> None:
    range_api.status, range_api.answer = status, answer
    with pytest.raises(UserError, match="no usable answer"):
        count_breaches(PASSWORD, url=range_api.url)


def test_an_answer_that_is_no_http_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 not http\r\n")

        thread = threading.Thread(target=answer_once)
        thread.start()
        with pytest.raises(UserError, match="no usable answer"):
            count_breaches(PASSWORD, url=f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()


@pytest.mark.slow
def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "RANGE_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(UserError, match="timed out"):
        count_breaches(PASSWORD, url=f"http://127.0.0.1:{listener.getsockname()[1]}/")


@pytest.mark.parametrize("url", ["http://example.org/range/", "file:///etc/passwd", "ftp://127.0.0.1/", ""])
def test_the_question_is_never_asked_in_clear_over_a_network(url: str) -> None:
    with pytest.raises(UserError, match="https://"):
        count_breaches(PASSWORD, url=url)
