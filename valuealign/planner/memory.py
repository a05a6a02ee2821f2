"""The memory of one GPU while a model trains, from the model's config alone.

Nothing is loaded and nothing is measured: every figure is a formula over ``config.json`` and the
run's configuration. ``tests/test_planner_measured.py`` and ``benchmarks/planner_memory.py`` compare
them with measured runs. 1 GB is 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from valuealign.config import RunConfig
from valuealign.models.score import HEAD_CHUNK
from valuealign.planner.architecture import Architecture, read_architecture
from valuealign.planner.boxes import CPU, USABLE, Box

BUCKET = 500_000_000  # elements of DeepSpeed's reduce bucket (`reduce_bucket_size`, its default)
LIVE = 1_000_000_000  # parameters that ZeRO 3 keeps gathered (`stage3_max_live_parameters`, its default)
SUBGROUP = 1_000_000_000  # parameters that ZeRO 3 steps at a time (`sub_group_size`, its default)
WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes of an element
SINGLE = 4  # bytes of an element in single precision
NF4 = 1 / 2 + 1 / 64 + SINGLE / (64 * 256)  # of an element: 4 bits, a byte a block of 64, 4 bytes for 256 of these

ASSUMPTIONS = (
    "one worker on each GPU of the box, so train.workers is the number of its GPUs",
    "LoRA is on every linear layer but the head, and on fused experts; full trains all weights; both with AdamW",
    "at ZeRO 3 a base is loaded in pieces, but whole under LoRA on fused experts; else every worker loads all of it",
    "DeepSpeed adds gradients up and keeps a master copy in single precision (at ZeRO 0 a copy only for bfloat16)",
    f"DeepSpeed's default buckets; {USABLE:.0%} of a GPU's memory can be used",
)


class Micro(NamedTuple):
    """A micro-batch: rows, their length in tokens (padding included), and tokens that are predicted."""

    rows: int
    length: int
    scored: int

    @property
    def tokens(self) -> int:
        """Tokens that are computed, padding included."""
        return self.rows * self.length


def worst(token_budget: int) -> Micro:
    """The micro-batch that takes the most: one row fills the budget, and all of it is predicted."""
    return Micro(1, token_budget, token_budget)


class Plan(NamedTuple):
    """What one GPU holds. ``items`` are bytes by name while a gradient is computed; ``step`` is held while the
    optimizer steps, ``loading`` before training starts, ``host`` in the host's memory for this GPU."""

    box: Box
    zero: int
    parameters: int
    trained: int
    micro: Micro
    items: Mapping[str, float]
    step: float
    loading: float
    host: float

    @property
    def training(self) -> float:
        """Bytes held while a gradient is computed."""
        return sum(self.items.values())

    @property
    def total(self) -> float:
        """The most bytes held at a time."""
        return max(self.training, self.step, self.loading)

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
        """What takes the most when it is fullest."""
        if self.total > max(self.training, self.step):
            return "loading the base"
        if self.step > self.training:
            return "the optimizer's step"
        return max(self.items, key=lambda name: self.items[name])


def activations(sizes: Architecture, micro: Micro, *, r: int, width: int, recompute: bool = False) -> float:
    """Bytes kept for the backward pass of a micro-batch; LoRA of rank ``r``, 0 for full fine-tuning.

    Counted as in Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer
    Models, section 4.1), for what torch's autograd keeps of these layers with an attention kernel
    that keeps no scores. With h the width, q and kv the widths of all query and key heads, m the
    MLP's inner width and e bytes an element, a token keeps in each layer

        4h a norm         its input, in single precision; full: its output before the weight, too
        e 2h              what q, k, v and gate, up were given
        e 4q + 4 heads    q, k, v (repeated to all heads), the result; log-sum-exp
        4 (q + kv)        with norms by head: their inputs; full: their outputs before the weight, too
        e 4m              gate, its activation, up, their product
        e k (2h + 4m)     in their place with k experts, and 4 experts + 36k for the routing
        e r               LoRA: what each A matrix gave

    Every layer also keeps the mask of rows of T tokens in the layer's precision (torch's attention
    converts it anew in each: e rows T^2), and under LoRA fused experts their weights with the
    adapter added. With ``recompute`` only the layers' inputs remain, e h a token.
    """
    tokens = micro.tokens
    normed = 0 if r else _normed(sizes, width)
    once = tokens * ((4 + normed + width) * sizes.width + 2 * width * sizes.head_width) + micro.rows * micro.length**2
    if recompute:
        return once + sizes.layers * tokens * width * sizes.width
    attention, dense, sparse = _layers(sizes, micro, r=r, width=width)
    # Under LoRA no gradient flows back to the first norm.
    once -= tokens * 4 * sizes.width if r else 0
    mixed = sizes.layers - sizes.dense_layers
    return once + sizes.layers * attention + sizes.dense_layers * dense + mixed * sparse


