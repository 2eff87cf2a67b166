"""The questions that the probe asks the DNS."""

from mailkeep_server.common import dns_query
from mailkeep_server.common.dns_query import join_strings, read_nameservers

from .config import ProbeConfig

DNS_TIMEOUT = 10.0


def examine_resolver(config: ProbeConfig) -> dict[str, object]:
    """The resolvers in use, why the first does not validate DNSSEC (empty if it does), whether the C library trusts it,
    and the public addresses on which ours answers."""
    servers = read_nameservers()
    return {
        "servers": servers,
        "fault": find_resolver_fault(servers[0]) if config.local_resolver else "",
        "trusted": dns_query.trusts_ad(),
        "open": [address for address in {config.address, config.address6} if address and _answers_on(address)],
    }


def find_resolver_fault(server: str) -> str:
    """Why a resolver is of no use for DANE; empty if its answer for the root is validated."""
    try:
        reply = dns_query.query_server(server, ".", "SOA", DNS_TIMEOUT)
    except (OSError, ValueError) as error:
        return f"{server} does not answer: {error}"
    if reply.code:
        return f"{server} answers with error {reply.code}"
    return "" if reply.authentic else f"{server} does not validate: its answer for the DNS root is not authentic"


def _answers_on(address: str) -> bool:
    try:
        dns_query.query_server(address, ".", "SOA", DNS_TIMEOUT)
    except (OSError, ValueError):
        return False
    return True


def read_dkim_records(config: ProbeConfig) -> dict[str, str]:
    """The published DKIM record of each domain; empty when there is none."""
    server, records = read_nameservers()[0], {}
    for domain, selector in config.dkim:
        answer = dns_query.query_server(server, f"{selector}._domainkey.{domain}", "TXT", DNS_TIMEOUT)
        records[domain] = "".join(join_strings(data) for data in answer.data[:1])
    return records
