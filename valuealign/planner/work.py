"""What a run computes: cells -> tokens -> micro-batches -> floating-point operations. No model is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from valuealign.learner import Stage, mismatched_cells
from valuealign.packing import micro_batches, step_cells
from valuealign.planner.architecture import Architecture
from valuealign.planner.memory import Micro
from valuealign.population import ShareTable
from valuealign.prompts import ChatTokenizer, render
from valuealign.types import Cell

SAMPLE_CELLS = 5000  # of a term; more cells take the lengths of their neighbours in the sample
SAMPLE_STEPS = 50  # optimizer steps of a stage that are laid out in micro-batches
CHARACTERS = 4  # of a token, where there is no tokenizer to ask
TURN = 6  # tokens that a chat template adds to a turn, where there is no tokenizer to ask
SHARED = 1.05  # people behind a prompt, on average; below it collapsing equal rows saves nothing


class Size(NamedTuple):
    """A cell in tokens: its prompt, and each of its completions with EOS."""

    prompt: int
    completions: tuple[int, ...]

    def budgeted(self, packed: bool) -> int:
        """Tokens that the token budget counts (as ``engine.row_tokens``)."""
        return self.prompt * (1 if packed else len(self.completions)) + sum(self.completions)

    def strips(self, packed: bool) -> list[int]:
        """Tokens of the rows that it becomes; the last of a completion is predicted but never read."""
        read = [length - 1 for length in self.completions]
        return [self.prompt + sum(read)] if packed else [self.prompt + length for length in read]


def exact_size(tokenizer: ChatTokenizer) -> Callable[[Cell], Size]:
    """Sizes as a tokenizer makes them."""

    def size(cell: Cell) -> Size:
        row = render(cell, tokenizer)
        return Size(len(row.prompt_ids), tuple(map(len, row.completion_ids)))

    return size


def rough_size(cell: Cell) -> Size:
    """Sizes guessed from characters, where a model's folder has no tokenizer."""
    prompt = sum(math.ceil(len(message.content) / CHARACTERS) + TURN for message in cell.prompt)
    return Size(prompt, tuple(math.ceil(len(text) / CHARACTERS) + 1 for text in cell.completions))


@dataclass(frozen=True)
class Volume:
    """Tokens of one pass over cells, as they are trained and as they would be without what makes them few.

    ``rows`` counts each respondent's answers as rows of their own, one for each option.
    """

    shared: int
    unshared: int
    rows: float
    cells: int
    people: float

    def __add__(self, other: Volume) -> Volume:
        """Both passes together."""
        mine, theirs = vars(self), vars(other)
        return Volume(**{name: value + theirs[name] for name, value in mine.items()})

    @property
    def collapses(self) -> bool:
        """Whether equal rows are found at all: a persona unique to each respondent has none."""
        return self.people >= SHARED * self.cells