def _layers(sizes: Architecture, micro: Micro, *, r: int, width: int) -> tuple[float, float, float]:
    """Bytes kept in a layer: of its attention and norms, and of its MLP, dense or a mixture of experts."""
    per_norm = 4 + (0 if r else _normed(sizes, width))
    attention = sizes.norms * per_norm * sizes.width + width * (2 * sizes.width + 4 * sizes.q) + 4 * sizes.heads
    attention += sizes.head_norms * per_norm * (sizes.q + sizes.kv) + width * r * len(sizes.attention)
    dense = width * (4 * sizes.inner + (0 if sizes.experts else r * len(sizes.mlp)))
    sparse, added = 0.0, 0.0
    if experts := sizes.experts:
        sparse = width * experts.active * (2 * experts.width + 4 * experts.inner)
        sparse += 4 * experts.number + 36 * experts.active
        added = width * experts.number * experts.each if r else 0.0
    mask = width * micro.rows * micro.length**2
    return micro.tokens * attention + mask, micro.tokens * dense, micro.tokens * sparse + added


def _normed(sizes: Architecture, width: int) -> int:
    """Bytes of an element of what a norm multiplies with its weight."""
    return SINGLE if sizes.exact_norms else width


def logits(sizes: Architecture, micro: Micro, *, width: int) -> float:
    """Bytes of the logits that exist at a time: log-softmax and two gradients of it, in single precision.

    A head that is more than a matrix product is not cut into pieces: then all logits of all tokens stand beside
    them, with their gradients.
    """
    if sizes.plain_head:
        return min(micro.scored, HEAD_CHUNK) * sizes.vocabulary * 3.0 * SINGLE
    return sizes.vocabulary * (micro.scored * 3.0 * SINGLE + micro.tokens * 4.0 * width)


def backward(sizes: Architecture, micro: Micro, *, r: int, width: int, recompute: bool) -> float:
    """Bytes that exist for a while in the backward pass, the most of two moments.

    At the head: the logits, and three gradients of the last norm in single precision; full: a gradient of the
    head before it is added to the others. In a layer: two gradients as wide as its MLP, while what it kept is
    freed; full: of its largest weight; with ``recompute`` all that the layer keeps.
    """
    tokens, head = micro.tokens, logits(sizes, micro, width=width)
    attention, dense, sparse = _layers(sizes, micro, r=r, width=width)
    inner, weight = float(sizes.inner), float(max(one.parameters for one in sizes.mlp))
    if experts := sizes.experts:
        inner, weight = float(experts.active * experts.inner), experts.number * experts.each * 2 / 3
    layer = 2 * tokens * width * inner + (width * weight if experts or not r else 0.0)
    if recompute:
        layer += attention + (sparse if experts else dense)
    return max(head + 3 * SINGLE * tokens * sizes.width + (0 if r else width * sizes.embedding), layer)


def plan(
    config: Mapping[str, Any],
    run: RunConfig,
    box: Box,
    *,
    micro: Micro | None = None,
    local: bool | None = None,
    where: str = "config.json",
) -> Plan:
    """What each GPU of a box holds while ``run`` trains a model of this config. Raises ModelError.

    ``micro`` is the largest micro-batch (without it: the worst one that the token budget allows).
    ``local`` is one process without DeepSpeed (LocalEngine), its weights all in the run's precision: what a
    box without GPUs is planned as.

    For each trained parameter DeepSpeed keeps 12 bytes of master copy and moments beside weight and
    gradient; ZeRO 1 shards these over the N GPUs, 2 the gradients too, 3 the weights too, the base's
    included (Rajbhandari et al. 2020, ZeRO, section 5 and figure 1).
    """
    sizes = read_architecture(config, where=where)
    micro = micro or worst(run.train.token_budget)
    local = box.kind == CPU if local is None else local
    e, r = WIDTHS[run.model.dtype], run.model.lora_r if run.model.train == "lora" else 0
    base, trained = sizes.parameters, sizes.lora(r) if r else sizes.parameters
    whole, unpacked = _base_bytes(sizes, e, run.model.quantize)
    states = _local(trained, e, box) if local else _deepspeed(trained, e, run, box)
    weights = base + (trained if r else 0)
    shards = box.gpus if run.train.zero == 3 and not local else 1
    gathered = min(weights, weights / shards + LIVE) if shards > 1 else weights
    items = {
        "weights of the base": whole * gathered / weights,
        "weights of the adapter": e * gathered * (weights - base) / weights,
        "gradients": states.gradients,
        "optimizer": states.optimizer,
        "activations": activations(sizes, micro, r=r, width=e, recompute=run.train.recompute),
        "for a while, going backward": backward(sizes, micro, r=r, width=e, recompute=run.train.recompute) + unpacked,
        "communication": states.communication,
    }
    step = (whole + e * (weights - base)) / shards + states.optimizer + states.step
    pieces = shards > 1 and not (sizes.experts and r)
    loading = whole / shards + e * _largest(sizes) if pieces else whole
    return Plan(box, run.train.zero, base, trained, micro, items, step, loading, states.host)


