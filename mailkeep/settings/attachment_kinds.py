"""Kinds of attachments that may be refused: by extension, or by a word for many of them."""

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from mailkeep.settings.field_errors import invalid, require_text

EXTENSIONS = {
    # What Windows or macOS runs when somebody opens it.
    "programs": (
        *("ade", "adp", "app", "appx", "appxbundle", "bat", "cab", "chm", "cmd", "com", "cpl", "dll", "dmg", "exe"),
        *("gadget", "hta", "img", "ins", "iso", "isp", "jar", "js", "jse", "lnk", "mde", "msc", "msi", "msix", "msp"),
        *("mst", "pif", "pkg", "ps1", "ps1xml", "ps2", "psc1", "reg", "scf", "scr", "sct", "settingcontent-ms"),
        *("shb", "sys", "url", "vb", "vbe", "vbs", "vhd", "vhdx", "vxd", "wsc", "wsf", "wsh", "xll"),
    ),
    # Documents of Microsoft Office whose kind allows macros. Its older kinds, such as .doc, do not say.
    "macros": ("docm", "dotm", "potm", "ppam", "ppsm", "pptm", "sldm", "xlam", "xlsb", "xlsm", "xltm"),
}
PATTERN = r"[a-z0-9][a-z0-9-]{0,19}"


def parse_attachment_kind(value: object) -> str:
    expected = "programs, macros, or an extension in lower case without its dot, such as zip"
    kind = require_text(value, expected)
    if not re.fullmatch(PATTERN, kind):
        raise invalid(expected)
    return kind


AttachmentKind = Annotated[
    str,
    BeforeValidator(parse_attachment_kind),
    WithJsonSchema({"type": "string", "pattern": f"^{PATTERN}$"}),
]
