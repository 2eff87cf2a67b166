from mailkeep.part import Part
from mailkeep.parts import resolver
from mailkeep.settings import Settings


def test_the_providers_resolver_is_left_alone_where_asked_for(declared: dict[str, object]) -> None:
    part = resolver.part(Settings.model_validate(declared | {"resolver": "system"}))
    assert {getattr(part, field) for field in Part.__slots__} == {"resolver", ()}
