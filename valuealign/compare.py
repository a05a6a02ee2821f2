"""Signals from one survey, compared: the same base, as many tokens each, and the same exam.

How the raw answers are best used is an open question, so it is put to the test. Every signal trains
the same base model through the same adapter, in this process, until it has seen as many tokens, once
for each learning rate of a grid; the rate with the least distance on the ``select`` part is kept, and
the ``report`` part makes the figures. What is done lies in a folder and is not done twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from valuealign.cluster.build import build
from valuealign.cluster.worker import read_scores, write_scores
from valuealign.config import RunConfig
from valuealign.dataset import Dataset
from valuealign.engine import LocalEngine, adamw, row_tokens, score_all
from valuealign.errors import ConfigError, nearest
from valuealign.evaluate import HELD_OUT, Evaluation, Exam, Readout, cell_sets, judge_as_read, readouts
from valuealign.learner import Stage, Term, distribution_term, learn
from valuealign.packing import step_cells
from valuealign.prompts import ChatTokenizer, render, train_templates, wordings
from valuealign.report import figures
from valuealign.signals import SIGNALS
from valuealign.types import BASE, Cell, StepReport

# Learning rates that every signal is tried at, as multiples of distribution.learning_rate: far apart, since what
# suits shares ruins the chat of a model that learns documents.
RATES = (0.03125, 0.125, 0.5, 2.0, 8.0)
# No prompt of a person with its answers is shorter than this, so so many rows are never too few.
FEWEST_TOKENS = 32

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One training: ``distance`` (bits, on ``select``) is what its rate is chosen by, ``passes`` how often it went
    over its ``cells``, ``tokens`` what it forwarded."""

    signal: str
    rate: float
    distance: float
    cells: int
    tokens: int
    steps: int
    passes: float
    seconds: float

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.signal}@{self.rate:g}"


@dataclass(frozen=True)
class Comparison:
    """The figures on ``report`` of the base and of every signal at its chosen rate; ``trials``: all that were made."""

    evaluation: Evaluation
    chosen: Mapping[str, Trial]
    trials: tuple[Trial, ...]


def terms(dataset: Dataset, config: RunConfig, *, most: int) -> dict[str, Callable[[], Term]]:
    """What each signal trains on, made when called; ``most`` bounds the single answers that are drawn.

    Closed cells learn under the distribution loss (for a single answer that is its likelihood among
    the options), documents under ``sft``. Shares weigh as ``distribution.weigh`` says, single answers
    by their survey weights.
    """
    shares = dataset.shrunk or dataset.train, dataset.splits.train
    people = dataset.survey, dataset.weights.weights_P, dataset.groups, dataset.splits
    templates = train_templates(config.prompts)
    statements = tuple(wordings(config.prompts.file).statements.values())
    d = config.distribution

    def of_shares(signal: str) -> Term:
        return distribution_term(SIGNALS[signal](*shares, templates=templates), d)

    def of_people(signal: str) -> Term:
        cells = SIGNALS[signal](*people, templates=templates, most=most, seed=config.seed)
        return replace(distribution_term(cells, d), weigh="mass")

    def of_documents(signal: str) -> Term:
        cells = SIGNALS[signal](*shares, statements=statements)
        return Term("documents", "sft", tuple(cells), weigh=d.weigh, shrink=d.shrink)

    makers = {
        "targets": of_shares,
        "individuals": of_people,
        "profile": of_people,
        "modal": of_shares,
        "documents": of_documents,
    }
    return {signal: partial(make, signal) for signal, make in makers.items()}


