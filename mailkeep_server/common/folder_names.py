"""Names of folders: modified UTF-7 (RFC 3501, 5.1.3), and which folders are the same by purpose on every server."""

import re
from base64 import b64decode, b64encode

_RUN = re.compile(r"[^\x20-\x7e]+|&")
_SHIFTED = re.compile(r"&([^-]*)-")
SPECIAL_USE = {"\\Drafts": "Drafts", "\\Sent": "Sent", "\\Junk": "Junk", "\\Trash": "Trash", "\\Archive": "Archive"}
"""RFC 6154's attributes, and our folders. The first four are in Dovecot's configuration."""
_NAMES = {
    "Drafts": "drafts draft entwürfe entwurf brouillons borradores bozze concepten rascunhos szkice utkast kladder "
    "черновики draughts",
    "Sent": "sent|sent items|sent messages|sent mail|sent-mail|gesendet|gesendete elemente|gesendete objekte|"
    "gesendete nachrichten|envoyés|messages envoyés|éléments envoyés|enviados|elementos enviados|mensajes enviados|"
    "inviata|posta inviata|inviati|elementi inviati|verzonden|verzonden items|verzonden berichten|itens enviados|"
    "wysłane|elementy wysłane|skickat|skickade objekt|sendt|sendte elementer|отправленные",
    "Junk": "junk|spam|junk mail|junk e-mail|junk-e-mail|junk email|bulk mail|spamverdacht|unerwünscht|"
    "courrier indésirable|indésirables|pourriel|correo no deseado|posta indesiderata|ongewenst|ongewenste e-mail|"
    "lixo eletrônico|wiadomości-śmieci|skräppost|uønsket e-post|спам|correo basura|ongewenste mail|nevyžádaná pošta|"
    "roskaposti|迷惑メール|垃圾邮件|垃圾郵件",
    "Trash": "trash|deleted|deleted items|deleted messages|bin|papierkorb|gelöscht|gelöschte elemente|"
    "gelöschte objekte|corbeille|éléments supprimés|messages supprimés|papelera|elementos eliminados|cestino|"
    "posta eliminata|elementi eliminati|prullenbak|verwijderde items|lixeira|itens excluídos|kosz|"
    "elementy usunięte|papperskorg|borttagna objekt|slettet|slettede elementer|корзина|удаленные",
}
_BY_NAME = {
    name: folder
    for folder, names in _NAMES.items()
    for name in (names.split("|") if "|" in names else names.split(" "))
}
_GOOGLE = ("[Gmail]", "[Google Mail]")


def encode_name(name: str) -> str:
    """A name as IMAP sends it."""

    def shift_run(match: re.Match[str]) -> str:
        if match.group() == "&":
            return "&-"
        return f"&{b64encode(match.group().encode('utf-16-be')).rstrip(b'=').replace(b'/', b',').decode()}-"

    return _RUN.sub(shift_run, name)


def decode_name(encoded: str) -> str:
    """The name that IMAP or a Maildir spells so. Raises ValueError if it is not modified UTF-7."""

    def unshift_run(match: re.Match[str]) -> str:
        text = match.group(1)
        if not text:
            return "&"
        data = b64decode(text.replace(",", "/") + "=" * (-len(text) % 4), validate=True)
        return data.decode("utf-16-be")

    name = _SHIFTED.sub(unshift_run, encoded)
    if not encoded.isascii() or encode_name(name) != encoded:
        raise ValueError(f"{encoded}: not in modified UTF-7")
    return name


def read_name(encoded: bytes) -> tuple[str, bool]:
    """The name of a folder, and whether it was in modified UTF-7. Other names are taken as they are written."""
    try:
        return decode_name(encoded.decode("ascii")), True
    except ValueError:
        pass
    try:
        name = encoded.decode()
    except UnicodeDecodeError:
        return encoded.decode("latin-1"), False
    # Dovecot can keep names in UTF-8 (mailbox_list_utf8): those are as good.
    return name, not encoded.isascii()


def find_purpose(path: tuple[str, ...], attributes: frozenset[str] = frozenset()) -> str:
    """Our folder for the same purpose, by RFC 6154's attributes or else by the usual names; "" if it has none."""
    for attribute, folder in SPECIAL_USE.items():
        if attribute.lower() in {text.lower() for text in attributes}:
            return folder
    if path[:1] and path[0] in _GOOGLE:
        path = path[1:]
    return _BY_NAME.get(path[0].casefold(), "") if len(path) == 1 else ""


def place_folder(path: tuple[str, ...], separator: str, attributes: frozenset[str] = frozenset()) -> str:
    """The folder on our server for a folder elsewhere, with our separator between its levels.

    `path` has a name for each level; ("INBOX",) is the inbox. A level that contains our separator, or a character that
    no folder's name can have, has `_` instead.
    """
    if not path or (len(path) == 1 and path[0].upper() == "INBOX"):
        return "INBOX"
    if purpose := find_purpose(path, attributes):
        return purpose
    levels = [_clean_level(level, separator) for level in path]
    if levels[0].upper() == "INBOX":
        levels[0] = "INBOX"
    return separator.join(levels)


def _clean_level(level: str, separator: str) -> str:
    cleaned = re.sub(rf"[\x00-\x1f\x7f-\x9f/%*{re.escape(separator)}]", "_", level).strip() or "_"
    return f"_{cleaned[1:]}" if cleaned.startswith("~") else cleaned
