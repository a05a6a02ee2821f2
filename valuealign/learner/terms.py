"""What a stage trains: terms, each an objective on cells with a weight, made from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from valuealign.config import (
    DistributionConfig,
    DpoConfig,
    KtoConfig,
    PreferenceConfig,
    RunConfig,
    StageConfig,
)
from valuealign.errors import ConfigError
from valuealign.objectives import OBJECTIVES
from valuealign.objectives.kto import LambdaRule
from valuealign.packing import Weigh
from valuealign.pairing import rotate, rows_of
from valuealign.types import Cell

NEEDS = {
    "sft": "give answers that people marked desirable",
    "dpo": "give prompts with a desirable and an undesirable answer",
    "kto": "give answers that people marked",
}


@dataclass(frozen=True)
class Term:
    """An objective on cells with a weight.

    ``mismatched`` asks for KTO's z0 of open answers, ``parity_rows`` for that of TRL, in blocks of so many
    cells. ``notes`` are what whoever configured it should know.
    """

    name: str
    objective: str
    cells: tuple[Cell, ...]
    hyper: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    weigh: Weigh = "equal"
    shrink: float = 50.0
    mismatched: bool = False
    parity_rows: int = 0
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> tuple[Cell, ...]:
        """The cells that the term's rows are rendered from."""
        return rotate(self.cells, self.parity_rows).cells if self.parity_rows else self.cells

    def steps_of_a_pass(self, cells_per_step: int) -> float:
        """Optimizer steps of a pass over the term's cells, each of so many (with ``parity_rows``: of whole blocks)."""
        if self.parity_rows:
            blocks = -(-len(self.cells) // self.parity_rows)
            return -(-blocks // max(1, min(cells_per_step, len(self.cells)) // self.parity_rows))
        return len(self.cells) / min(cells_per_step, len(self.cells))

    @property
    def reference_free(self) -> bool:
        """Whether the term reads no reference: its objective has none, or a uniform one stands in."""
        return not OBJECTIVES[self.objective].reference or bool(self.hyper.get("reference_free"))


@dataclass(frozen=True)
class Stage:
    """Terms trained together. The first term's cells set the number of steps."""

    name: str
    terms: tuple[Term, ...]
    epochs: float
    learning_rate: float
    cells_per_step: int
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage, at least one."""
        return max(1, round(self.epochs * self.terms[0].steps_of_a_pass(self.cells_per_step)))

    @property
    def referenced(self) -> tuple[Cell, ...]:
        """The cells whose reference log-probabilities the stage needs, in order."""
        referenced = [term for term in self.terms if not term.reference_free]
        cells = [c for term in referenced for c in term.scored]
        pairs = [c for term in referenced if term.mismatched for c in mismatched_cells(term.cells)]
        return tuple(cells + pairs)


def distribution_term(cells: Sequence[Cell], config: DistributionConfig, *, weight: float = 1.0) -> Term:
    """Survey cells under the distribution loss: stage 1, and the anchor of every later stage."""
    hyper = {"distance": config.distance, "raw_mass": config.raw_mass}
    return Term("survey", "distribution", tuple(cells), hyper, weight, config.weigh, config.shrink)


def preference_term(cells: Sequence[Cell], config: PreferenceConfig) -> Term:
    """The term of stage sft, dpo or kto on cells that people judged.

    Raises ConfigError if they cannot be learnt from.
    """
    if isinstance(config, KtoConfig):
        return kto_term(cells, config)
    if isinstance(config, DpoConfig):
        return dpo_term(cells, config)
    return Term("behaviour", "sft", _unit_mass(_usable(cells, "sft", lambda c: sum(c.desirable) > 0)), weigh="mass")


def dpo_term(cells: Sequence[Cell], config: DpoConfig) -> Term:
    """Cells under DPO: those with a desirable and an undesirable answer, every such pair of a cell."""
    pairs = _usable(cells, "dpo", lambda c: sum(c.desirable) > 0 and sum(c.undesirable) > 0)
    notes = [] if len(pairs) == len(cells) else [f"{len(cells) - len(pairs)} cells have no pair to prefer by"]
    if any(cell.closed for cell in pairs):
        notes.append(
            "dpo on survey cells: its optimum is the reference times p^(1/beta), far sharper than the people; "
            "take stage distribution to keep their shares"
        )
    hyper = {
        "beta": config.beta,
        "label_smoothing": config.label_smoothing,
        "reference_free": config.reference_free,
    }
    return Term("behaviour", "dpo", _unit_mass(pairs), hyper, weigh="mass", notes=tuple(notes))


def kto_term(cells: Sequence[Cell], config: KtoConfig) -> Term:
    """Cells under KTO. Raises ConfigError on combinations whose fixed point would not be the people's."""
    cells = _usable(cells, "kto", lambda c: c.mass > 0)
    closed = {cell.closed for cell in cells}
    rule = pick_lambdas(cells, config)
    _check_kto(config, rule, closed)
    notes = [] if config.negatives == "policy" else [str(rule)]
    if config.z0 == "none":
        notes.append("z0: none: the value of an answer is no longer relative to what the model would say anyway")
    hyper = {
        "beta": config.beta,
        "lambda_d": rule.lambda_d,
        "lambda_u": rule.lambda_u,
        "negatives": config.negatives,
        "z0_closed": "none" if config.z0 == "none" else "options",
        "reference_free": config.reference_free,
    }
    if config.z0 == "parity":
        rows = rows_of(cells)
        size = config.parity_rows or len(rows)
        return Term("behaviour", "kto", rows, hyper, weigh="mass", parity_rows=size, notes=tuple(notes))
    # One prompt alone has no other prompt to borrow a completion from; its z0 is 0.
    mismatched = config.z0 != "none" and False in closed and len({c.prompt for c in cells}) > 1
    if False in closed and not mismatched and config.z0 != "none":
        if config.reference_free:
            raise ConfigError(
                "all cells have one prompt, so there is no z0, and without a reference either value is only length",
                where="kto.reference_free",
                mend="bring more prompts, or set kto.reference_free: false",
            )
        notes.append("all cells have one prompt: there is no other to borrow a completion from, and z0 is 0")
    # Open answers keep their masses: collapse is exact, and a prompt that more people judged counts for more.
    weigh: Weigh = "mass" if False in closed else "equal"
    return Term("behaviour", "kto", _unit_mass(cells), hyper, weigh=weigh, mismatched=mismatched, notes=tuple(notes))


def pick_lambdas(cells: Sequence[Cell], config: KtoConfig) -> LambdaRule:
    """The two weights, ``auto`` ones picked, and the paper's rule on them, with the cells' masses as n.

    Negatives ``policy`` take equal weights; else an ``auto`` weight puts the ratio in the middle of the
    range, and with both ``auto`` the smaller of them is 1.
    """
    n_d, n_u = sum(sum(c.desirable) for c in cells), sum(sum(c.undesirable) for c in cells)
    low, high = config.lambda_range
    given_d = None if config.lambda_d == "auto" else config.lambda_d
    given_u = None if config.lambda_u == "auto" else config.lambda_u
    if config.negatives == "policy" or not (n_d and n_u):
        lambda_d = given_d or given_u or 1.0
        lambda_u = given_u or lambda_d
    else:
        ratio = (low + high) / 2 * n_u / n_d  # of lambda_d to lambda_u
        lambda_u = given_u or (given_d / ratio if given_d else max(1.0, 1 / ratio))
        lambda_d = given_d or lambda_u * ratio
    return LambdaRule(lambda_d, lambda_u, n_d, n_u, low, high)


def _check_kto(config: KtoConfig, rule: LambdaRule, closed: set[bool]) -> None:
    if config.negatives == "policy" and config.z0 == "parity":
        raise ConfigError(
            "z0: parity takes closed cells as open ones, and negatives: policy needs closed ones",
            where="kto.z0",
            mend="set kto.z0: auto, or kto.negatives: human",
        )
    if config.negatives == "policy":
        if closed != {True}:
            raise ConfigError(
                "negatives: policy needs closed answer sets", where="kto.negatives", mend="set kto.on: survey"
            )
        if rule.lambda_d != rule.lambda_u:
            raise ConfigError(
                "negatives: policy has the people's shares as its fixed point only if lambda_d = lambda_u",
                where=f"kto.lambda_d={config.lambda_d}, kto.lambda_u={config.lambda_u}",
                mend="make them equal, set one to auto, or set kto.negatives: human",
            )
    if config.z0 == "options" and closed != {True}:
        raise ConfigError("z0: options needs closed answer sets", where="kto.z0", mend="set kto.z0: auto or mismatched")
    if config.z0 == "mismatched" and closed != {False}:
        raise ConfigError("z0: mismatched is for open answers", where="kto.z0", mend="set kto.z0: auto or options")
    if config.reference_free and config.z0 == "none" and False in closed:
        raise ConfigError(
            "open answers need a reference or a z0: without both, value is only how long an answer is",
            where="kto.reference_free",
            mend="set kto.z0: auto, or kto.reference_free: false",
        )


def _usable(cells: Sequence[Cell], stage: str, learns: Callable[[Cell], bool]) -> tuple[Cell, ...]:
    found = tuple(cell for cell in cells if learns(cell))
    if not found:
        raise ConfigError(f"there is nothing for stage {stage} to learn from", where="feedback.file", mend=NEEDS[stage])
    return found


def update_stage(config: RunConfig, feedback: Sequence[Cell], survey: Sequence[Cell]) -> Stage:
    """The stage that learns from accepted feedback: KTO on judged answers, corrected texts as examples too, posted
    shares under the distribution loss, and the survey mixed in as the anchor."""
    u = config.update
    judged, shares = [c for c in feedback if not c.closed], [c for c in feedback if c.closed]
    terms = [kto_term(judged, KtoConfig(beta=u.beta))] if judged or not shares else []
    corrections = tuple(c for c in judged if len(c.completions) > 1)
    if u.sft and corrections:
        terms.append(Term("corrections", "sft", corrections, weight=u.sft))
    if shares:
        terms.append(replace(distribution_term(shares, config.distribution, weight=u.shares), name="shares"))
    if u.anchor:
        terms.append(distribution_term(survey, config.distribution, weight=u.anchor))
    return Stage("update", tuple(terms), u.epochs, u.learning_rate, u.cells_per_step, config.seed + 2)


def _unit_mass(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells with masses scaled alike, to 1 a cell on average."""
    unit = sum(c.mass for c in cells) / len(cells)
    return tuple(
        replace(c, desirable=tuple(d / unit for d in c.desirable), undesirable=tuple(u / unit for u in c.undesirable))
        for c in cells
    )


def plan_stages(config: RunConfig, survey: Sequence[Cell], judged: Mapping[str, Sequence[Cell]]) -> tuple[Stage, ...]:
    """The stages that a configuration asks for.

    Args:
        config: the run.
        survey: the training cells of the survey.
        judged: the training cells of each stage that learns from judgements (survey cells with human
            negatives where its ``on`` says ``survey``).
    """
    stages = []
    for number, name in enumerate(config.stages):
        s: StageConfig = config.distribution if name == "distribution" else config.preferences[name]
        if isinstance(s, PreferenceConfig):
            terms = [preference_term(judged[name], s)]
            if s.anchor and s.on == "behaviour":
                terms.append(distribution_term(survey, config.distribution, weight=s.anchor))
        else:
            terms = [distribution_term(survey, config.distribution)]
        # A stage by itself draws what it draws behind stage 1: a sweep's trial is the stage of a whole run.
        seed = config.seed + max(number, name != "distribution")
        stages.append(Stage(name, tuple(terms), s.epochs, s.learning_rate, s.cells_per_step, seed))
    return tuple(stages)


def mismatched_cells(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """For each cell its prompt with a completion of another prompt, weighted by the cell's mass.

    Cells are ordered by key; each borrows from the next one with another prompt. So the pairing is
    fixed by the cells alone, whatever the batch or the ranks.
    """
    order = sorted(cells, key=lambda c: c.key)
    paired = {}
    for i, cell in enumerate(order):
        others = (order[(i + shift) % len(order)] for shift in range(1, len(order)))
        other = next((o for o in others if o.prompt != cell.prompt), None)
        if other is None:
            raise ConfigError(
                "z0: mismatched needs at least two different prompts", where="kto.z0", mend="set kto.z0: none"
            )
        borrowed = other.completions[int(cell.key[:8], 16) % len(other.completions)]
        paired[cell.key] = replace(
            cell, completions=(borrowed,), desirable=(cell.mass,), undesirable=(0.0,), positions=()
        )
    return tuple(paired[c.key] for c in cells)