def compare(
    config: RunConfig,
    dataset: Dataset,
    exam: Exam,
    out: Path,
    *,
    tokens: int,
    signals: Sequence[str] = (),
    rates: Sequence[float] = RATES,
    say: Say = print,
) -> Iterator[Comparison]:
    """Train and judge one signal after the other; yields what is known after each.

    ``tokens`` are forwarded in each training, ``signals`` (none given: all) are in ``terms``. Trials
    that ``out`` holds are read, so a call that was interrupted goes on when it is repeated. Raises
    ConfigError for an unknown signal, and what training and judging raise.
    """
    known = terms(dataset, config, most=max(1, tokens // FEWEST_TOKENS))
    for signal in signals:
        if signal not in known:
            raise ConfigError(f"no signal is called '{signal}'", where="--signal", mend=nearest(signal, known))
    ways = readouts(exam, config)
    sets = {"exam": exam.cells, **cell_sets(ways)}
    _score(config, out, BASE, sets)
    trials: list[Trial] = []
    chosen: dict[str, Trial] = {}
    for signal in signals or known:
        mine = [_trial(config, exam, out, signal, rate, known[signal], tokens, say) for rate in rates]
        trials += mine
        chosen[signal] = min(mine, key=lambda trial: trial.distance)
        _score(config, out, chosen[signal].name, sets)
        yield Comparison(_judge(exam, out, chosen, ways), dict(chosen), tuple(trials))


def _judge(exam: Exam, out: Path, chosen: Mapping[str, Trial], ways: Sequence[Readout]) -> Evaluation:
    read = {BASE: read_scores(out, BASE), **{signal: read_scores(out, one.name) for signal, one in chosen.items()}}
    by_set = {name: {who: scores[name] for who, scores in read.items()} for name in ("exam", *cell_sets(ways))}
    return judge_as_read(exam, by_set["exam"], ways, by_set)


def _score(config: RunConfig, out: Path, who: str, sets: Mapping[str, tuple[Cell, ...]]) -> None:
    """Keep the answers of the base, or of a trial's adapter, if they are not kept yet."""
    if not (out / "scores" / f"{who}.npz").is_file():
        learner = Learner(config, None if who == BASE else out / "trials" / who)
        write_scores(out, who, {name: learner.score(cells) for name, cells in sets.items()})


def _trial(
    config: RunConfig, exam: Exam, out: Path, signal: str, rate: float, make: Callable[[], Term], tokens: int, say: Say
) -> Trial:
    """The trial as it lies in ``out``, made first where it does not."""
    peak = rate * config.distribution.learning_rate
    folder = out / "trials" / f"{signal}@{peak:g}"
    record = folder / "trial.json"
    if record.is_file():
        say(f"{folder.name}: done before")
        return Trial(**json.loads(record.read_text(encoding="utf-8")))
    learner, began = Learner(config), time.perf_counter()
    stage, planned = plan(make(), learner.tokenizer, config, tokens=tokens, peak=peak, packed=learner.packed)
    for report in learner.learn(stage):
        if report.step in {max(1, round(stage.steps * n / 4)) for n in range(1, 5)}:
            say(f"{folder.name}: step {report.step}/{report.steps}  loss {report.loss:.3f}")
    seconds = round(time.perf_counter() - began, 1)
    distance = held_out(exam, learner.score(exam.only("select").cells))
    made = Trial(signal, peak, distance, len(stage.terms[0].cells), planned, stage.steps, stage.epochs, seconds)
    learner.save(folder)
    aside = folder / ".trial.json"
    aside.write_text(json.dumps(asdict(made)), encoding="utf-8")
    aside.replace(record)
    say(f"{made.name}: {1000 * distance:.1f} thousandths of a bit on select, {seconds:.0f} s")
    return made


def held_out(exam: Exam, logps: Sequence[np.ndarray]) -> float:
    """What a learning rate is chosen by: the geometric mean over the held-out splits of their mean JSD (bits) on
    ``select``, of whose cells alone ``logps`` are. So each split counts alike, however far its answers are."""
    apart_C, keys = exam.only("select").distances(logps, "select")
    splits = np.array([split for split, _, _ in keys])
    means = [float(apart_C[splits == name].mean()) for name in HELD_OUT if (splits == name).any()]
    return float(np.exp(np.mean(np.log(np.maximum(means, 1e-9)))))


def plan(
    term: Term, tokenizer: ChatTokenizer, config: RunConfig, *, tokens: int, peak: float, packed: bool
) -> tuple[Stage, int]:
    """The stage that goes on until it has forwarded ``tokens``, and how many it will have forwarded then."""
    cost = np.array([row_tokens(render(cell, tokenizer), packed) for cell in term.cells])
    size, seed = min(config.distribution.cells_per_step, len(cost)), config.seed
    seen = steps = 0
    while seen < tokens:
        seen += int(cost[step_cells(len(cost), step=steps, cells_per_step=size, seed=seed)].sum())
        steps += 1
    return Stage(term.name, (term,), steps * size / len(cost), peak, size, seed), seen


def markdown(comparison: Comparison) -> str:
    """What was done, the figures, and what each signal differs by from the first, as Markdown."""
    evaluation, chosen = comparison.evaluation, comparison.chosen
    header, rows = figures(evaluation)
    more = ["learning rate", "cells", "passes"]
    lines = [[*header, *more], ["---"] * (len(header) + len(more))]
    for row in rows:
        one = chosen.get(row[0])
        lines.append([*row, *([f"{one.rate:g}", f"{one.cells:,}", f"{one.passes:.2g}"] if one else [""] * len(more))])
    first, *others = chosen
    splits = [split for split in HELD_OUT if split in evaluation.splits]
    apart = [[f"minus {first}", *splits], ["---"] * (1 + len(splits))]
    for signal in others:
        found = (evaluation.figure(split, f"{signal} - {first}") for split in splits)
        apart.append([signal, *(f"{1000 * e.value:+.1f} [{1000 * e.low:+.1f}, {1000 * e.high:+.1f}]" for e in found)])
    return "\n\n".join([_done(comparison), *(_pipes(table) for table in (lines, apart) if len(table) > 2)])


def _done(comparison: Comparison) -> str:
    tokens = [trial.tokens for trial in comparison.trials]
    rates = ", ".join(f"{rate:g}" for rate in sorted({trial.rate for trial in comparison.trials}))
    people = comparison.evaluation.facts["people"]
    return (
        "Jensen-Shannon divergence from the people's answers in thousandths of a bit, ± half of the 95 % interval; "
        f"{people:,} people who took no part in training. Every training forwarded {min(tokens):,} to {max(tokens):,} "
        f"tokens; learning rates tried: {rates}."
    )


def _pipes(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


class Learner:
    """The base in this process, ready to learn: as it is (with a fresh adapter), or with what a trial trained."""

    def __init__(self, config: RunConfig, adapter: Path | None = None) -> None:
        base, model = build(config.model, seed=config.seed, start=adapter)
        self.train, self.tokenizer, self.packed = config.train, base.tokenizer, model.packed
        self._pad_id = int(base.tokenizer.pad_token_id)
        decay = partial(adamw, weight_decay=config.train.weight_decay)
        self._engine = LocalEngine(model, pad_id=self._pad_id, clip=config.train.clip, optimizer=decay)

    def learn(self, stage: Stage) -> Iterator[StepReport]:
        """Train a stage, a report after each step."""
        return learn(self._engine, stage, self.tokenizer, train=self.train, pad_id=self._pad_id, packed=self.packed)

    def score(self, cells: Sequence[Cell]) -> list[np.ndarray]:
        """Raw log-probabilities [K] (nats) of each cell's completions."""
        rows, budget = [render(cell, self.tokenizer) for cell in cells], self.train.token_budget
        return score_all(self._engine, rows, pad_id=self._pad_id, packed=self.packed, token_budget=budget)

    def save(self, folder: Path) -> None:
        """Write what was trained."""
        self._engine.save_trained(folder)