def _largest(sizes: Architecture) -> int:
    """Parameters of the largest weight: one is whole at a time while a base is loaded in pieces."""
    fused = sizes.experts.number * 2 * sizes.experts.width * sizes.experts.inner if sizes.experts else 0
    return max(sizes.embedding, fused, *(one.inputs * one.outputs for one in (*sizes.attention, *sizes.mlp)))


def _base_bytes(sizes: Architecture, e: int, quantize: str) -> tuple[float, float]:
    """Bytes of the base's weights, and of the one weight that is unpacked at a time where linear layers are in 4 bits
    (Dettmers et al. 2023, section 3: not the embedding, head, norms, biases or fused experts)."""
    if quantize == "none":
        return float(e * sizes.parameters), 0.0
    maps = [one.inputs * one.outputs for one in sizes.attention] * sizes.layers
    maps += [one.inputs * one.outputs for one in sizes.mlp] * sizes.dense_layers
    return e * (sizes.parameters - sum(maps)) + NF4 * sum(maps), float(e * max(maps))


class _States(NamedTuple):
    """Bytes of what training keeps for the trained parameters. ``step`` is beside weights and optimizer."""

    gradients: float
    optimizer: float
    communication: float
    step: float
    host: float


def _local(trained: int, e: int, box: Box) -> _States:
    """LocalEngine: everything in the run's precision, and a copy of a moment as AdamW steps (see ``_copies``)."""
    copies = 0 if box.kind == CPU else 1
    return _States(e * trained, 2.0 * e * trained, 0.0, (1.0 + copies) * e * trained, 0.0)


def _copies(box: Box, flat: bool) -> int:
    """Copies of a moment that torch's AdamW makes as it steps: one of all on a GPU, two of a tensor on a CPU,
    where that is everything only if everything is one ``flat`` tensor."""
    return 1 if box.kind != CPU else 2 if flat else 0


def _deepspeed(trained: int, e: int, run: RunConfig, box: Box) -> _States:
    """DeepSpeed 0.19's states, as its source allocates them (stage_1_and_2.py, stage3.py, bf16_optimizer.py)."""
    zero, single = run.train.zero, float(SINGLE * trained)
    shard = single / (box.gpus if zero else 1)
    low = 0.0 if e == SINGLE else float(e * trained)  # gradients as the backward pass makes them
    master = 0.0 if zero == 0 and e == SINGLE else shard
    sent = float(SINGLE * min(BUCKET, trained))
    # ZeRO 2 in single precision adds a micro-batch's shard to the last ones' as a whole; in bfloat16 in place.
    gradients = {0: single + low, 1: single + low, 2: shard * (2 if e == SINGLE else 1), 3: shard}[zero]
    # Stages 1 (in single precision) and 3 keep their bucket; 0, and 1 in bfloat16, send only before they step.
    bucket = float(SINGLE * BUCKET) if zero == 3 or (zero == 1 and e == SINGLE) else 0.0
    communication = e * BUCKET + (sent if e < SINGLE else 0.0) if zero == 2 else bucket
    stepped = min(shard, float(SINGLE * SUBGROUP)) if zero == 3 else shard
    copies = _copies(box, flat=zero > 0 or e < SINGLE) * stepped
    beside = bucket + copies if zero == 3 else max(copies, sent, bucket)
    step = beside + {0: single + low, 1: single + low, 2: shard, 3: shard + stepped}[zero]
    if run.train.offload == "optimizer" and zero:
        gradients = 0.0 if zero > 1 else gradients
        # On the host: master copy, two moments, a gradient and its sum over micro-batches, and (1, 2) a copy to send.
        host = 5 * shard + (e * trained / box.gpus if zero < 3 else 0.0)
        return _States(gradients, 0.0, communication, gradients + bucket, host)
    return _States(gradients, 2 * shard + master, communication, step, 0.0)
