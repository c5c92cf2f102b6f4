"""What all sections of a recipe share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]

# A value or a list: of a list that is wrong only the list's problems are told, not also that it is
# no single value. The names of the branches appear in pydantic's locations, and in no recipe.
ONE, MANY = Tag("<one>"), Tag("<many>")


def _branch(value: Any) -> str:
    return MANY.tag if isinstance(value, list) else ONE.tag


BY_LIST = Discriminator(_branch)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, and nothing is coerced."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        # A default of 32 becomes 32.0, as it does when it is read back from a file.
        validate_default=True,
        use_attribute_docstrings=True,
    )
