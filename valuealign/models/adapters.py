"""LoRA adapters in PEFT's layout: made, read and written without pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from valuealign.errors import ModelError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def add_adapter(model: PreTrainedModel, *, r: int, alpha: float, seed: int) -> PeftModel:
    """The base with a fresh LoRA adapter on every linear layer but the head; dropout is 0.

    Its output equals the base's until it is trained. The seed makes every rank start alike.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    return adapted.eval()


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
    """Load an adapter folder under a name of its own beside those already attached."""
    read_adapter(folder)
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
        return model.eval()
    return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=False).eval()


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
