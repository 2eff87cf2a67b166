"""What the operator of a foreign server should know before the move, and no setting says."""

import posixpath
from collections.abc import Iterator

from mailkeep.moving_in.inspection import Inspection
from mailkeep.moving_in.postfix_config import list_unreadable_maps

MAX_SCRIPTS = 10


def list_notes(inspection: Inspection) -> list[str]:
    return [
        *_note_host_name(inspection),
        *_note_untranslated(inspection),
        *_note_filters(inspection),
        *_note_pop3(inspection),
        *_note_other_keys(inspection),
    ]


def _note_host_name(inspection: Inspection) -> Iterator[str]:
    names = inspection.names
    if names.takes_mail_as_host and names.host not in names.domains and "." in names.host:
        yield (
            f"{names.host}, the host's own name, took mail for all users. On a Mailkeep server the administrators get "
            "mail to that name, and nobody else."
        )


def _note_untranslated(inspection: Inspection) -> Iterator[str]:
    for text in list_unreadable_maps(inspection.observed, inspection.parameters):
        yield f"Not translated, so look yourself: {text}"


def _note_filters(inspection: Inspection) -> Iterator[str]:
    observed = inspection.observed
    for path in observed.files:
        if posixpath.basename(path) == ".forward":
            target = " ".join(observed.read_text(path).split())
            yield f"{path} forwards to {target}. A Sieve script does that: redirect, with :copy to keep the mail."
    for user in observed.procmail:
        yield f"{user} sorts mail with ~/.procmailrc. A Sieve script does that."
    scripts = [line.partition("\t")[0] for line in observed.output_lines("sieve")]
    for path in scripts[:MAX_SCRIPTS]:
        yield f"Sieve script: {path}"
    if len(scripts) > MAX_SCRIPTS:
        yield f"{len(scripts) - MAX_SCRIPTS} more Sieve scripts"


def _note_pop3(inspection: Inspection) -> Iterator[str]:
    if any("POP3" in listener.kind for listener in inspection.listeners):
        yield "POP3 is open on the old server. Mailkeep offers IMAP only: programs that use POP3 must be set up anew."


def _note_other_keys(inspection: Inspection) -> Iterator[str]:
    for key in inspection.all_keys:
        if key not in inspection.keys:
            reason = "it does not sign, or its domain has no mail here" if key.pem else "its file was not readable"
            yield (
                f"DKIM key not taken over: {key.domain}, selector {key.selector}: {reason}. Leave its record until a "
                "week after the move."
            )
