"""A model's sizes, read from its ``config.json``: parameters, what of them a token passes, what LoRA adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from valuealign.errors import ModelError
from valuealign.models.load import read_abilities

# Architectures with Llama's layers; Qwen2 has biases on q, k, v; Qwen3 and Gemma 3 normalise q and k by head.
KINDS = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma3_text")
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
EXPERTS = ("moe_intermediate_size", "num_experts", "num_experts_per_tok")
# Transformers' defaults, for what a config.json may leave out.
HEAD_WIDTHS = {"qwen3": 128, "gemma3_text": 256}


class Linear(NamedTuple):
    """A linear map of every layer."""

    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Of weight and bias."""
        return self.outputs * (self.inputs + self.bias)

    def lora(self, r: int) -> int:
        """Parameters of its two low-rank factors (Hu et al. 2021)."""
        return r * (self.inputs + self.outputs)


class Experts(NamedTuple):
    """A mixture of experts: a router, and ``number`` gated MLPs of which each token passes ``active``.

    ``layers`` says how many layers have it. Their weights are fused, [experts, out, in].
    """

    layers: int
    number: int
    active: int
    width: int
    inner: int

    @property
    def each(self) -> int:
        """Parameters of one expert: gate, up and down."""
        return 3 * self.width * self.inner

    @property
    def router(self) -> Linear:
        """The map from a token to its scores over the experts."""
        return Linear(self.width, self.number)

    def lora(self, r: int) -> int:
        """As PEFT adapts a layer's fused weights: gate and up are one map of rank 2r, down one of rank r."""
        gate_up, down = Linear(self.width, 2 * self.inner), Linear(self.inner, self.width)
        return self.router.lora(r) + self.number * (gate_up.lora(2 * r) + down.lora(r))


class Architecture(NamedTuple):
    """The sizes of a Llama-type model. ``attention`` is q, k, v, o; ``mlp`` gate, up, down (where it is dense)."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    attention: tuple[Linear, ...]
    mlp: tuple[Linear, ...]
    norms: int  # of a layer, over the width
    head_norms: bool
    exact_norms: bool  # their weights multiply in single precision (Gemma)
    experts: Experts | None
    tied: bool
    plain_head: bool
    packed: bool
    why: str  # not packed

    @property
    def q(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_width

    @property
    def kv(self) -> int:
        """Width of all key heads together; of the value heads too."""
        return self.kv_heads * self.head_width

    @property
    def dense_layers(self) -> int:
        """Layers with an MLP of their own."""
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; of the head too."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """Of the base: embedding, layers, norms, and the head where it is not tied to the embedding."""
        layer = _sum(self.attention) + self.norms * self.width + 2 * self.head_width * self.head_norms
        found = self.embedding * (1 if self.tied else 2) + self.layers * layer + self.width
        found += self.dense_layers * _sum(self.mlp)
        if self.experts:
            found += self.experts.layers * (self.experts.number * self.experts.each + self.experts.router.parameters)
        return found

    @property
    def active(self) -> int:
        """Weights of the layers' linear maps that a token passes."""
        found = self.layers * _sum(self.attention) + self.dense_layers * _sum(self.mlp)
        if self.experts:
            found += self.experts.layers * (self.experts.active * self.experts.each + self.experts.router.parameters)
        return found

    def lora(self, r: int) -> int:
        """Parameters of an adapter of rank r, on every linear map of every layer and on fused experts."""
        return self.active_lora(r) + (self.experts.layers * self.experts.lora(r) if self.experts else 0)

    def active_lora(self, r: int) -> int:
        """Of these, what a token passes: fused experts' adapters are added to the weights instead.

        Where some layers have experts, PEFT leaves the others' MLPs alone: they go by the experts' names.
        """
        mlp = () if self.experts else self.mlp
        return self.layers * sum(one.lora(r) for one in (*self.attention, *mlp))


def _sum(linears: tuple[Linear, ...]) -> int:
    return sum(one.parameters for one in linears)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder; its weights need not be there. Raises ModelError."""
    file = folder / "config.json"
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            "no config.json", where=str(file), mend="model.path takes a local Hugging Face folder"
        ) from None
    except ValueError as error:
        raise ModelError(f"not valid JSON: {error}", where=str(file), mend="restore the file") from None
    if not isinstance(tree, dict):
        raise ModelError("a model's config is a JSON object", where=str(file), mend="restore the file")
    return tree


def read_architecture(config: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """The sizes in a Hugging Face config. Raises ModelError: another architecture, a key missing or no size."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise ModelError(
            f"no formula for model_type {kind!r}", where=where, mend=f"the planner counts: {', '.join(KINDS)}"
        )
    sizes = _sizes(config, kind, where)
    width, heads, inner = sizes["hidden_size"], sizes["num_attention_heads"], sizes["intermediate_size"]
    head_width = config.get("head_dim") or HEAD_WIDTHS.get(kind) or width // heads
    q, kv = heads * head_width, sizes["num_key_value_heads"] * head_width
    biased = bool(config.get("attention_bias")) and kind not in ("mistral", "qwen2")
    mlp_bias, qkv_bias = bool(config.get("mlp_bias")) and kind == "llama", biased or kind == "qwen2"
    can = read_abilities(config)
    return Architecture(
        vocabulary=sizes["vocab_size"],
        width=width,
        inner=inner,
        layers=sizes["num_hidden_layers"],
        heads=heads,
        kv_heads=sizes["num_key_value_heads"],
        head_width=head_width,
        attention=(*(Linear(width, out, qkv_bias) for out in (q, kv, kv)), Linear(q, width, biased)),
        mlp=(Linear(width, inner, mlp_bias), Linear(width, inner, mlp_bias), Linear(inner, width, mlp_bias)),
        norms=4 if kind == "gemma3_text" else 2,
        head_norms=kind in (*HEAD_WIDTHS, "qwen3_moe"),
        exact_norms=kind == "gemma3_text",
        experts=_experts(config, sizes) if kind == "qwen3_moe" else None,
        tied=bool(config.get("tie_word_embeddings", kind == "gemma3_text")),
        plain_head=can.plain_head,
        packed=can.packed,
        why=can.why,
    )


def _sizes(config: Mapping[str, Any], kind: str, where: str) -> dict[str, int]:
    needed: tuple[str, ...] = SIZES if kind == "llama" else (*SIZES, "num_key_value_heads")
    needed += EXPERTS if kind == "qwen3_moe" else ()
    config = {"num_experts": config.get("num_local_experts"), **config}  # the name that transformers 5 writes
    missing = [key for key in needed if config.get(key) is None]
    if missing:
        raise ModelError(f"the config lacks {', '.join(missing)}", where=where, mend="restore it from the checkpoint")
    sizes = {key: config[key] for key in needed}
    # Llama's first configs have neither: then every head has its own keys, and the heads share out the width.
    sizes["num_key_value_heads"] = config.get("num_key_value_heads") or config["num_attention_heads"]
    for key, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{key} is {value!r}, not a size", where=where, mend="give a whole number above 0")
    return sizes


def _experts(config: Mapping[str, Any], sizes: Mapping[str, int]) -> Experts:
    step, dense = config.get("decoder_sparse_step") or 1, set(config.get("mlp_only_layers") or ())
    layers = sum(i not in dense and (i + 1) % step == 0 for i in range(sizes["num_hidden_layers"]))
    return Experts(
        layers=layers,
        number=sizes["num_experts"],
        active=sizes["num_experts_per_tok"],
        width=sizes["hidden_size"],
        inner=sizes["moe_intermediate_size"],
    )
