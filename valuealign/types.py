"""The records and protocols that the rooms share. Nothing here computes anything heavy.

Shape letters, used as suffixes everywhere: ``K`` options of a cell, ``C`` cells of a
batch, ``N`` branches (completions) of a batch, ``B`` rows, ``T`` tokens of a row, ``S``
scored tokens, ``G`` reference points z0, ``M`` entries of their means. Log-probabilities are in nats.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Message(NamedTuple):
    """One turn of a chat; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


class Sampling(NamedTuple):
    """How an answer is drawn. ``temperature`` 0 is greedy; ``stop`` ends it before any of these texts;
    ``top_logprobs`` asks for each token's log-probability and that many alternatives (None: for neither)."""

    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


class Scored(NamedTuple):
    """A token that was written: its text, its log-probability (nats), and the likeliest in its place with theirs."""

    token: str
    logp: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Option:
    """One answer to choose: its code in the file, its wording, its place on the scale.

    ``position`` is the option's value on an ordinal scale; it is ``None`` for a nominal item.
    """

    code: int
    text: str
    position: float | None = None


@dataclass(frozen=True)
class Item:
    """One survey question. ``ordinal`` items have a position for each option.

    ``values`` names the theory's values that the item measures (may be empty), ``key`` is +1
    or, for a reversed item, -1. ``family`` ties near-duplicates together: items of one family
    are held out together.
    """

    id: str
    text: str
    options: tuple[Option, ...]
    ordinal: bool = True
    values: tuple[str, ...] = ()
    key: int = 1
    family: str = ""

    @property
    def positions(self) -> tuple[float, ...]:
        """Positions[K] of the options, or an empty tuple for a nominal item."""
        if not self.ordinal:
            return ()
        return tuple(float(o.position if o.position is not None else i) for i, o in enumerate(self.options))

    @property
    def places(self) -> tuple[float, ...]:
        """Positions[K] from 0 (the lowest) to 1; empty where nothing is ordered."""
        low, high = min(self.positions, default=0.0), max(self.positions, default=0.0)
        return tuple((position - low) / (high - low) for position in self.positions) if high > low else ()


@dataclass(frozen=True, order=True)
class Group:
    """A set of traits that a prompt can name. ``EVERYONE`` is the group without traits.

    ``traits`` is a sorted tuple of (trait id, level). ``text`` is how a prompt names the group,
    such as ``a woman aged 25 to 34``; it takes no part in comparison.
    """

    traits: tuple[tuple[str, str], ...] = ()
    text: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """A stable, readable key: ``everyone`` or ``age=18-34 & gender=Female``."""
        return " & ".join(f"{trait}={level}" for trait, level in self.traits) or "everyone"


EVERYONE = Group()
BASE = "base"  # what a model is called before any training


@dataclass(frozen=True)
class Target:
    """p(option | item, group), estimated from ``n`` people who are worth ``n_eff``.

    ``shares``, ``low`` and ``high`` have length K, in the order of the item's options; the
    interval is a 95 % interval of each share.
    """

    item: str
    group: Group
    shares: tuple[float, ...]
    n: int
    n_eff: float
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A prompt, its K completions and what is wanted of them: the unit of training and scoring.

    ``desirable`` and ``undesirable`` are masses >= 0 of length K; a target share is a desirable
    mass, normalised. ``closed`` marks an answer set (its K completions are all the answers there
    are). ``positions`` holds the options' places on an ordinal scale (empty: nominal or open).
    ``n_eff`` is what the evidence is worth in respondents. ``source`` says where the cell comes
    from, as ``kind:detail``.
    """

    prompt: tuple[Message, ...]
    completions: tuple[str, ...]
    desirable: tuple[float, ...]
    undesirable: tuple[float, ...]
    closed: bool = False
    n_eff: float = 1.0
    group: str = "everyone"
    source: str = ""
    positions: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        k = len(self.completions)
        assert k > 0 and len(self.desirable) == k and len(self.undesirable) == k, "masses must match completions"
        assert min(*self.desirable, *self.undesirable) >= 0, "masses must not be negative"
        assert len(self.positions) in (0, k), "positions must match completions"

    @cached_property
    def key(self) -> str:
        """Content hash (hex, 32 characters) of the text alone: prompt and completions."""
        text = json.dumps([self.prompt, self.completions], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def mass(self) -> float:
        """All desirable and undesirable mass of the cell."""
        return sum(self.desirable) + sum(self.undesirable)


@dataclass(frozen=True)
class Rendered:
    """A cell as token ids. Each completion ends with EOS; prompt and completions are
    tokenised apart, so that no token spans the boundary."""

    cell: Cell
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens of the prefix-shared row: the prompt once and every completion."""
        return len(self.prompt_ids) + sum(len(c) for c in self.completion_ids)


