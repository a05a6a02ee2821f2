"""LoRA adapters in PEFT's layout: made, read and written without pickle."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from valuealign.errors import ModelError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

# PEFT doubles the rank of fused gate and up weights, and then looks for them among layers, where they are not.
warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys did not match")


def add_adapter(model: PreTrainedModel, *, r: int, alpha: float, seed: int) -> PeftModel:
    """The base with a fresh LoRA adapter on every linear layer but the head, and on fused experts; dropout is 0.

    Its output equals the base's until it is trained. The seed makes every rank start alike.
    ``without_adapter`` says which weights are left.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=r,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
            target_parameters=_fused_experts(model) or None,
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    return adapted.eval()


def remove_adapter(model: PeftModel) -> PreTrainedModel:
    """The base that ``add_adapter`` was given, as it was, for another adapter; not where fused experts have one."""
    base: PreTrainedModel = model.unload()
    return base


def _fused_experts(model: PreTrainedModel) -> list[str]:
    """Names of weights [experts, ., .], which are parameters of one module instead of a linear layer each."""
    owners = (module for module in model.modules() if hasattr(module, "num_experts"))
    return sorted({name for owner in owners for name, p in owner.named_parameters(recurse=False) if p.dim() == 3})


def without_adapter(model: PeftModel) -> list[str]:
    """Names of the weight matrices that have no adapter, embeddings and head aside; ``*`` is any layer."""
    base = model.get_base_model()
    covered = [base.get_input_embeddings(), base.get_output_embeddings()]
    known = {id(p) for module in covered if module is not None for p in module.parameters()}
    for layer in model.modules():
        if isinstance(layer, ParamWrapper):
            known.add(id(layer.get_param()))
        elif isinstance(layer, BaseTunerLayer):
            known |= {id(p) for p in layer.get_base_layer().parameters()}
    left = (
        name.replace(".base_layer", "")
        for name, p in base.named_parameters()
        if len(getattr(p, "ds_shape", p.shape)) > 1  # a weight in pieces keeps its shape there
        and id(p) not in known
        and "lora_" not in name
        and not name.endswith("bias")
    )
    return sorted({re.sub(r"\.\d+\.", ".*.", name) for name in left})


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter folder. Raises ModelError if a file is missing or damaged."""
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(f"the adapter has no {name}", where=str(folder), mend="point at a registered version")
    try:
        tensors: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
        return tensors
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"the adapter cannot be read: {error}", where=str(folder / WEIGHTS), mend="restore it"
        ) from error


def check_adapter(model: PeftModel, folder: Path) -> None:
    """Raises ModelError if a folder's adapter has another rank or scale than the model's own."""
    written, mine = json.loads((folder / CONFIG).read_text()), model.peft_config["default"]
    for key in ("r", "lora_alpha"):
        if key in written and written[key] != getattr(mine, key):
            raise ModelError(
                f"the adapter does not fit: it has {key} {written[key]:g}, the run {getattr(mine, key):g}",
                where=str(folder),
                mend="use the model.lora_r and model.lora_alpha that it was trained with",
            )


def attach_adapter(model: PreTrainedModel | PeftModel, folder: Path, *, name: str) -> PeftModel:
    """Load an adapter folder under a name of its own beside those already attached.

    Raises ModelError if it does not fit this base, or cannot stand beside the others.
    """
    read_adapter(folder)
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            return model.eval()
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=False).eval()
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"the adapter does not fit: {str(error).splitlines()[0]}",
            where=str(folder),
            mend="load it over the base that it was trained on",
        ) from error


def write_adapter(state: dict[str, torch.Tensor], config: PeftConfig, folder: Path, *, base: str) -> None:
    """Write an adapter in PEFT's layout: aside, then renamed file by file, the weights last.

    ``base`` is what the configuration names as its base model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {**config.to_dict(), "base_model_name_or_path": base, "inference_mode": True}
    text = json.dumps(written, indent=2, sort_keys=True, default=lambda x: sorted(x) if isinstance(x, set) else str(x))
    aside = folder / f".{CONFIG}.{os.getpid()}"
    aside.write_text(text)
    os.replace(aside, folder / CONFIG)
    aside = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file(state, aside, metadata={"format": "pt"})
    os.replace(aside, folder / WEIGHTS)
