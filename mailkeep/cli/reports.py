"""`mailkeep reports`: what other servers report about our mail, in words."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mailkeep.cli.common import AsJson, Home, InventoryName, open_inventory, out
from mailkeep_server.common.report_days import KEPT_DAYS, SHOWN_DAYS
from mailkeep_server.common.wording import count_noun

if TYPE_CHECKING:
    from rich.text import Text

    from mailkeep.dns.received_reports import DomainReports, Source
    from mailkeep.dns.report_conclusions import Conclusion
    from mailkeep.settings.models import Settings

commands = typer.Typer()

_STYLES = {"ready": "bold green", "right": "bold green", "strangers": "bold green", "failing": "bold red"}
MAX_REPORTERS = 6


def _count_days(text: str) -> int:
    """From a day in the past to now."""
    try:
        days = (datetime.now(UTC).date() - date.fromisoformat(text)).days + 1
    except ValueError:
        raise typer.BadParameter("expected a day, such as 2026-11-01") from None
    if not 1 <= days <= KEPT_DAYS:
        raise typer.BadParameter(f"expected a day of the last {KEPT_DAYS} days: the server keeps no older rows")
    return days


@commands.command(
    "reports",
    epilog="Examples: `mailkeep reports home`; of one domain since a day, `mailkeep reports home --domain example.org "
    "--since 2026-11-01`; for scripts, `mailkeep reports home --json`",
)
def show_reports(
    name: InventoryName,
    domain: Annotated[str, typer.Option(metavar="DOMAIN", help="Only this domain. Default: all of mail.yml.")] = "",
    since: Annotated[str, typer.Option(metavar="DATE", help="Since this day, YYYY-MM-DD. Default: 30 days ago.")] = "",
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Show what other servers report about your mail (DMARC, TLS-RPT): each source, what failed and why, and what
    follows. A report is the claim of whoever sent it.

    Exit code 1: mail of your own sources failed, or TLS to your server; or an error."""
    from mailkeep.dns import received_reports, report_conclusions
    from mailkeep.operate import report_rows
    from mailkeep.verify.report import show_progress

    directory, settings = open_inventory(name, home)
    report_rows.require_reports(settings)
    days = _count_days(since) if since else SHOWN_DAYS
    with show_progress(f"The servers are asked for their rows of {days} days"):
        summaries = report_rows.read_summaries(directory, days, domain.lower())
    domains = received_reports.merge_summaries(summaries)
    conclusions = {
        reports.domain: [
            report_conclusions.conclude_dmarc(reports, report_conclusions.find_policy(settings, reports.domain)),
            *(report_conclusions.conclude_tls(each, reports.span_days, settings.dns.mta_sts) for each in reports.tls),
        ]
        for reports in domains
    }
    if as_json:
        texts = {name: [conclusion.sentence for conclusion in each] for name, each in conclusions.items()}
        steps = {name: [step for conclusion in each for step in conclusion.steps] for name, each in conclusions.items()}
        print(json.dumps({"servers": summaries, "conclusions": texts, "steps": steps}, indent=2))
    else:
        _print_domains(domains, conclusions)
        _print_silence(settings, domains, domain.lower(), days)
        for outcome, number in received_reports.merge_outcomes(summaries).items():
            out.print(f"{count_noun(number, 'report')} not counted: {outcome}.", markup=False)
    if any(conclusion.state == "failing" for each in conclusions.values() for conclusion in each):
        raise typer.Exit(1)


def _print_domains(domains: "list[DomainReports]", conclusions: "dict[str, list[Conclusion]]") -> None:
    from rich.text import Text

    for reports in domains:
        out.print(Text.assemble((reports.domain, "bold"), f"  {_describe_numbers(reports)}"))
        for source in reports.sources:
            out.print(_describe_source(source))
        for sessions in reports.tls:
            causes = "".join(f"; {number} failed: {cause}" for cause, number in sessions.causes.items())
            out.print(f"  TLS  {sessions.succeeded} sessions succeeded{causes}", markup=False)
        out.print(f"  as {', '.join(_list_reporters(reports))} say", markup=False)
        for conclusion in conclusions[reports.domain]:
            out.print(Text.assemble("  ", (conclusion.sentence, _STYLES.get(conclusion.state, "bold yellow"))))
            for step in conclusion.steps:
                out.print(f"  Next: {step}", markup=False)
        out.print()


def _describe_numbers(reports: "DomainReports") -> str:
    first, last = (datetime.fromtimestamp(seconds, UTC).date() for seconds in (reports.first, reports.last))
    passed = f"{reports.passed} of {count_noun(reports.messages, 'message')} passed"
    return f"{passed}; {count_noun(reports.reports, 'report')} of {first} to {last}"


def _describe_source(source: "Source") -> "Text":
    from rich.text import Text

    from mailkeep.dns.received_reports import KINDS

    address = source.address or count_noun(source.others, "other source")
    line = Text.assemble(f"  {address:40} ", (f"{KINDS[source.kind]:14}", "" if source.is_ours else "dim"))
    line.append(f"  {source.passed} passed")
    if source.failed:
        fate = [
            f"{number} {word}" for word, number in (("refused", source.refused), ("to junk", source.junked)) if number
        ]
        line.append(f", {source.failed} failed", "red" if source.is_ours else "")
        line.append(f" ({', '.join(fate)})" if fate else "")
    if source.senders:
        line.append(f"; {count_noun(source.senders, 'receiver')}", "dim")
    for cause, number in source.causes.items():
        line.append(f"\n      {number}: {cause}")
    return line


def _list_reporters(reports: "DomainReports") -> Iterator[str]:
    """With the domain of From:, which is what a receiver of the report sees; nothing proves either."""
    for (name, sender), number in [*reports.reporters.items()][:MAX_REPORTERS]:
        yield f"{name or 'nobody'} (from {sender or 'nowhere'}, {count_noun(number, 'report')})"
    if len(reports.reporters) > MAX_REPORTERS:
        yield f"{len(reports.reporters) - MAX_REPORTERS} more"


def _print_silence(settings: "Settings", domains: "list[DomainReports]", domain: str, days: int) -> None:
    """All is well is said only of domains that somebody reported about."""
    silent = {domain} if domain else {*settings.domains}
    for name in sorted(silent - {reports.domain for reports in domains}):
        text = "Large receivers send one a day, once you have written to them and the records are published"
        out.print(f"{name}: no report in {days} days: nothing can be concluded. {text}.", markup=False)
