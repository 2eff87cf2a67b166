"""Encoded words (RFC 2047), in every way in which mail programs read them.

Mail programs differ: in what they take for an encoded word, in how they join two of them, and in the charsets that they
know. A name that reads well in one of them may show an address in another. So all readings are returned. Most lines
have no encoded word, and one reading.
"""

import base64
import encodings
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator
from encodings.aliases import aliases
from itertools import product

_HEAD = re.compile(r"=\?([\w.:+*-]{0,60})\?([bq])\?", re.IGNORECASE | re.ASCII)
"""The beginning of an encoded word: charset and encoding. Mail programs accept them in quotes, and without spaces."""
_HEX = re.compile(rb"=([0-9a-f]{2})", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[^0-9A-Za-z+/=]")
_OVERLONG = re.compile(rb"([\xc0\xc1])([\x80-\xbf])|\xe0([\x80\x81])([\x80-\xbf])")
_LANGUAGE = re.compile(r"\*.*")  # RFC 2231 section 5

_SAFE_CODECS = {
    "us-ascii": "cp1252",
    "ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5",
    "big5-hkscs": "big5hkscs",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "windows-31j": "cp932",
    "cp932": "cp932",
    "euc-jp": "euc_jp",
    "iso-2022-jp": "iso2022_jp_ext",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "cp949": "cp949",
    "iso-2022-kr": "iso2022_kr",
    "koi8-r": "koi8_r",
    "koi8-u": "koi8_u",
    "tis-620": "cp874",
    "windows-874": "cp874",
    "macintosh": "mac_roman",
    "ibm866": "cp866",
    **{f"iso-8859-{number}": f"iso8859_{number}" for number in (*range(2, 12), 13, 14, 15, 16)},
    **{f"windows-{number}": f"cp{number}" for number in range(1250, 1259)},
    **{f"cp{number}": f"cp{number}" for number in range(1250, 1259)},
}
"""Charsets that all mail programs read alike (the labels of WHATWG's Encoding standard), with Python's codecs. Python
takes many other spellings, such as `utf_16_be`, which nobody else knows: others show the bytes."""
_PYTHON_CODECS = frozenset({module.name for module in pkgutil.iter_modules(encodings.__path__)})
_GUESSES = ("cp1252", "gb18030", "big5", "cp932", "cp949")
"""For bytes without a charset. Others have no ASCII letters in their pairs of bytes, and do not hide or show any."""


def list_readings(text: str) -> list[str]:
    """How mail programs may show this line, the usual way first. Bytes that are not UTF-8 are surrogates (PEP 383)."""
    pieces = _HEAD.split(text.replace("?=?", "?==?"))  # two words may share the sign between them
    readings = [text]
    if len(pieces) > 1:
        words = list(zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True))
        ways = product((str.partition, str.rpartition), (_join_bytes, _join_nothing, _join_text), (_declared, _others))
        readings = [pieces[0] + _read_words(words, *way) for way in ways]
    return list(dict.fromkeys(guess for reading in readings for guess in _guess_charsets(reading)))


def _guess_charsets(text: str) -> Iterator[str]:
    if text.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in text):
        yield text
    else:
        raw = text.encode("utf-8", "surrogateescape")
        yield from (raw.decode(codec, "replace") for codec in _GUESSES)


Word = tuple[str, str, str]
"""Charset, encoding, and all that follows until the next word."""
_Cut = Callable[[str, str], tuple[str, str, str]]
_Run = list[tuple[str, str]]
"""Encoding and payload of words that stand side by side in one charset."""


def _read_words(
    words: list[Word], cut: _Cut, join: Callable[[_Run], list[bytes]], decode: Callable[[bytes, str], str]
) -> str:
    """`cut` finds the end of a word, `join` makes the bytes of neighbours, `decode` their characters."""
    text, run, run_charset = "", _Run(), ""
    for number, (charset, encoding, body) in enumerate(words):
        payload, tail = _find_payload(body, cut)
        if run and charset.lower() != run_charset:
            text += "".join(decode(raw, run_charset) for raw in join(run))
            run = []
        run_charset = charset.lower()
        run.append((encoding.lower(), payload))
        if tail.strip() or number == len(words) - 1:  # else only spaces between two words, which are not shown
            text += "".join(decode(raw, run_charset) for raw in join(run)) + tail
            run = []
    return text


def _find_payload(body: str, cut: _Cut) -> tuple[str, str]:
    """The text of an encoded word, and what follows it. One without an end is read up to the address."""
    if "?=" in body:
        payload, _, tail = cut(body, "?=")
        return payload, tail
    end = min((at for mark in '<"' if (at := body.find(mark)) >= 0), default=len(body))
    return body[:end], body[end:]


def _join_bytes(run: _Run) -> list[bytes]:
    """A character may be spread over two words."""
    return [b"".join(_decode_payload(*word) for word in run)]


def _join_nothing(run: _Run) -> list[bytes]:
    return [_decode_payload(*word) for word in run]


def _join_text(run: _Run) -> list[bytes]:
    """A byte in base64 may be spread over two words."""
    return [_decode_payload(run[0][0], "".join(payload for _, payload in run))]


def _decode_payload(encoding: str, payload: str) -> bytes:
    if encoding == "b":
        return b"".join(map(_decode_base64, _NOT_BASE64.sub("", payload).split("=")))
    raw = payload.replace("_", " ").encode("utf-8", "surrogateescape")
    return _HEX.sub(lambda match: bytes.fromhex(match[1].decode()), raw)


def _decode_base64(text: str) -> bytes:
    """Without the signs that fill it up, which many programs leave out."""
    whole = text[: len(text) - (len(text) % 4 == 1)]
    return base64.b64decode(whole + "=" * (-len(whole) % 4))


def _declared(raw: bytes, charset: str) -> str:
    """As a mail program that knows the charset, if only one in Python."""
    label = _LANGUAGE.sub("", charset)
    if codec := _SAFE_CODECS.get(label):
        return raw.decode(codec, "replace")
    try:
        with warnings.catch_warnings():  # of the codec unicode_escape
            warnings.simplefilter("ignore")
            return raw.decode(_find_python_codec(label), "replace")
    except (LookupError, ValueError):
        return _read_as_ascii(raw)


def _find_python_codec(label: str) -> str:
    """Its own name, as `encodings.search_function` finds it. Python remembers each other spelling, known or not, for as
    long as the process lives and there is no end of spellings. Raises LookupError."""
    name = encodings.normalize_encoding(label).lower()
    name = aliases.get(name) or aliases.get(name.replace(".", "_")) or name
    if name not in _PYTHON_CODECS:
        raise LookupError(label)
    return name


def _others(raw: bytes, charset: str) -> str:
    """As one that does not know it, or that forgives errors."""
    codec = _SAFE_CODECS.get(_LANGUAGE.sub("", charset))
    try:
        return raw.decode(codec) if codec else _read_as_ascii(raw)
    except ValueError:
        return _read_as_ascii(_OVERLONG.sub(_shorten, raw))


def _read_as_ascii(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def _shorten(match: re.Match[bytes]) -> bytes:
    """An ASCII character that was written in more bytes than it needs (RFC 3629 section 10)."""
    first, second = (match[1], match[2]) if match[1] else (match[3], match[4])
    return bytes([(first[0] & 1) << 6 | second[0] & 0x3F])
