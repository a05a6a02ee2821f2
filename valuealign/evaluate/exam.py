"""The exam: what a model is asked, what people answered, and all that judging needs besides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import Diverged, SplitError
from valuealign.evaluate.judge import Ints, Judge, Panel, Part
from valuealign.evaluate.nulls import REGRESSED, Nulls, Pair
from valuealign.evaluate.record import HELD_OUT, REGRESSION, Evaluation, Portrait, Row, Tested
from valuealign.metrics import METRICS, Floats, around, jsd_bits, softmax
from valuealign.metrics.intervals import FEW
from valuealign.population import ShareTable, choose_ridge, membership, outcome_shares, person_codes, tabulate
from valuealign.prompts import Template
from valuealign.signals.targets import question
from valuealign.splits import SURVEY, WAVES, Splits
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Cell, Group, Item

Key = tuple[str, str, str]  # split, item id, group name
PARTS: tuple[Part, ...] = ("select", "report")
PORTRAYED = ("everyone", "items", SURVEY)


@dataclass(frozen=True)
class Exam:
    """What is asked and what people answered. Made by ``build_exam``; picklable, needs no survey.

    ``asked`` are the (item id, group) pairs of ``cells``, in their order.
    """

    cells: tuple[Cell, ...]
    asked: tuple[Pair, ...]
    panels: tuple[Panel, ...]
    positions_CK: Floats
    items: tuple[Item, ...]
    facts: Mapping[str, Any]
    seed: int

    def distances(
        self, logps: Sequence[Sequence[float] | Floats], part: Part = "select"
    ) -> tuple[Floats, tuple[Key, ...]]:
        """Per-cell Jensen-Shannon divergence (bits) of all splits of ``part``, and their keys.

        ``logps``: one array [K] for each of ``cells``, raw log-probabilities in nats. No cell
        appears twice in a split. Raises Diverged for log-probabilities that are NaN or leave no option.
        """
        shares_CK, keys = self.shares(logps, part)
        truth = [panel.truth_CK for panel in self.panels if panel.part == part]
        return (jsd_bits(shares_CK, np.concatenate(truth)) if truth else np.zeros(0)), keys

    def shares(
        self, logps: Sequence[Sequence[float] | Floats], part: Part = "select"
    ) -> tuple[Floats, tuple[Key, ...]]:
        """The model's shares [C, K] of all cells of ``part`` (NaN beyond a cell's own options), and their keys.

        ``logps`` and what is raised as in ``distances``.
        """
        shares_CK = softmax(self._padded(logps, "the model"))
        panels = [panel for panel in self.panels if panel.part == part]
        keys = [
            (panel.split, item, group)
            for panel in panels
            for item, group in zip(panel.items, panel.groups, strict=True)
        ]
        found = [shares_CK[panel.cell_C] for panel in panels]
        return np.concatenate(found) if found else shares_CK[:0], tuple(keys)

    def figures(self, logps: Sequence[Sequence[float] | Floats], part: Part = "select") -> dict[str, float]:
        """Each of METRICS over all cells of all splits of ``part``, without intervals; NaN where no cell counts.

        ``logps`` and what is raised as in ``distances``.
        """
        logp_CK = self._padded(logps, "the model")
        found = {}
        for name, metric in METRICS.items():
            sums = [
                metric.measure(softmax(logp_CK[panel.cell_C]), panel.truth_CK, self.positions_CK[panel.cell_C])
                for panel in self.panels
                if panel.part == part
            ]
            top, bottom = (float(sum(one[side].sum() for one in sums)) for side in (0, 1))
            found[name] = top / bottom if bottom > 0 else math.nan
        return found

    def only(self, part: Part) -> Exam:
        """The same exam with the questions of one part alone: what a sweep or a gate needs to score."""
        panels = [panel for panel in self.panels if panel.part == part]
        used = np.unique(np.concatenate([panel.cell_C for panel in panels])) if panels else np.zeros(0, np.intp)
        moved = tuple(replace(panel, cell_C=np.searchsorted(used, panel.cell_C)) for panel in panels)
        cells, asked = tuple(self.cells[c] for c in used), tuple(self.asked[c] for c in used)
        return replace(self, cells=cells, asked=asked, panels=moved, positions_CK=self.positions_CK[used])

    def worded(self, template: Template | None) -> Exam:
        """The same exam, its questions put by another template (None: the default one)."""
        items = {item.id: item for item in self.items}
        return replace(self, cells=tuple(_blank(items[item], group, template) for item, group in self.asked))

    def judge(
        self,
        logps_by_stage: Mapping[str, Sequence[Sequence[float] | Floats]],
        *,
        part: Part = "report",
        reworded: Mapping[str, Mapping[str, Sequence[Sequence[float] | Floats | None]]] | None = None,
    ) -> Evaluation:
        """Every stage on every split of ``part``, beside the nulls, the noise floor and each other.

        Arrays as in ``distances``. ``reworded[how][stage]`` are answers to the same questions got
        otherwise (``readouts``; None where a cell was not asked): rows of kind ``reworded``, called
        "stage (how)". Intervals resample items, and respondents for what moves several items at once.
        Raises Diverged as ``distances`` does.
        """
        logps = {stage: self._padded(given, stage) for stage, given in logps_by_stage.items()}
        others = {
            f"{stage} ({how})": self._padded(given, f"{stage} ({how})")
            for how, by_stage in (reworded or {}).items()
            for stage, given in by_stage.items()
        }
        rows: list[Row] = []
        tested: list[Tested] = []
        donor_C = self._donors()
        for panel in self.panels:
            if panel.part == part:
                judge = Judge(panel, self.positions_CK[panel.cell_C], donor_C[panel.cell_C], self.seed)
                rows += judge.rows(logps, others)
                tested += judge.tested(logps)
        facts = {key: value for key, value in self.facts.items() if key not in ("select", "report")}
        portraits = self._portraits(logps, part)
        return Evaluation(part, tuple(logps), tuple(rows), {**facts, **self.facts[part]}, portraits, tuple(tested))

    def _padded(self, logps: Sequence[Sequence[float] | Floats | None], stage: str) -> Floats:
        assert len(logps) == len(self.cells), "one array of log-probabilities a cell"
        logp_CK = np.full((len(self.cells), self.positions_CK.shape[1]), np.nan)
        for c, (cell, given) in enumerate(zip(self.cells, logps, strict=True)):
            if given is None:
                continue
            one_K = np.asarray(given, dtype=np.float64)
            assert one_K.shape == (len(cell.completions),), "one log-probability an option"
            if np.isnan(one_K).any() or not np.isfinite(one_K.max()):
                raise Diverged(
                    "the log-probabilities are not finite",
                    where=f"{stage}, {cell.source}, {cell.group}",
                    mend="the training diverged: lower its learning_rate",
                )
            logp_CK[c, : len(one_K)] = one_K
        return logp_CK

    def _donors(self) -> Ints:
        """For each cell another cell of the same item, by a random cycle over the item's cells."""
        rng = np.random.default_rng([self.seed, 0x646F6E6F72])
        source_C = np.array([cell.source for cell in self.cells])
        donor_C = np.arange(len(self.cells), dtype=np.intp)
        for source in np.unique(source_C):
            places = rng.permutation(np.flatnonzero(source_C == source))
            donor_C[places] = np.roll(places, 1)
        return donor_C

    def _portraits(self, logps: Mapping[str, Floats], part: Part) -> tuple[Portrait, ...]:
        """Every question that no group was named in: trained ones first, in the survey's order."""
        items = {item.id: (place, item) for place, item in enumerate(self.items)}
        found: list[tuple[int, int, Portrait]] = []
        for panel in self.panels:
            if panel.part != part or panel.split not in PORTRAYED:
                continue
            for n, (item_id, group, c) in enumerate(zip(panel.items, panel.groups, panel.cell_C, strict=True)):
                if group != EVERYONE.name:
                    continue
                place, item = items[item_id]
                k = len(item.options)
                stages = {stage: tuple(softmax(logp_CK[c])[:k].tolist()) for stage, logp_CK in logps.items()}
                shares_K = panel.truth_CK[n, :k]
                low_K, high_K = around(shares_K, panel.resampled_BCK[:, n, :k].astype(np.float64))
                people, low, high = (tuple(one_K.tolist()) for one_K in (shares_K, low_K, high_K))
                options = tuple(option.text for option in item.options)
                portrait = Portrait(item_id, item.text, options, people, stages, low, high, panel.split)
                found.append((PORTRAYED.index(panel.split), place, portrait))
        return tuple(portrait for _, _, portrait in sorted(found, key=lambda one: one[:2]))


