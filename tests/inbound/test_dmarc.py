"""DMARC as RFC 9989 has it: the walk up the tree, the organizational domain, policies, alignment."""

import pytest

from mailkeep_server.inbound import dmarc
from mailkeep_server.inbound.dmarc import (
    find_organization,
    find_policy,
    is_any_aligned,
    list_walk,
    parse_record,
    walk_tree,
)

NONE = "v=DMARC1; p=none"


class Tree:
    """DMARC records by domain; names that are asked for are kept."""

    def __init__(self, *missing: str, **records: str | list[str]) -> None:
        self.records = {name.replace("_", "."): record for name, record in records.items()}
        self.missing = missing
        self.asked: list[str] = []

    def read_texts(self, name: str) -> list[str]:
        self.asked.append(name)
        record = self.records.get(name.removeprefix("_dmarc."), [])
        return [record] if isinstance(record, str) else record

    def has_name(self, name: str) -> bool:
        return name not in self.missing

    def judge(self, author: str) -> dmarc.Policy | None:
        return find_policy(author, self.read_texts, self.has_name)

    def organization(self, domain: str) -> str:
        return find_organization(domain, walk_tree(domain, self.read_texts))


def disposition(tree: Tree, author: str) -> str | None:
    policy = tree.judge(author)
    return policy and policy.disposition


# --- section 4.10: the walk


@pytest.mark.parametrize(
    ("domain", "walk"),
    [
        ("a.mail.example.com", ["a.mail.example.com", "mail.example.com", "example.com", "com"]),
        ("com", ["com"]),
        (
            "a.b.c.d.e.f.g.h.i.j.k.example.com",
            [
                "a.b.c.d.e.f.g.h.i.j.k.example.com",
                "g.h.i.j.k.example.com",
                "h.i.j.k.example.com",
                "i.j.k.example.com",
                "j.k.example.com",
                "k.example.com",
                "example.com",
                "com",
            ],
        ),
        ("1.2.3.4.5.6.7.8", ["1.2.3.4.5.6.7.8", *(".".join("12345678"[at:]) for at in range(1, 8))]),
    ],
)
def test_a_walk_asks_for_at_most_eight_names(domain: str, walk: list[str]) -> None:
    assert list_walk(domain) == walk
    tree = Tree()
    assert walk_tree(domain, tree.read_texts) == []
    assert tree.asked == [f"_dmarc.{name}" for name in walk]
    assert len(tree.asked) <= 8


def test_two_records_at_a_name_are_none() -> None:
    tree = Tree(example_com=["v=DMARC1; p=reject", "v=DMARC1; p=none"])
    assert tree.judge("example.com") is None


def test_other_texts_at_the_name_do_not_count() -> None:
    assert disposition(Tree(example_com=["v=spf1 -all", "v=DMARC1; p=reject"]), "example.com") == "reject"


def test_the_walk_stops_where_a_record_says_what_it_is() -> None:
    tree = Tree(example_com="v=DMARC1; p=reject; psd=n", com="v=DMARC1; p=none; psd=y")
    assert tree.organization("mail.example.com") == "example.com"
    assert "_dmarc.com" not in tree.asked


# --- section 4.10.2: the organizational domain


@pytest.mark.parametrize(
    ("domain", "records", "organization"),
    [
        ("a.mail.example.com", {"mail_example_com": NONE, "example_com": NONE}, "example.com"),
        ("a.mail.example.com", {"com": "v=DMARC1; p=reject; psd=y"}, "example.com"),
        ("a.mail.example.com", {}, "a.mail.example.com"),
        ("mail.example.com", {"mail_example_com": f"{NONE}; psd=n", "example_com": NONE}, "mail.example.com"),
        ("com", {"com": f"{NONE}; psd=y"}, "com"),
        ("bank.example", {"bank_example": f"{NONE}; psd=y", "example": NONE}, "example"),
        ("giant.bank.example", {"bank_example": f"{NONE}; psd=y", "example": NONE}, "giant.bank.example"),
        ("mail.giant.bank.example", {"bank_example": f"{NONE}; psd=y"}, "giant.bank.example"),
        ("mail.example.com", {"mail_example_com": NONE}, "mail.example.com"),
    ],
)
def test_the_organizational_domain_is_found_by_the_walk(
    domain: str, records: dict[str, str], organization: str
) -> None:
    assert Tree(**records).organization(domain) == organization


# --- section 4.10.1: which policy


@pytest.mark.parametrize(
    ("author", "record", "expected"),
    [
        ("example.com", "v=DMARC1; p=reject", "reject"),
        ("example.com", "v=DMARC1; p=reject; sp=none; np=none", "reject"),
        ("mail.example.com", "v=DMARC1; p=reject", "reject"),
        ("mail.example.com", "v=DMARC1; p=reject; sp=quarantine", "quarantine"),
        ("mail.example.com", "v=DMARC1; p=none; sp=none; np=reject", "none"),
        ("missing.example.com", "v=DMARC1; p=none; np=reject", "reject"),
        ("missing.example.com", "v=DMARC1; p=none; sp=quarantine; np=reject", "reject"),
        ("missing.example.com", "v=DMARC1; p=none; sp=quarantine", "quarantine"),
        ("missing.example.com", "v=DMARC1; p=quarantine", "quarantine"),
    ],
)
def test_a_name_below_the_organization_has_its_own_policy(author: str, record: str, expected: str) -> None:
    assert disposition(Tree("missing.example.com", example_com=record), author) == expected


