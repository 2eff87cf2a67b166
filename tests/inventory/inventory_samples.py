from datetime import date

from mailkeep.settings.models import Settings

TODAY = date.today()
SELECTOR = f"s{TODAY:%Y%m%d}"


def make_settings(*domains: str, host: str = "mail.example.org", **more: object) -> Settings:
    return Settings.model_validate(
        {
            "host": {"name": host, "addresses": ["192.0.2.1"]},
            "domains": domains or ["example.org"],
            "admin": {"addresses": ["admin@elsewhere.test"]},
            **more,
        }
    )
