"""A registered version as a plain Hugging Face folder, for those who do not use valuealign."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from valuealign.errors import RegistryError
from valuealign.model_card import model_card
from valuealign.models.adapters import CONFIG, WEIGHTS, attach_adapter
from valuealign.models.chat import bind, read_arguments
from valuealign.models.load import load_base
from valuealign.models.trained import is_whole
from valuealign.registry import Version


def export_version(
    version: Version, out: Path, *, base: str, merged: bool = False, progress: Callable[[str], None] = print
) -> None:
    """Write ``version`` to the new folder ``out``: what ``transformers`` (or, for an adapter, PEFT) loads.

    All weights where the version has them or ``merged`` adds its adapter to those of ``base``; else the
    adapter. The tokenizer comes along, its chat template with the version's arguments in it, and a card in
    README.md. Raises RegistryError where the survey's licence forbids it or ``out`` exists, ModelError
    if base and version do not fit.
    """
    licence = version.card.get("licence") or "not stated"
    if version.card.get("tier") not in ("open", "aggregates"):
        raise RegistryError(
            f"the licence of its survey ({licence}) lets nothing be passed on",
            where=version.ref,
            mend="get permission, write 'tier: aggregates' or 'tier: open' into the codebook, and align again",
        )
    if out.exists():
        raise RegistryError("the folder is there already", where=str(out), mend="name another one, or move it away")
    whole = is_whole(version.path)
    dtype = version.card.get("config", {}).get("model", {}).get("dtype", "float32")
    form = {"dtype": dtype, "quantize": version.quantize, "progress": progress}
    model, tokenizer, *_ = load_base(str(version.path) if whole else base, **form)
    aside = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        aside.mkdir(parents=True)
        if whole or merged:
            if not whole:
                if version.quantize != "none":
                    model = model.dequantize(dtype=getattr(torch, dtype))  # what the adapter was trained over
                model = attach_adapter(model, version.path, name="default").merge_and_unload()
            model.save_pretrained(aside)
        else:
            _copy_adapter(version.path, aside, base=Path(base).name)
        bind(tokenizer, read_arguments(version.path)).save_pretrained(aside)
        (aside / "README.md").write_text(
            _card(version, _said(version, whole, merged), base=Path(base).name, licence=licence), encoding="utf-8"
        )
        aside.rename(out)
    except OSError as error:
        raise RegistryError(
            f"cannot write there ({error.strerror})", where=str(out), mend="name a folder that can be made"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _said(version: Version, whole: bool, merged: bool) -> str:
    """What the folder holds."""
    base = "its base" if version.quantize == "none" else f"its base, quantized to {version.quantize} as in training,"
    return "all weights" if whole else f"an adapter merged into {base}" if merged else f"a LoRA adapter over {base}"


def _copy_adapter(folder: Path, out: Path, *, base: str) -> None:
    shutil.copyfile(folder / WEIGHTS, out / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _card(version: Version, form: str, *, base: str, licence: str) -> str:
    """The registry's card under the head that model hubs read; files' places stay at home."""
    head = ["---", "license: other", f"license_name: {json.dumps(licence)}", f"base_model: {json.dumps(base)}"]
    head += ["pipeline_tag: text-generation", "tags: [valuealign, survey, alignment]", "---", ""]
    facts = {key: value for key, value in version.card.items() if key not in ("files", "base")}
    text = model_card({**_without_places(facts), "base": base, "files": {}}).partition("\n## Files")[0]
    said = (
        f"This folder holds {form}, version {version.id}. It was aligned with the answers of a survey under the "
        f"licence {licence}; the base model has a licence of its own, which goes with these weights too."
    )
    return "\n".join(head) + text.rstrip() + f"\n\n## Licence\n\n{said}\n"


def _without_places(tree: Any) -> Any:
    """The same facts with folders cut off from paths."""
    if isinstance(tree, Mapping):
        return {key: _without_places(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_places(value) for value in tree]
    return Path(tree).name if isinstance(tree, str) and Path(tree).is_absolute() else tree