def build_exam(
    survey: Survey,
    weights_P: Floats,
    groups: Sequence[Group],
    splits: Splits,
    *,
    bootstrap: int,
    seed: int,
    most: int = 600,
    most_seen: int = 200,
    template: Template | None = None,
    ridge: float | None = None,
) -> Exam:
    """The exam of a survey: what to ask, the truth of both parts, nulls and ``bootstrap`` resamples.

    Questions are put by ``template`` (None: the default one). ``ridge`` is the regression's (None: it is chosen here).

    ``most`` cells a held-out split and part (``most_seen`` of the trained ones) are kept, chosen by
    a hash, so that scoring stays quick. The survey weights are held fixed over resamples. Raises
    SplitError where no cell is left to judge.
    """
    train = tabulate(survey, weights_P, groups, multiplicity_P=splits.people("train"))
    chosen = {key: pairs for key, pairs in _chosen(splits, most, most_seen, seed).items() if pairs}
    asked = sorted(
        {pair for pairs in chosen.values() for pair in pairs},
        key=lambda pair: (train.group_index[pair[1]], train.item_index[pair[0]]),
    )
    if not asked:
        raise SplitError(
            "no cell is left to judge", where="splits", mend="hold out items, groups or cells, or read more people"
        )
    items = {item.id: item for item in train.items}
    place = {pair: c for c, pair in enumerate(asked)}
    width = train.shares_GIK.shape[2]
    if ridge is None and splits.train and any(split in REGRESSED for split, _ in chosen):
        ridge = choose_ridge(survey, weights_P, groups, splits.people("train"), splits.train)
    guesses = Nulls(train, set(splits.train), ridge)
    facts: dict[str, Any] = {"train_people": _persons(survey, splits.people("train")), "bootstrap": bootstrap}
    panels: list[Panel] = []
    for number, part in enumerate(PARTS, start=1):
        facts[part] = {"people": _persons(survey, splits.people(part)), "splits": {}}
        for later in (False, True):
            mine = {split: pairs for (split, of), pairs in chosen.items() if of == part and (split == WAVES) == later}
            if not mine:
                continue
            rows_P = splits.rows(part, WAVES if later else "seen")
            truth = tabulate(survey, weights_P, groups, multiplicity_P=rows_P)
            silent_GI = outcome_shares(survey, weights_P * rows_P, groups).sum(axis=2)
            drawn = _resample(survey, weights_P, rows_P, mine, bootstrap, width, seed=(seed, number + 2 * later))
            for split, pairs in mine.items():
                cell_C = np.array([place[pair] for pair in pairs], dtype=np.intp)
                panel = _panel(split, part, pairs, cell_C, truth, silent_GI, drawn[split], guesses)
                panels.append(panel)
                facts[part]["splits"][split] = {"people": _persons(survey, rows_P), **_describe(panel)}
    if any(REGRESSION in panel.nulls for panel in panels):
        facts["regression_ridge"] = ridge
    cells = tuple(_blank(items[item], group, template) for item, group in asked)
    positions_CK = np.full((len(cells), width), np.nan)
    for c, cell in enumerate(cells):
        positions_CK[c, : len(cell.positions)] = cell.positions
    return Exam(cells, tuple(asked), tuple(panels), positions_CK, train.items, facts, seed)


