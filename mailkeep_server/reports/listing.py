"""A summary of reports as `mailkeepctl reports` prints it."""

from collections.abc import Iterator
from typing import Any

from mailkeep_server.common.wording import count_noun
from mailkeep_server.reports.explain import POLICY_NAMES


def format_summary(summary: dict[str, Any]) -> Iterator[str]:
    """Lines; `summary` as `summary.summarise_reports` has it."""
    for domain in summary["domains"]:
        counts = f"{domain['passed']} of {count_noun(domain['messages'], 'message')} passed"
        yield f"{domain['domain']}: {counts}, in {count_noun(domain['reports'], 'report')}"
        for source in domain["sources"]:
            counts = f"{source['passed']}/{source['messages']}"
            line = f"  {source['source'] or 'others':40} {source['kind']:10} {counts:>12}  {_list_causes(source)}"
            yield line.rstrip()
        for policy in domain["tls"]:
            sessions = f"{policy['succeeded']} sessions succeeded, {policy['failed']} failed"
            yield f"  TLS, {POLICY_NAMES[policy['policy']]}: {sessions}  {_list_causes(policy)}".rstrip()
    for outcome, number in summary["outcomes"].items():
        yield f"{count_noun(number, 'report')} not counted: {outcome}"
    yield f"{count_noun(len(summary['domains']), 'domain')} with reports."


def _list_causes(entry: dict[str, Any]) -> str:
    return ", ".join(f"{cause} ({number})" for cause, number in entry["causes"].items())