class Still(NamedTuple):
    """How many of a batch's last columns and last scored tokens are computed without gradient."""

    columns: int
    scored: int


@dataclass(frozen=True)
class Batch:
    """Prefix-shared rows, one cell a row: the prompt once, then its completions as branches.

    ``branch_BT`` is 0 for the prompt, k+1 for completion k, and -1 for padding; a token sees
    the prompt and its own branch, causally. ``row_S``/``col_S`` are the places whose hidden
    state predicts ``target_S``, a token of branch ``branch_S`` (an index into N).
    """

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    branch_BT: Tensor
    row_S: Tensor
    col_S: Tensor
    target_S: Tensor
    branch_S: Tensor
    wanted: Wanted
    still: Still = Still(0, 0)

    @property
    def tokens(self) -> int:
        """Tokens forwarded with gradient, padding not counted."""
        return int((self.branch_BT[:, : self.branch_BT.shape[1] - self.still.columns] >= 0).sum())


@dataclass(frozen=True)
class Wanted:
    """What an objective needs to know of a batch besides the log-probabilities.

    ``cell_N`` maps each branch to its cell (0..C-1, ascending). ``weight_C`` is how much a cell
    counts (``mass``, ``n_eff`` or ``equal``; 0 for padding). ``reference_N`` holds the
    reference's log-probabilities (zeros where the objective has no reference).
    ``position_N`` is NaN where an item is nominal or the cell open.
    """

    cell_N: Tensor
    desirable_N: Tensor
    undesirable_N: Tensor
    position_N: Tensor
    reference_N: Tensor
    closed_C: Tensor
    weight_C: Tensor


@dataclass(frozen=True)
class Borrowed:
    """What KTO's z0 of open answers reads: log-ratios of completions that belong to other prompts.

    There are ``groups`` (G) z0. Each of the M entries says that the branch ``branch_M`` (an index into
    N) counts for the z0 ``group_M`` with ``weight_M``. ``group_2N`` is the z0 that applies to each
    branch's desirable and undesirable mass.
    """

    branch_M: Tensor
    group_M: Tensor
    weight_M: Tensor
    group_2N: Tensor
    groups: int


@dataclass(frozen=True)
class Sum:
    """A total and the mass it is a total of; the mean is taken once, after reduction."""

    total: Tensor
    count: Tensor


class LossTerms(NamedTuple):
    """What an objective returns: the loss to reduce, and statistics to report (no gradient)."""

    loss: Sum
    stats: dict[str, Sum]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; ``n`` is the number of units behind it."""

    value: float
    low: float
    high: float
    n: int = 0


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, as the learner reports it. ``loss`` and ``stats`` are global means."""

    stage: str
    step: int
    steps: int
    loss: float
    stats: Mapping[str, float]
    tokens: int
    seconds: float
    learning_rate: float
    grad_norm: float


class Tokenizer(Protocol):
    """The little of a tokenizer that rendering needs (a Hugging Face tokenizer fits)."""

    chat_template: str | None
    eos_token_id: int
    bos_token: str | None
    eos_token: str

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...


class Engine(Protocol):
    """A model that scores batches and learns from losses, alone or on several ranks."""

    rank: int
    world: int

    def score(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of the batch's branches, with gradient unless disabled."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss already divided by the step's global mass."""
        ...

    def step(self, learning_rate: float) -> float:
        """Apply the gathered gradient; returns its norm before clipping."""
        ...

    def all_sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all ranks."""
        ...

    def fresh_optimizer(self) -> None:
        """Forget the optimizer's moments: a new stage begins."""
        ...

    def save(self, folder: Path) -> None:
        """Write what a resumed run needs; called by every rank."""
        ...

    def load(self, folder: Path) -> None:
        """The inverse of ``save``, on the same number of ranks."""
        ...

    def trained(self) -> dict[str, Tensor]:
        """Copies of the trained weights by parameter name, on the CPU (empty but on rank 0); all ranks call."""
        ...

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrite the trained weights, to score with others for a while; all ranks call, with the same."""
        ...

    def save_trained(self, folder: Path) -> None:
        """Write what was trained: an adapter, or all weights (rank 0 writes, all ranks call)."""
        ...


class Generator(Protocol):
    """Something that answers chats: a model here, an endpoint elsewhere."""

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int | None
    ) -> str: ...
