from configparser import RawConfigParser

from mailkeep.parts import system
from mailkeep.settings.models import Settings


def test_the_journal_has_the_limit_of_mail_yml(declared: dict[str, object]) -> None:
    settings = Settings.model_validate(declared | {"retention": {"journal": 123_456_789}})
    journald = RawConfigParser()
    journald.optionxform = str  # type: ignore[assignment,method-assign]
    journald.read_string(
        next(file.content.decode() for file in system.build_part(settings).files if file.path == system.JOURNALD)
    )
    assert journald["Journal"]["SystemMaxUse"] == "123456789"