def _blank(item: Item, group: Group, template: Template | None) -> Cell:
    """The question with flat masses: what people answered stays out, so that nobody trains on an exam by mistake."""
    k = len(item.options)
    return question(item, group, [1.0 / k] * k, [0.0] * k, n_eff=0.0, template=template)


def _persons(survey: Survey, rows_P: NDArray[np.bool_]) -> int:
    return len(np.unique(person_codes(survey)[0][rows_P]))


def _chosen(splits: Splits, most: int, most_seen: int, seed: int) -> dict[tuple[str, Part], tuple[Pair, ...]]:
    """The pairs of each panel. Trained pairs that name no group become the split ``everyone``."""

    def by_hash(pair: Pair) -> str:
        return hashlib.sha256(f"{seed}:{pair[0]}:{pair[1].name}".encode()).hexdigest()

    found: dict[tuple[str, Part], tuple[Pair, ...]] = {}
    for part in PARTS:
        for split in (*HELD_OUT, WAVES, SURVEY):
            found[split, part] = tuple(sorted(splits.pairs.get((split, part), ()), key=by_hash)[:most])
        seen = sorted(splits.pairs.get(("seen", part), ()), key=by_hash)
        found["everyone", part] = tuple(pair for pair in seen if pair[1] == EVERYONE)[:most]
        found["seen", part] = tuple(pair for pair in seen if pair[1] != EVERYONE)[:most_seen]
    return found


