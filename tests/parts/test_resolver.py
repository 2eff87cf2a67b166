from mailkeep.parts import resolver
from mailkeep.settings.models import Settings


def test_with_resolver_system_the_providers_resolver_is_left_alone(declared: dict[str, object]) -> None:
    part = resolver.build_part(Settings.model_validate(declared | {"resolver": "system"}))
    assert (part.packages, part.files, part.units, part.checks) == ((), (), (), ())
    assert "/etc/resolv.conf" not in part.absent
