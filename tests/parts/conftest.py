import pytest

from mailkeep.settings.models import Settings


@pytest.fixture
def declared() -> dict[str, object]:
    """The least that `mail.yml` can say."""
    return {
        "host": {"name": "mail.example.org", "addresses": ["192.0.2.1", "2001:db8::1"]},
        "domains": ["example.org"],
        "admin": {"addresses": ["ann@example.net"], "networks": ["198.51.100.0/24", "2001:db8:5::/64"]},
    }


@pytest.fixture
def settings(declared: dict[str, object]) -> Settings:
    return Settings.model_validate(declared)