def _panel(
    split: str,
    part: Part,
    pairs: Sequence[Pair],
    cell_C: Ints,
    truth: ShareTable,
    silent_GI: Floats,
    drawn_BCK: NDArray[np.float32],
    guesses: Nulls,
) -> Panel:
    where = [(truth.group_index[group], truth.item_index[item]) for item, group in pairs]
    return Panel(
        split=split,
        part=part,
        cell_C=cell_C,
        items=tuple(item for item, _ in pairs),
        groups=tuple(group.name for _, group in pairs),
        truth_CK=np.array([truth.shares_GIK[g, i] for g, i in where]),
        n_eff_C=np.array([truth.n_eff_GI[g, i] for g, i in where]),
        resampled_BCK=drawn_BCK,
        nulls=guesses.of(split, pairs),
        half_CK=np.array([guesses.table.shares_GIK[g, i] for g, i in where]),
        silent_C=np.array([silent_GI[g, i] for g, i in where]),
    )


def _describe(panel: Panel) -> dict[str, Any]:
    items = len(set(panel.items))
    how = "items resampled, and respondents for what moves several items at once"
    if items == 1:
        how = "respondents resampled; a single item, so items are not"
    elif items < FEW:
        how += f", widened for {items} items (Student's t)"
    return {
        "cells": len(panel.items),
        "items": items,
        "groups": len(set(panel.groups)),
        "median_n_eff": float(np.median(panel.n_eff_C)),
        "interval": how,
    }


def _resample(
    survey: Survey,
    weights_P: Floats,
    rows_P: NDArray[np.bool_],
    pairs: Mapping[str, Sequence[Pair]],
    bootstrap: int,
    width: int,
    *,
    seed: tuple[int, int],
) -> dict[str, NDArray[np.float32]]:
    """Shares [B, C, K] of every split's pairs for resampled persons of the rows (NaN: nobody answered).

    A person with several rows is drawn with all of them. One matrix product a pair, over the
    group's members only, so that the cost follows the cells asked, not people x groups x items.
    """
    rng = np.random.default_rng([*seed, 0x6578616D])
    person_P, _ = person_codes(survey)
    rows = np.flatnonzero(rows_P)
    drawable, of_row = np.unique(person_P[rows], return_inverse=True)
    drawn_BP = rng.multinomial(len(drawable), np.full(len(drawable), 1 / len(drawable)), size=bootstrap)
    mass_BP = (drawn_BP[:, of_row] * weights_P[rows]).astype(np.float32)
    groups = sorted({group for some in pairs.values() for _, group in some})
    member_PG = membership(survey, groups)[rows]
    answers = {item: survey.people[item].fill_null(-1).to_numpy()[rows] for some in pairs.values() for item, _ in some}
    options = {item.id: len(item.options) for item in survey.codebook.items}
    shares = {split: np.full((bootstrap, len(some), width), np.nan, np.float32) for split, some in pairs.items()}
    for g, group in enumerate(groups):
        inside = np.flatnonzero(member_PG[:, g])
        mass_BM = mass_BP[:, inside]
        for split, some in pairs.items():
            for c, (item, _) in ((c, pair) for c, pair in enumerate(some) if pair[1] == group):
                chosen_MK = (answers[item][inside, None] == np.arange(options[item])).astype(np.float32)
                mass_BK = mass_BM @ chosen_MK
                total_B = mass_BK.sum(1, keepdims=True)
                empty = np.full_like(mass_BK, np.nan)
                shares[split][:, c, : options[item]] = np.divide(mass_BK, total_B, out=empty, where=total_B > 0)
    return shares
