"""`Settings`: a whole `mail.yml`, its sections checked against each other.

The class stands apart from its fields (`sections`), because the checks (`cross_checks`) need those.
"""

from __future__ import annotations

from typing import Self

from pydantic import ValidationError, model_validator

from mailkeep.settings.cross_checks import find_conflicts
from mailkeep.settings.sections import UncheckedSettings


class Settings(UncheckedSettings):
    """One mail server."""

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        if conflicts := find_conflicts(self):
            raise ValidationError.from_exception_data("Settings", conflicts)
        return self
