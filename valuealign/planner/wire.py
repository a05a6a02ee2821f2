"""What GPUs send each other in an optimizer step: bytes by ZeRO stage, and the seconds that they take.

A ring over N GPUs has each of them send 2 (N-1)/N of a tensor's bytes to add it up everywhere, and (N-1)/N to gather
it, or to add it up in shards (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms). Which tensors
DeepSpeed 0.19 moves under the engine's settings is read from its source; ``benchmarks/scaling.py`` holds it to
measured bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from valuealign.config import RunConfig
from valuealign.planner.architecture import Architecture, Linear
from valuealign.planner.memory import SINGLE, WIDTHS

REUSE = 1_000_000_000  # parameters; sooner used again than that, one stays gathered (`stage3_max_reuse_distance`)
PERSISTENT = 100_000  # elements; a smaller tensor is never sharded (`stage3_param_persistence_threshold`)
REACHED = 0.7  # of a link's nominal bandwidth, an assumption; `jobs/preflight.py --only collectives` measures


class Moved(NamedTuple):
    """A tensor that a collective moves: what it is, how, and its bytes over all of a step's calls."""

    what: str
    how: Literal["all-reduce", "all-gather", "reduce-scatter"]
    size: float

    def sent(self, gpus: int) -> float:
        """Bytes that each GPU sends."""
        return (2 if self.how == "all-reduce" else 1) * (gpus - 1) / gpus * self.size


def moved(
    sizes: Architecture,
    run: RunConfig,
    *,
    trained: int,
    scored: int = 0,
    reuse: int = REUSE,
    persistent: int = PERSISTENT,
) -> list[Moved]:
    """What the ranks move in an optimizer step of ``trained`` micro-batches a rank, and ``scored`` without gradient.

    ZeRO 0 and 1 add gradients up once, 2 and 3 for every micro-batch (at 2 DeepSpeed adds them up everywhere and
    keeps its shard). They are sent in single precision. A frozen base has none; at ZeRO 3 it is gathered all
    the same, forward and backward.
    """
    zero, e = run.train.zero, WIDTHS[run.model.dtype]
    r = run.model.lora_r if run.model.train == "lora" else 0
    learnt = sizes.lora(r) if r else sizes.parameters
    gradients = float(SINGLE * learnt)
    if zero < 2:
        found = [Moved("gradients, once", "all-reduce", gradients)]
        return found + ([Moved("what was trained, updated", "all-gather", float(e * learnt))] if zero else [])
    if zero == 2:
        return [
            Moved("gradients, each micro-batch", "all-reduce", trained * gradients),
            Moved("what was trained, updated", "all-gather", float(e * learnt)),
        ]
    weights = sizes.parameters + (sizes.lora(r) if r else 0)
    small = sum(count * elements for elements, count in tensors(sizes, r) if elements <= persistent)
    sharded = weights - small
    # Of what is used last forward, and so first backward, half the reuse distance is still there, and surely the head.
    # Frozen maps that read nothing trained take no part in the backward pass: the embedding, the first q, k, v.
    still = sum(one.inputs * one.outputs for one in sizes.attention[:3]) + (0 if sizes.tied else sizes.embedding)
    kept = max(reuse / 2, sizes.embedding) + (still if r else 0)
    again = max(0.0, sharded - kept)
    return [
        Moved("weights, forward", "all-gather", float((trained + scored) * e * sharded)),
        Moved("weights, backward", "all-gather", float(trained * e * again)),
        Moved("gradients, each micro-batch", "reduce-scatter", trained * gradients),
        Moved("small weights, updated", "all-gather", float(e * small)),
    ]


def sent(found: Iterable[Moved], gpus: int) -> float:
    """Bytes that each of so many GPUs sends."""
    return sum(one.sent(gpus) for one in found)


def tensors(sizes: Architecture, r: int = 0) -> Iterator[tuple[int, int]]:
    """Every weight as (its elements, how many there are), with those of an adapter of rank ``r``."""
    yield sizes.embedding, 1 if sizes.tied else 2
    yield sizes.width, sizes.layers * sizes.norms + 1
    if sizes.head_norms:
        yield sizes.head_width, 2 * sizes.layers
    linears: list[tuple[Linear, int]] = [(one, sizes.layers) for one in sizes.attention]
    linears += [(one, sizes.dense_layers) for one in sizes.mlp]
    adapted = [(one, sizes.layers) for one in (*sizes.attention, *(() if sizes.experts else sizes.mlp))]
    if experts := sizes.experts:
        linears.append((experts.router, experts.layers))
        adapted.append((experts.router, experts.layers))
        yield experts.number * 2 * experts.width * experts.inner, experts.layers
        yield experts.number * experts.width * experts.inner, experts.layers
    for one, count in linears:
        yield one.inputs * one.outputs, count
        if one.bias:
            yield one.outputs, count
    for one, count in adapted if r else ():
        yield r * one.inputs, count
        yield r * one.outputs, count
    if r and experts:
        for rank, inputs, outputs in ((2 * r, experts.width, 2 * experts.inner), (r, experts.inner, experts.width)):
            yield experts.number * rank * inputs, experts.layers
            yield experts.number * rank * outputs, experts.layers


class Link(NamedTuple):
    """What carries it: a name, and bytes a second in each direction as its maker sells them."""

    name: str
    bandwidth: float

    def seconds(self, size: float, reached: float = REACHED) -> float:
        """Seconds of so many bytes."""
        return size / (reached * self.bandwidth)


def slowest(*links: Link) -> Link:
    """The link that a ring waits for.

    A ring enters and leaves each box once, so a box's network carries what one GPU sends, however many it has.
    """
    return min(links, key=lambda link: link.bandwidth)