@dataclass(frozen=True)
class Load:
    """A stage's cells in tokens, term by term; ``pairs`` are its mismatched rows (KTO's z0), scored only."""

    stage: Stage
    terms: tuple[tuple[Size, ...], ...]
    pairs: tuple[tuple[Size, ...], ...]
    referenced: tuple[Size, ...]

    def volume(self, people: Mapping[str, float]) -> Volume:
        """Of one pass over every term. ``people``: those behind a cell, by its key; 1 for one that is not there."""
        total = Volume(0, 0, 0.0, 0, 0.0)
        for term, sizes in zip(self.stage.terms, self.terms, strict=True):
            for cell, size in zip(term.cells, sizes, strict=True):
                behind = max(1.0, people.get(cell.key, 1.0))
                whole = size.budgeted(packed=False)
                total += Volume(size.budgeted(packed=True), whole, behind * whole, 1, behind)
        return total

    def step(self, step: int, *, ranks: int, token_budget: int, packed: bool) -> Step:
        """The micro-batches of an optimizer step, as the learner lays them out."""
        trained: list[list[Micro]] = [[] for _ in range(ranks)]
        scored: list[list[Micro]] = [[] for _ in range(ranks)]
        tokens = 0
        for number, sizes in enumerate(self.terms):
            chosen = step_cells(
                len(sizes),
                step=step,
                cells_per_step=min(self.stage.cells_per_step, len(sizes)),
                seed=self.stage.seed + 1000 * number,
            )
            tokens += sum(sum(sizes[i].strips(packed)) for i in chosen)
            passes = [(trained, sizes)] + ([(scored, self.pairs[number])] if self.pairs[number] else [])
            for into, rows in passes:
                picked = [rows[i] for i in chosen]
                for rank, micros in enumerate(lay_out(picked, ranks=ranks, token_budget=token_budget, packed=packed)):
                    into[rank] += micros
        return Step(tokens, trained, scored)

    def steps(self, *, ranks: int, token_budget: int, packed: bool) -> list[Step]:
        """A sample of the stage's optimizer steps, evenly spread."""
        count = min(self.stage.steps, SAMPLE_STEPS)
        at = [i * self.stage.steps // count for i in range(count)]
        return [self.step(step, ranks=ranks, token_budget=token_budget, packed=packed) for step in at]


def people_behind(table: ShareTable, survey: Iterable[Cell], judged: Iterable[Cell]) -> dict[str, float]:
    """Key of a training cell -> the people who answered its question, or the marks on its answers."""
    asked = {
        (f"survey:{item.id}", group.name): float(table.n_GI[g, i])
        for g, group in enumerate(table.groups)
        for i, item in enumerate(table.items)
    }
    marks = {cell.key: cell.mass for cell in judged}
    return marks | {cell.key: asked[cell.source, cell.group] for cell in survey}


class Step(NamedTuple):
    """An optimizer step: tokens without padding, and for each rank its micro-batches, trained and only scored."""

    tokens: int
    trained: list[list[Micro]]
    scored: list[list[Micro]]


def lay_out(sizes: Sequence[Size], *, ranks: int, token_budget: int, packed: bool) -> list[list[Micro]]:
    """The micro-batches of each rank."""
    budgeted = [size.budgeted(packed) for size in sizes]
    found = []
    for groups in micro_batches(budgeted, token_budget=token_budget, ranks=ranks):
        micros = []
        for group in groups:
            strips = [strip for i in group for strip in sizes[i].strips(packed)]
            if strips:
                micros.append(Micro(len(strips), max(strips), sum(sum(sizes[i].completions) for i in group)))
        found.append(micros)
    return found


def load(stage: Stage, size: Callable[[Cell], Size]) -> Load:
    """The stage's cells in tokens."""
    terms = tuple(sizes_of(term.cells, size) for term in stage.terms)
    pairs = tuple(sizes_of(mismatched_cells(term.cells), size) if term.mismatched else () for term in stage.terms)
    return Load(stage, terms, pairs, sizes_of(stage.referenced, size))


def sizes_of(cells: Sequence[Cell], size: Callable[[Cell], Size]) -> tuple[Size, ...]:
    """Cells in tokens; of more than ``SAMPLE_CELLS`` the rest take the lengths of their neighbours in a sample."""
    count = min(len(cells), SAMPLE_CELLS)
    sample = [size(cells[i * len(cells) // count]) for i in range(count)]
    return tuple(sample[i * count // len(cells)] for i in range(len(cells)))


def largest(loads: Iterable[Load], sizes: Architecture, *, ranks: int, token_budget: int) -> Micro:
    """The micro-batch of these stages that takes the most memory, of a sample of their steps."""
    micros = (
        micro
        for one in loads
        for step in one.steps(ranks=ranks, token_budget=token_budget, packed=sizes.packed)
        for mine in step.trained
        for micro in mine
    )
    return heaviest(micros)


def heaviest(micros: Iterable[Micro]) -> Micro:
    """The one that takes the most memory."""
    return max(micros, key=lambda micro: (micro.tokens, micro.rows * micro.length**2, micro.scored))


def forward_flops(sizes: Architecture, micro: Micro, *, r: int = 0) -> float:
    """Floating-point operations of a forward pass.

    Two a weight and token (Kaplan et al. 2020, Scaling Laws, section 2.1), of the head only where a token
    is predicted; four a pair of tokens and width for attention, masked pairs too: a dense mask skips none.
    """
    linear = 2.0 * (sizes.active + sizes.active_lora(r)) * micro.tokens + _added_flops(sizes, r)
    return linear + _attention_flops(sizes, micro) + _head_flops(sizes, micro)


def training_flops(sizes: Architecture, micro: Micro, *, r: int, recompute: bool) -> float:
    """Floating-point operations of forward and backward pass; LoRA of rank ``r``, 0 for full fine-tuning.

    Backward, a weight that trains costs a product for its own gradient and one for its input's, a frozen one
    the latter alone; attention's scores are computed once more (5 products against 2: Dao 2023,
    FlashAttention-2, section 3.1). ``recompute`` repeats the layers' forward pass.
    """
    tokens, attention, head = micro.tokens, _attention_flops(sizes, micro), _head_flops(sizes, micro)
    forward = forward_flops(sizes, micro, r=r)
    frozen = 1 if r else 2
    backward = frozen * (2.0 * sizes.active * tokens + head) + 4.0 * sizes.active_lora(r) * tokens + 2.5 * attention
    backward += 2.0 * _added_flops(sizes, r)
    return forward + backward + (forward - head if recompute else 0.0)


def _attention_flops(sizes: Architecture, micro: Micro) -> float:
    return 4.0 * sizes.layers * sizes.q * micro.rows * micro.length**2


def _added_flops(sizes: Architecture, r: int) -> float:
    """Of the products that LoRA adds to fused experts' weights, whatever the tokens; PEFT makes each twice."""
    if not sizes.experts:
        return 0.0
    gate_up_and_down = (2 * 2 + 1) * r * sizes.experts.width * sizes.experts.inner
    return 2 * 2.0 * sizes.experts.layers * sizes.experts.number * gate_up_and_down


def _head_flops(sizes: Architecture, micro: Micro) -> float:
    places = micro.scored if sizes.plain_head else micro.tokens
    return 2.0 * sizes.embedding * places
