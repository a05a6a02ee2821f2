"""What all sections of a configuration have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _yaml_off(value: object) -> object:
    """YAML reads a bare ``off`` as false."""
    return "off" if value is False else value


def texts(value: object) -> object:
    """A single value is a list of one, and a number in a list of names is a name."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list | tuple):
        return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in value]
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(texts)]
Shrink = Annotated[Literal["everyone", "traits", "off"], BeforeValidator(_yaml_off)]
Screen = Annotated[Literal["off", "flag", "drop"], BeforeValidator(_yaml_off)]


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
