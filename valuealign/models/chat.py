"""Arguments of a model's chat template: bound to its tokenizer, and kept beside what was trained with them.

They are written into the template itself, so that whoever asks the tokenizer for a chat gets them.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valuealign.errors import ModelError

FILE = "chat.json"
KEY = "model.chat_template_kwargs"
# What the chat itself gives a template.
TAKEN = frozenset({"messages", "add_generation_prompt", "continue_final_message", "tools", "documents"})

Arguments = Mapping[str, bool | int | float | str]


def bind(tokenizer: Any, arguments: Arguments) -> Any:
    """A tokenizer that shares all with the given one but writes chats with these arguments.

    Raises ModelError for an argument that the template does not mention, or that is not free to set.
    """
    bound = copy.copy(tokenizer)
    template = tokenizer.chat_template
    if isinstance(template, Mapping):  # several templates by name
        if "default" not in template:
            raise ModelError(
                f"none of the model's chat templates is the default: {', '.join(template)}",
                where="model.path",
                mend="keep the right one as its only chat_template.jinja",
            )
        template = template["default"]
    spoken = re.sub(r"\{#.*?#\}", "", template or "", flags=re.DOTALL)
    for name in arguments:
        if not name.isidentifier() or name in TAKEN | set(tokenizer.special_tokens_map):
            raise ModelError(f"'{name}' cannot be set", where=KEY, mend="the chat itself decides it; leave it out")
        if not re.search(rf"\b{name}\b", spoken):
            raise ModelError(
                f"the model's chat template does not know '{name}'" if spoken else "the model has no chat template",
                where=KEY,
                mend="leave it out, or look for the right name in the template (chat_template.jinja)",
            )
    # Jinja drops one line break after a tag, so the template goes on as if it stood alone.
    head = "".join(
        f"{{% set {name} = {json.dumps(value, ensure_ascii=False)} %}}\n" for name, value in sorted(arguments.items())
    )
    bound.chat_template = head + template if template else None
    return bound


def write_arguments(arguments: Arguments, folder: Path) -> None:
    """Keep the arguments in a folder of trained weights; without any there is no file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    if arguments:
        (folder / FILE).write_text(json.dumps(dict(arguments), sort_keys=True, indent=2) + "\n", encoding="utf-8")


def read_arguments(folder: Path) -> dict[str, bool | int | float | str]:
    """What ``write_arguments`` kept. Raises ModelError if it cannot be read."""
    if not (folder / FILE).is_file():
        return {}
    try:
        found: dict[str, bool | int | float | str] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            "the chat template's arguments cannot be read", where=str(folder / FILE), mend="restore it"
        ) from error
    return found


def check_arguments(arguments: Arguments, folder: Path) -> None:
    """Raise ModelError if the weights of a folder were trained with other arguments than these."""
    theirs, mine = (json.dumps(dict(one), sort_keys=True) for one in (read_arguments(folder), arguments))
    if theirs != mine:
        raise ModelError(
            f"it was trained with {KEY} {theirs}, the run has {mine}",
            where=str(folder),
            mend=f"set {KEY} as it was trained",
        )
