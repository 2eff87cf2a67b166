from configparser import RawConfigParser

from mailkeep.parts import system
from mailkeep.settings.models import Settings


def test_the_journal_is_capped_where_mail_yml_says(declared: dict[str, object]) -> None:
    wanted = Settings.model_validate(declared | {"retention": {"journal": 123_456_789}})
    journald = RawConfigParser()
    journald.optionxform = str  # type: ignore[assignment,method-assign]
    journald.read_string(
        next(file.content.decode() for file in system.build_part(wanted).files if file.path == system.JOURNALD)
    )
    assert journald["Journal"]["SystemMaxUse"] == "123456789"
