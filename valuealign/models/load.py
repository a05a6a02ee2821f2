"""Loading a checkpoint: the seed model or any Hugging Face folder; safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config
from transformers.utils.logging import disable_progress_bar

from valuealign.errors import ModelError
from valuealign.models.chat import Arguments, bind
from valuealign.models.seed import ensure_seed

# Architectures whose layers are plain causal attention, so that a 4-D mask means what it says.
PLAIN_CAUSAL = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gpt_neox", "olmo", "olmo2", "phi3", "stablelm"}
)
ALL_DEVICES = "auto"  # what transformers calls it
# Configuration keys under which logits are more than the head's matrix product.
HEAD_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")


class Base(NamedTuple):
    """A loaded base model: evaluation mode (no dropout), all weights frozen. ``quantize`` as ``load_base`` was told."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    quantize: str = "none"


class Abilities(NamedTuple):
    """What the engine may do with an architecture, and why not."""

    packed: bool
    plain_head: bool
    why: str


def resolve(path: str, *, progress: Callable[[str], None] = print) -> Path:
    """The folder of ``seed`` (made on first use) or of a Hugging Face checkpoint, checked.

    Raises ModelError if the folder, its config or its safetensors are missing.
    """
    if path == "seed":
        return ensure_seed(progress=progress)
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise ModelError(
            "no such model folder", where=path, mend="model.path takes 'seed' or a local Hugging Face folder"
        )
    if not (folder / "config.json").is_file():
        raise ModelError("the folder has no config.json", where=path, mend="point at a Hugging Face checkpoint folder")
    if not list(folder.glob("*.safetensors")):
        others = sorted(f.name for f in folder.glob("*.bin")) or ["no weights at all"]
        raise ModelError(
            f"the folder has no safetensors weights (found: {', '.join(others)})",
            where=path,
            mend="pickled weights are not loaded; save the model with save_pretrained(safe_serialization=True)",
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelError("the folder has no tokenizer.json", where=path, mend="save a fast tokenizer beside the model")
    return folder


def load_base(
    path: str,
    *,
    dtype: str = "float32",
    quantize: str = "none",
    device: str = "cpu",
    shard: Mapping[str, Any] | None = None,
    arguments: Arguments | None = None,
    progress: Callable[[str], None] = print,
) -> Base:
    """Load a base model and its tokenizer, frozen, for scoring or adapting.

    ``device`` is one of torch's, or ``auto``: the layers are laid over all devices that there are. Attention is
    ``sdpa``, or ``eager`` where the architecture has no other that is right (softcapped scores).
    With ``quantize: nf4`` the linear layers but the head are kept in 4 bits and computed with in ``dtype``
    (Dettmers et al. 2023, QLoRA: NF4 in blocks of 64, the blocks' scales in 8 bits).
    ``shard`` is DeepSpeed's configuration of ZeRO 3: then every rank calls this and keeps its part of each weight,
    and the whole model is nowhere. ``arguments`` of the chat template become part of the tokenizer. Raises ModelError
    if the model is missing, unsafe or not a causal language model, or its template does not know an argument.
    """
    folder = resolve(path, progress=progress)
    disable_progress_bar()  # of all of transformers, in this process: a job prints lines
    try:
        with _in_pieces(shard):
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                **_placed(dtype, device, quantize),
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the checkpoint cannot be loaded: {str(error).splitlines()[0]}",
            where=path,
            mend="it must be a causal language model in Hugging Face format, without code of its own",
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no EOS token", where=path, mend="set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked; any id will do
    _without_dropout(model)
    if quantize == "nf4":
        _with_gradients(model)
    elif device != ALL_DEVICES:
        model.to(device)
    model.eval().requires_grad_(False)
    return Base(model, bind(tokenizer, arguments or {}), folder, quantize)


@contextmanager
def _in_pieces(shard: Mapping[str, Any] | None) -> Iterator[None]:
    """While this lasts, transformers shards what it loads as ``shard`` says, which it finds by a weak reference."""
    if shard is None:
        yield
        return
    held = HfDeepSpeedConfig(dict(shard))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del held


def has_fused_experts(folder: Path) -> bool:
    """Whether a checkpoint's experts are one weight [experts, ., .], whose sizes an adapter must see."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except (OSError, ValueError, KeyError):
        return False  # load_base says what is wrong with it
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return any(getattr(config, name, None) for name in names)


def _placed(dtype: str, device: str, quantize: str) -> dict[str, Any]:
    """How transformers lays the weights: where it has to know before it reads them."""
    if quantize == "nf4":
        return _in_4_bits(dtype, device)
    return {"device_map": ALL_DEVICES} if device == ALL_DEVICES else {}


def _in_4_bits(dtype: str, device: str) -> dict[str, Any]:
    """What transformers is asked for. Raises ModelError without bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "4 bits need the package bitsandbytes",
            where="model.quantize",
            mend="pip install 'valuealign[qlora]'",
        )
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": quantized, "device_map": device if device == ALL_DEVICES else {"": device}}


def _with_gradients(model: nn.Module) -> None:
    """On some CPUs bitsandbytes 0.50 repacks weights in evaluation mode, for a kernel that has no gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def _without_dropout(model: nn.Module) -> None:
    """Dropout would draw other masks for the branches of one prompt, and make r noise."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def load_tokenizer(folder: Path, arguments: Arguments | None = None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model folder, as ``load_base`` has it, without weights; None where the folder has none."""
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer: PreTrainedTokenizerBase = bind(
        AutoTokenizer.from_pretrained(folder, local_files_only=True), arguments or {}
    )
    return tokenizer


def read_abilities(config: Mapping[str, Any]) -> Abilities:
    """As ``abilities``, of a ``config.json`` as it is written (what it leaves out is transformers' default)."""
    return abilities(AutoConfig.for_model(**{**config, "attn_implementation": "sdpa"}))


def abilities(config: Any) -> Abilities:
    """What packing may do with a model configuration; ``why`` explains a fall-back."""
    plain_head = not any(getattr(config, extra, None) for extra in HEAD_EXTRAS)
    kind = getattr(config, "model_type", "unknown")
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"}:
        return Abilities(
            False, plain_head, f"'{kind}' has layers that are not full attention: {', '.join(sorted(layers))}"
        )
    sliding = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if sliding:
        return Abilities(False, plain_head, f"'{kind}' has a sliding window of {sliding}")
    if kind not in PLAIN_CAUSAL:
        return Abilities(False, plain_head, f"architecture '{kind}' is not known to be plain causal attention")
    kernel = getattr(config, "_attn_implementation", None) or "sdpa"
    if kernel != "sdpa":
        return Abilities(False, plain_head, f"packed rows need sdpa attention, this is {kernel}")
    return Abilities(True, plain_head, "")


def fingerprint(folder: Path, quantize: str = "none") -> str:
    """Content hash (hex, 32 characters) of a checkpoint or adapter: weights, config, tokenizer, chat template.

    A base that is quantized when it is loaded is another one: its name follows the hash.
    """
    kinds = (".safetensors", ".json", ".jinja")
    files = sorted(
        f
        for place in (folder, folder / "additional_chat_templates")
        for f in (place.iterdir() if place.is_dir() else ())
        if f.suffix in kinds and f.name != "card.json"
    )
    state = [(file, stat.st_size, stat.st_mtime_ns) for file in files for stat in (file.stat(),)]
    return _content_hash(tuple(state)) + ("" if quantize == "none" else f"+{quantize}")


@lru_cache(maxsize=64)
def _content_hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files as they are: a process that does many runs reads a large base once."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:32]
