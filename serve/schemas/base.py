"""What all of the wire shares: its base class, its words, its errors, its pages."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MODEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9_.-]*)?$"
WORD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
VERSION_PATTERN = r"^v[1-9][0-9]{0,8}$"


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("text must not hold the character NUL")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("text must not be blank")
    return text


Text = Annotated[str, Field(min_length=1, max_length=16_000), AfterValidator(_no_nul), AfterValidator(_not_blank)]
ShortText = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_no_nul), AfterValidator(_not_blank)]
Label = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_no_nul), AfterValidator(_not_blank)]
Metadata = Annotated[
    dict[Label, Annotated[str, Field(max_length=512), AfterValidator(_no_nul)]],
    Field(max_length=16, description="up to 16 facts of the client's own, kept beside what they came with"),
]
ModelName = Annotated[
    str,
    Field(max_length=257, pattern=MODEL_PATTERN, description="name (its champion), name@alias or name@v12"),
]


def _no_version(text: str) -> str:
    if re.fullmatch(VERSION_PATTERN, text):
        raise ValueError("an alias is no version: use a word")
    return text


Word = Annotated[str, Field(max_length=128, pattern=WORD_PATTERN)]
Alias = Annotated[Word, AfterValidator(_no_version)]
VersionId = Annotated[str, Field(max_length=16, pattern=VERSION_PATTERN, description="a version, such as v12")]
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z]+-[0-9a-f]+$")]


class Wire(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ErrorBody(Wire):
    """What went wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(Wire):
    """The body of every answer with status 4xx or 5xx."""

    error: ErrorBody


class Health(Wire):
    """``ok``; readiness also names the version that ``name`` stands for now."""

    status: Literal["ok"] = "ok"
    model: str | None = None


class ModelEntry(Wire):
    """One version; ``id`` is what requests name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["valuealign"] = "valuealign"
    aliases: list[str]
    base: str | None
    parent: str | None


class ModelList(Wire):
    """Every version of the served family, newest first."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