def test_the_authors_own_record_comes_first() -> None:
    tree = Tree(news_example_com="v=DMARC1; p=none", example_com="v=DMARC1; p=reject; sp=reject")
    assert disposition(tree, "news.example.com") == "none"
    assert disposition(tree, "other.example.com") == "reject"


def test_a_name_between_the_author_and_the_organization_has_no_say() -> None:
    tree = Tree(mail_example_com="v=DMARC1; p=reject", example_com="v=DMARC1; p=none; sp=quarantine")
    assert disposition(tree, "a.mail.example.com") == "quarantine"


def test_a_public_suffix_protects_names_that_have_no_record() -> None:
    tree = Tree("gone.bank", bank="v=DMARC1; p=none; sp=quarantine; np=reject; psd=y", own_bank="v=DMARC1; p=none")
    assert disposition(tree, "giant.bank") == "quarantine"
    assert disposition(tree, "gone.bank") == "reject"
    assert disposition(tree, "own.bank") == "none"
    assert disposition(tree, "mail.own.bank") == "none"


def test_no_record_is_no_dmarc() -> None:
    assert Tree().judge("mail.example.com") is None


@pytest.mark.parametrize(
    ("published", "disposition"), [("reject", "quarantine"), ("quarantine", "none"), ("none", "none")]
)
def test_a_policy_under_test_is_applied_one_level_below(published: str, disposition: str) -> None:
    policy = Tree(example_com=f"v=DMARC1; p={published}; t=y").judge("example.com")
    assert policy
    assert (policy.disposition, policy.published) == (disposition, published)


# --- section 4.7: the record


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("v=DMARC1; p=reject", "reject"),
        ("v=DMARC1;p=reject;", "reject"),
        ("v = DMARC1 ; p = Reject ; rua=mailto:d@example.com", "reject"),
        ("v=DMARC1; p=reject; pct=0", "reject"),  # RFC 7489's, which is gone
        ("v=DMARC1; p=quarantine; pct=50; rf=afrf; ri=86400; fo=1; ruf=mailto:x@example.com", "quarantine"),
        ("v=DMARC1; p=reject; unknown=1;; =; nonsense", "reject"),
        ("v=DMARC1; p=reject; p=none", "reject"),
        ("v=DMARC1; rua=mailto:d@example.com", "none"),
        ("v=DMARC1; p=refuse; rua=mailto:d@example.com", "none"),
        ("v=DMARC1; p=reject; sp=maybe; rua=mailto:d@example.com", "none"),
    ],
)
def test_a_record_is_read_as_forgivingly_as_the_rfc_says(text: str, policy: str) -> None:
    record = parse_record(text, "example.com")
    assert record
    assert record.policy == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=DMARC1",
        "v=DMARC1; p=refuse",
        "v=DMARC1; p=reject; np=x",
        "v=DMARC1; rua=nonsense",
        "v=dmarc1; p=reject",
        "v=DMARC12; p=reject",
        "p=reject; v=DMARC1",
        " v=DMARC1; p=reject",
        "v=spf1 -all",
    ],
)
def test_other_texts_are_no_record(text: str) -> None:
    assert parse_record(text, "example.com") is None


# --- section 4.4: alignment


@pytest.mark.parametrize(
    ("record", "spf", "dkim", "expected"),
    [
        ("v=DMARC1; p=reject", "example.com", [], True),
        ("v=DMARC1; p=reject", "bounces.example.com", [], True),
        ("v=DMARC1; p=reject; aspf=s", "bounces.example.com", [], False),
        ("v=DMARC1; p=reject; aspf=s", "news.example.com", [], True),
        ("v=DMARC1; p=reject", "", ["example.com"], True),
        ("v=DMARC1; p=reject; adkim=s", "", ["example.com"], False),
        ("v=DMARC1; p=reject; adkim=s", "", ["other.example", "news.example.com"], True),
        ("v=DMARC1; p=reject", "evil.example", ["evil-example.com", "com"], False),
        ("v=DMARC1; p=reject", "", [], False),
    ],
)
def test_a_domain_speaks_for_another_of_its_organization(
    record: str, spf: str, dkim: list[str], expected: bool
) -> None:
    tree = Tree(example_com=record)
    policy = tree.judge("news.example.com")
    assert policy
    assert is_any_aligned("news.example.com", policy, spf, dkim, tree.read_texts) is expected


def test_two_customers_below_a_public_suffix_do_not_speak_for_each_other() -> None:
    """Without `psd=n`, which each publishes, they would be of the same organization."""
    records = {"hosting_example": NONE, "a_hosting_example": f"{NONE}; psd=n", "b_hosting_example": f"{NONE}; psd=n"}
    tree = Tree(**records)
    policy = tree.judge("a.hosting.example")
    assert policy
    assert not is_any_aligned("a.hosting.example", policy, "b.hosting.example", ["b.hosting.example"], tree.read_texts)
    assert not is_any_aligned("a.hosting.example", policy, "hosting.example", [], tree.read_texts)
