"""Will it fit: the memory of one GPU while a LoRA adapter trains, from the model's config alone.

Nothing is loaded and nothing is measured: every figure is a formula over ``config.json`` and the
run's configuration, so it is an estimate and ``ASSUMPTIONS`` says of what. How long a run takes is
not said: that needs measured rates. 1 GB is 1e9 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from valuealign.config import RunConfig
from valuealign.errors import ConfigError, ModelError, nearest

GB = 1e9
USABLE = 0.9  # of a GPU's memory; the rest is the CUDA context, NCCL and fragmentation
HEAD_CHUNK = 1024  # scored tokens whose logits exist at a time; models/score.py (a test holds them equal)
BUCKET = 500_000_000  # elements of DeepSpeed's reduce bucket (`reduce_bucket_size`, its default)
LEAST_BUDGET = 256  # tokens; a mend asks for no smaller micro-batch
LIVE = 1_000_000_000  # parameters that ZeRO 3 keeps gathered (`stage3_max_live_parameters`, its default)
WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes of an element
# Architectures with Llama's layers; Qwen2 has biases on q, k, v; Qwen3 normalises q and k by head.
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
HEAD_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")

ASSUMPTIONS = (
    "one worker on each GPU of the box, so train.workers is the number of its GPUs",
    "the base is frozen; a LoRA adapter on every linear layer but the head trains, with Adam",
    "every worker loads the whole base onto its GPU before ZeRO 3 shards it",
    "a master copy in float32 only where model.dtype is bfloat16",
    "no activation checkpointing; one micro-batch fills train.token_budget with a single row (the worst case)",
    f"DeepSpeed's default buckets; {USABLE:.0%} of a GPU's memory can be used",
)


class Box(NamedTuple):
    """A machine: how many GPUs, and the memory of each in bytes (as sold, 1e9 a GB)."""

    gpus: int
    memory: float


GPUS = {"L4": 24, "A40": 48, "L40S": 48, "A100-40": 40, "A100-80": 80, "H100": 80, "H200": 141}  # GB
BOXES = {f"{n}x{gpu}": Box(n, memory * GB) for gpu, memory in GPUS.items() for n in (1, 2, 4, 8)}


class Architecture(NamedTuple):
    """The sizes of a Llama-type model."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    plain_head: bool

    @property
    def linears(self) -> tuple[tuple[int, int, bool], ...]:
        """A layer's linear maps as (in, out, has a bias): q, k, v, o, gate, up, down."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        return (
            (self.width, q, self.qkv_bias),
            (self.width, kv, self.qkv_bias),
            (self.width, kv, self.qkv_bias),
            (q, self.width, self.o_bias),
            (self.width, self.inner, self.mlp_bias),
            (self.width, self.inner, self.mlp_bias),
            (self.inner, self.width, self.mlp_bias),
        )

    @property
    def parameters(self) -> int:
        """Of the base: embedding, layers, norms, and the head where it is not tied to the embedding."""
        linear = sum(a * b + b * bias for a, b, bias in self.linears)
        norms = 2 * self.width + 2 * self.head_width * self.qk_norm
        embedding = self.vocabulary * self.width
        return embedding * (1 if self.tied else 2) + self.layers * (linear + norms) + self.width

    def lora(self, r: int) -> int:
        """Parameters of an adapter of rank r: r (in + out) for every linear map of every layer (Hu et al. 2021)."""
        return self.layers * sum(r * (a + b) for a, b, _ in self.linears)


class Plan(NamedTuple):
    """What one GPU holds. ``items`` are bytes by name; ``loading`` is held before training starts."""

    box: Box
    zero: int
    parameters: int
    lora: int
    items: Mapping[str, float]
    loading: float

    @property
    def total(self) -> float:
        """The most bytes held at a time: in training, or while the base is loaded whole."""
        return max(sum(self.items.values()), self.loading)

    @property
    def usable(self) -> float:
        """Bytes of one GPU that can be planned with."""
        return USABLE * self.box.memory

    @property
    def fits(self) -> bool:
        """Whether the run is expected to fit."""
        return self.total <= self.usable

    @property
    def largest(self) -> str:
        """The item that takes the most."""
        if self.loading > sum(self.items.values()):
            return "the base, loaded whole"
        return max(self.items, key=lambda name: self.items[name])


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
    if kind not in LLAMA_LIKE:
        raise ModelError(
            f"no formula for model_type {kind!r}", where=where, mend=f"the planner counts: {', '.join(LLAMA_LIKE)}"
        )
    needed = SIZES if kind == "llama" else (*SIZES, "num_key_value_heads")
    missing = [key for key in needed if config.get(key) is None]
    if missing:
        raise ModelError(f"the config lacks {', '.join(missing)}", where=where, mend="restore it from the checkpoint")
    sizes = {key: config[key] for key in needed}
    # Llama's first configs have neither: then every head has its own keys, and the heads share out the width.
    sizes["num_key_value_heads"] = config.get("num_key_value_heads") or config["num_attention_heads"]
    for key, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{key} is {value!r}, not a size", where=where, mend="give a whole number above 0")
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    biased = bool(config.get("attention_bias")) and kind in ("llama", "qwen3")
    return Architecture(
        vocabulary=sizes["vocab_size"],
        width=width,
        inner=sizes["intermediate_size"],
        layers=sizes["num_hidden_layers"],
        heads=heads,
        kv_heads=sizes["num_key_value_heads"],
        head_width=config.get("head_dim") or (128 if kind == "qwen3" else width // heads),
        qkv_bias=biased or kind == "qwen2",
        o_bias=biased,
        mlp_bias=bool(config.get("mlp_bias")) and kind == "llama",
        qk_norm=kind == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
        plain_head=not any(config.get(extra) for extra in HEAD_EXTRAS),
    )


def find_box(name: str) -> Box:
    """The box of a name like ``4xA40``. Raises ConfigError naming the nearest."""
    if name not in BOXES:
        raise ConfigError(f"unknown box '{name}'", where="--box", mend=nearest(name, BOXES))
    return BOXES[name]


def activations(sizes: Architecture, *, tokens: int, r: int, width: int) -> float:
    """Bytes kept for the backward pass of one micro-batch of ``tokens``, without checkpointing.

    Counted as in Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer
    Models, section 4.1), for a gated MLP, a frozen base, LoRA on every linear map and an attention
    kernel that keeps no scores. With h the width, q = heads x head width, m the MLP's inner width,
    e bytes an element, a token keeps in each layer

        2 x 4h            the inputs of both norms, in float32
        e (2h             their outputs: what q, k, v and gate, up were given
           + 5q           q, k, v (repeated to all heads), what attention gave, what o was given
           + 4m           gate, its SiLU, up, their product
           + 7r)          what each of LoRA's A matrices gave
        4 x heads         attention's log-sum-exp, in float32

    and once 4h + e h around the last norm. The dense mask of a row of T tokens is T^2 (1 + e).
    """
    q = sizes.heads * sizes.head_width
    layer = 8 * sizes.width + width * (2 * sizes.width + 5 * q + 4 * sizes.inner + 7 * r) + 4 * sizes.heads
    return tokens * (sizes.layers * layer + (4 + width) * sizes.width) + tokens**2 * (1 + width)


def logits(sizes: Architecture, *, tokens: int, width: int) -> float:
    """Bytes of the logits that exist at a time: as computed, in float32, log-softmax, and both gradients."""
    return (min(tokens, HEAD_CHUNK) if sizes.plain_head else tokens) * sizes.vocabulary * (2 * width + 3 * 4)


def plan(config: Mapping[str, Any], run: RunConfig, box: Box, *, where: str = "config.json") -> Plan:
    """What each GPU of a box holds while ``run`` trains a model of this config. Raises ModelError.

    Adam in mixed precision keeps 12 bytes a trained parameter beside weight and gradient (master,
    two moments), in float32 8; ZeRO 1 shards these over the N GPUs, 2 the gradients too, 3 the
    weights too, the base's included (Rajbhandari et al. 2020, ZeRO, section 5 and figure 1).
    """
    sizes = read_architecture(config, where=where)
    e, zero, tokens = WIDTHS[run.model.dtype], run.train.zero, run.train.token_budget
    base, lora = sizes.parameters, sizes.lora(run.model.lora_r)

    def share(stage: int) -> int:
        return box.gpus if zero >= stage else 1

    weights = base + lora
    gathered = min(weights, weights / share(3) + LIVE) if share(3) > 1 else weights
    items = {
        "weights of the base": e * gathered * base / weights,
        "weights of the adapter": e * gathered * lora / weights,
        "gradients": e * lora / share(2),
        "optimizer": (12 if e == 2 else 8) * lora / share(1),
        "activations": activations(sizes, tokens=tokens, r=run.model.lora_r, width=e),
        "logits": logits(sizes, tokens=tokens, width=e),
        # ZeRO 1 stages its float32 sum there, 2 and 3 the gradients as they are.
        "communication": float((4 if zero == 1 else e) * (BUCKET if zero else lora)),
    }
    return Plan(box, zero, base, lora, items, loading=float(e * base))


def mend(config: Mapping[str, Any], run: RunConfig, box: Box) -> str:
    """A change under which the run fits: a smaller token budget, ZeRO 3, bfloat16, at last a larger GPU."""
    now = {"model.dtype": run.model.dtype, "train.zero": run.train.zero, "train.token_budget": run.train.token_budget}
    larger = sorted((b.memory, name) for name, b in BOXES.items() if b.gpus == box.gpus and b.memory > box.memory)
    for name, on in (("", box), *((name, BOXES[name]) for _, name in larger)):
        for wanted in _changes(run, on):
            if plan(config, _changed(run, wanted), on).fits:
                keys = " ".join(f"{key}={value}" for key, value in wanted.items() if value != now[key])
                return " ".join(filter(None, ("try", keys, f"--box {name}" if name else "")))
    return "take a smaller model: no known GPU is large enough"


def _changes(run: RunConfig, box: Box) -> Iterator[dict[str, Any]]:
    budgets = [run.train.token_budget // 2**i for i in range(8)]
    for dtype in dict.fromkeys((run.model.dtype, "bfloat16")):
        for zero in dict.fromkeys((run.train.zero, 3 if box.gpus > 1 else run.train.zero)):
            for tokens in (b for b in budgets if b == budgets[0] or b >= LEAST_BUDGET):
                yield {"model.dtype": dtype, "train.zero": zero, "train.token_budget": tokens}


def _changed(run: RunConfig, wanted: Mapping[str, Any]) -> RunConfig:
    tree = run.model_dump()
    for key, value in wanted.items():
        section, name = key.split(".")
        tree[section][name] = value
    return RunConfig.model_validate(tree)
