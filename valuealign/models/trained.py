"""What a run trains, as a folder: a LoRA adapter in PEFT's layout, or all weights as a Hugging Face checkpoint.

Weights pass between engine and folder as a mapping from parameter name to tensor on the CPU, so that an
engine that shards them gathers one at a time. Nothing is pickled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor
from transformers import AutoTokenizer

from valuealign.errors import ModelError
from valuealign.models.adapters import CONFIG, WEIGHTS, check_adapter, read_adapter, write_adapter
from valuealign.models.chat import FILE as CHAT
from valuealign.models.load import load_base
from valuealign.models.score import CellModel

WHOLE = "config.json"  # what a folder of all weights has and an adapter's has not


def is_whole(folder: Path) -> bool:
    """Whether a folder holds all weights of a model (not an adapter over one)."""
    return (folder / WHOLE).is_file()


def trained_done(folder: Path) -> bool:
    """Whether a folder is complete: its last file, or the folder itself, is renamed into place."""
    return (folder / WHOLE).is_file() or ((folder / WEIGHTS).is_file() and (folder / CONFIG).is_file())


def check_kind(train: str, folder: Path) -> None:
    """Raises ModelError if a folder holds an adapter where all weights train, or the other way round."""
    if is_whole(folder) and train == "lora":
        raise ModelError("these are all weights of a model, not an adapter", where=str(folder), mend=_other("full"))
    if not is_whole(folder) and train == "full":
        raise ModelError("this is an adapter, not all weights of a model", where=str(folder), mend=_other("lora"))


def trainable(model: CellModel) -> dict[str, Tensor]:
    """The parameters that train, by their names in the Hugging Face or PEFT model."""
    return {name: p for name, p in model.model.named_parameters() if p.requires_grad}


def read_trained(model: CellModel, folder: Path) -> dict[str, Tensor]:
    """A folder's weights under the names of ``trainable(model)``, on the CPU.

    Raises ModelError if the folder is of the other kind, of another base or rank, or damaged.
    """
    adapted = isinstance(model.model, PeftModel)
    check_kind("lora" if adapted else "full", folder)
    if adapted:
        tensors = read_adapter(folder)
        check_adapter(model.model, folder)
        wanted = _names(model.model)
    else:
        # Through transformers: a checkpoint's names are not always the modules' (fused experts, tied heads).
        loaded = load_base(str(folder), dtype=str(model.causal.dtype).removeprefix("torch.")).model
        tensors = {name: p.detach() for name, p in loaded.named_parameters()}
        wanted = {name: name for name in trainable(model)}
    mine = trainable(model)
    shapes = {key: tuple(getattr(mine[name], "ds_shape", mine[name].shape)) for key, name in wanted.items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for key in sorted({*shapes, *theirs}):
        if shapes.get(key) != theirs.get(key):
            how = "lacking"
            if key in theirs:
                how = f"{theirs[key]}, not {shapes[key]}" if key in shapes else "not the base's"
            raise ModelError(
                f"the weights do not fit this base model or rank: {key} is {how}",
                where=str(folder),
                mend="use the model.path and model.lora_r that it was trained with",
            )
    return {wanted[key]: tensor for key, tensor in tensors.items()}


def put_trained(model: CellModel, folder: Path) -> None:
    """Overwrite the trainable weights of a model that no engine owns yet. Raises ModelError."""
    weights, mine = read_trained(model, folder), trainable(model)
    with torch.no_grad():
        for name, tensor in weights.items():
            mine[name].copy_(tensor)


def write_trained(model: CellModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write weights (under the names of ``trainable(model)``) as the folder that ``read_trained`` reads."""
    base = str(model.causal.config._name_or_path)
    if isinstance(model.model, PeftModel):
        keyed = {key: weights[name].contiguous() for key, name in _names(model.model).items()}
        write_adapter(keyed, model.model.peft_config["default"], folder, base=base)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    buffers = {name: b.detach().cpu() for name, b in model.causal.named_buffers() if name in model.causal.state_dict()}
    model.causal.save_pretrained(aside, state_dict={**weights, **buffers})
    # Template and all in JSON: a version holds no file of another kind.
    AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(aside, save_jinja_files=False)
    if (folder / CHAT).is_file():  # how its chats are written is kept before the weights
        shutil.copyfile(folder / CHAT, aside / CHAT)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _names(model: Any) -> dict[str, str]:
    """PEFT's key of each trainable parameter -> its name in the model."""
    mine = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = {id(p): name for name, p in mine.items()}
    return {key: names[id(p)] for key, p in get_peft_model_state_dict(model, state_dict=mine).items()}


def _other(kind: str) -> str:
    return f"set model.train={kind}, as it was trained"
