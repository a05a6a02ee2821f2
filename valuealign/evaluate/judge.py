"""The figures of one panel: every stage, null and floor on the cells of one split and part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from valuealign.evaluate.nulls import ORACLES
from valuealign.evaluate.record import BASELINE, FLOOR, HALF, REGRESSION, Kind, Row, Tested
from valuealign.metrics import METRICS, Floats, Parts, crossed_draws, crossed_interval, jsd_bits, raw_mass, softmax

Part = Literal["select", "report"]
Ints = NDArray[np.intp]
TAIL = 0.025  # of draws: what a 95 % interval leaves out at either end
BOUNDS = {
    "dispersion": (0.0, math.inf),
    "dispersion_variance": (0.0, math.inf),
    "calibration_slope": (-math.inf, math.inf),
}


@dataclass(frozen=True)
class Panel:
    """The cells of one split and part, the truth about them, and what the training people say.

    ``cell_C`` are places in ``Exam.cells``. ``truth_CK`` are the part's people's shares,
    ``resampled_BCK`` the same for resampled persons; ``nulls`` are guesses from the training people
    and ``half_CK`` their own answers to the same cell (NaN where there are none). ``silent_C`` is the share
    of the people asked who chose none of the options.
    """

    split: str
    part: Part
    cell_C: Ints
    items: tuple[str, ...]
    groups: tuple[str, ...]
    truth_CK: Floats
    n_eff_C: Floats
    resampled_BCK: NDArray[np.float32]
    nulls: Mapping[str, Floats]
    half_CK: Floats
    silent_C: Floats

    @property
    def item_C(self) -> Ints:
        """Each cell's item as a number from 0."""
        return np.unique(np.array(self.items), return_inverse=True)[1].astype(np.intp)


class Drawn(NamedTuple):
    """A figure with its ``crossed_draws`` [3, B], and of how many cells and which items it is: those that count."""

    value: float
    draws_3B: Floats
    cells: int
    items: Ints


class Judge:
    """The figures of one panel. Every ``who`` meets the same resamples, so differences are paired.

    ``donor_C`` are the exam's cells whose answers stand in where groups are shuffled: the same item
    asked of another group (the cell itself where no other group is asked).
    """

    def __init__(self, panel: Panel, positions_CK: Floats, donor_C: Ints, seed: int) -> None:
        self.panel, self.positions_CK, self.donor_C, self.seed = panel, positions_CK, donor_C, seed
        self.truth_BCK = panel.resampled_BCK.astype(np.float64)
        self.item_C, self.items, self.resamples = panel.item_C, len(set(panel.items)), len(self.truth_BCK)
        self.picked: dict[bytes, Floats] = {}
        self.floors: dict[tuple[str, bytes | None], tuple[Drawn, Drawn]] = {}
        rng = np.random.default_rng([seed, 0x73687566])
        self.shuffled_BI = rng.permuted(np.tile(np.arange(self.resamples)[:, None], (1, self.items)), axis=0)

    def rows(self, logps: Mapping[str, Floats], reworded: Mapping[str, Floats] | None = None) -> list[Row]:
        """Every metric of every stage, null and floor on this panel, and the stages' gains over each other.

        ``logps`` maps a stage to its raw log-probabilities of all the exam's cells, [C, K] in nats (NaN
        beyond an item's own options), ``reworded`` a stage in other words. A figure that nothing counts
        for (Wasserstein of nominal items) has no row.
        """
        answers, kinds, notes = self._answers(logps)
        reworded = reworded or {}
        answers |= {who: softmax(logp_CK[self.panel.cell_C]) for who, logp_CK in reworded.items()}
        kinds |= dict.fromkeys(reworded, "reworded")
        rows: list[Row] = []
        for name, metric in METRICS.items():
            # Nothing counts: nominal items on a scale, one group to shuffle, the slope of even shares.
            figures = {who: self._figure(name, shares_CK) for who, shares_CK in answers.items()}
            figures = {who: one for who, one in figures.items() if one.cells}
            rows += [self._row(who, name, kinds[who], one, note=notes.get(who, "")) for who, one in figures.items()]
            stages = [stage for stage in logps if stage in figures]
            if metric.better != "near 1" and figures:
                floor, _ = self._floor(name)
                rows.append(self._row(FLOOR, name, "floor", floor, note="what a perfect model would score"))
            if metric.better == "lower":
                rows += self._gains(name, answers, figures, stages)
            rows += self._differences(name, answers, figures, stages)
        return rows + self._masses(logps, "stage") + self._masses(reworded, "reworded") + self._worst(logps)

    def tested(self, logps: Mapping[str, Floats]) -> list[Tested]:
        """Each cell by itself: the divergence of every stage and guess, and a perfect model's (the floor)."""
        answers, kinds, _ = self._answers(logps)
        kept = {who: shares_CK for who, shares_CK in answers.items() if kinds[who] in ("stage", "null", "oracle")}
        apart = {who: jsd_bits(shares_CK, self.panel.truth_CK) for who, shares_CK in kept.items()}
        apart[FLOOR] = np.nanmean(jsd_bits(self.truth_BCK, self.panel.truth_CK[None]), axis=0)
        return [
            Tested(self.panel.split, item, group, float(n_eff), {who: float(one_C[c]) for who, one_C in apart.items()})
            for c, (item, group, n_eff) in enumerate(
                zip(self.panel.items, self.panel.groups, self.panel.n_eff_C, strict=True)
            )
        ]

    def _answers(self, logps: Mapping[str, Floats]) -> tuple[dict[str, Floats], dict[str, Kind], dict[str, str]]:
        """Whose answers are judged: shares [C, K], what kind they are, and a note."""
        answers: dict[str, Floats] = {}
        kinds: dict[str, Kind] = {}
        notes: dict[str, str] = {}
        for name, shares_CK in self.panel.nulls.items():
            answers[name] = shares_CK
            oracle = self.panel.split == "items" and name in ORACLES
            kinds[name] = "oracle" if oracle else "null"
            notes[name] = "oracle: reads the held-out item's own answers" if oracle else ""
        alone = int((self.donor_C == self.panel.cell_C).sum())
        mixing = "its answers for another group" + (f"; {alone} cells have none and are left out" if alone else "")
        for stage, logp_CK in logps.items():
            answers[stage], kinds[stage] = softmax(logp_CK[self.panel.cell_C]), "stage"
            mixed = f"{stage} (groups shuffled)"
            answers[mixed], kinds[mixed] = self._mixed(logp_CK), "shuffled"
            notes[mixed] = mixing
        answers[HALF], kinds[HALF] = self.panel.half_CK, "half"
        notes[HALF] = "the training people's own answers to the same cell"
        return answers, kinds, notes

    def _mixed(self, logp_CK: Floats) -> Floats:
        alone_C1 = (self.donor_C == self.panel.cell_C)[:, None]
        return np.where(alone_C1, np.nan, softmax(logp_CK[self.donor_C]))

    def _figure(
        self, name: str, shares_CK: Floats, among_C: NDArray[np.bool_] | None = None, items: Ints | None = None
    ) -> Drawn:
        """One metric of shares [C, K], on the cells ``among_C`` alone if they are given; ``items`` as in ``_drawn``."""
        if among_C is not None:
            shares_CK = np.where(among_C[:, None], shares_CK, np.nan)
        measure = METRICS[name].measure
        parts = measure(shares_CK, self.panel.truth_CK, self.positions_CK)
        if not parts.bottom.sum() > 0:
            return Drawn(math.nan, np.full((3, self.resamples), np.nan), 0, np.zeros(0, np.intp))
        return self._drawn(parts, measure(shares_CK[None], self.truth_BCK, self.positions_CK), items)

    def _drawn(self, parts: Parts, parts_B: Parts | None = None, items: Ints | None = None) -> Drawn:
        """A figure of parts [C] and, over resampled people, [B, C]; without those it hangs on no people.

        Items are resampled among those that count: what does not count says nothing of how a figure varies. ``items``
        are others to resample among, those of two figures that are compared.
        """
        counted = np.flatnonzero(parts.bottom > 0)
        items = np.unique(self.item_C[counted]) if items is None else items
        still = Parts(*(np.broadcast_to(one, (self.resamples, len(one))) for one in parts))
        draws_3B = crossed_draws(parts, parts_B or still, self.item_C, self._picks(items), self.shuffled_BI)
        return Drawn(_ratio(parts), draws_3B, len(counted), items)

    def _picks(self, items: Ints) -> Floats:
        """How often each resample draws each item [B, I]: as many as ``items``, out of these. The same each time."""
        if items.tobytes() not in self.picked:
            rng = np.random.default_rng([self.seed, 0x70696B73])
            even, picks_BI = np.full(len(items), 1 / max(len(items), 1)), np.zeros((self.resamples, self.items))
            picks_BI[:, items] = rng.multinomial(len(items), even, size=self.resamples)
            self.picked[items.tobytes()] = picks_BI
        return self.picked[items.tobytes()]

    def _floor(self, name: str, among_C: NDArray[np.bool_] | None = None) -> tuple[Drawn, Drawn]:
        """A perfect model's expected figure: resampled people against the people, mean over resamples.

        Its draws twice: as a figure of the people who were asked, over whom it is a mean already; and with
        what every resample's people do to it, which a gain shares with the model's own distance to them.
        """
        key = name, None if among_C is None else among_C.tobytes()
        if key not in self.floors:
            truth_CK = self.panel.truth_CK
            if among_C is not None:
                truth_CK = np.where(among_C[:, None], truth_CK, np.nan)
            parts = METRICS[name].measure(self.truth_BCK, truth_CK[None], self.positions_CK)
            mean = Parts(parts.top.mean(0), parts.bottom.mean(0))
            self.floors[key] = self._drawn(mean), self._drawn(mean, parts)
        return self.floors[key]

    def _row(self, who: str, metric: str, kind: Kind, one: Drawn, *, note: str = "") -> Row:
        free = kind in ("gain", "difference")
        bounds = (-math.inf, math.inf) if free else BOUNDS.get(metric, (0.0, 1.0))
        estimate = crossed_interval(one.value, one.draws_3B, n=one.cells, clusters=len(one.items), bounds=bounds)
        return Row(self.panel.split, self.panel.part, who, metric, kind, estimate, note)

    def _gains(
        self, name: str, answers: Mapping[str, Floats], figures: Mapping[str, Drawn], stages: Sequence[str]
    ) -> list[Row]:
        """(null - model) / (null - floor): the share of the possible gain over a named null, on the cells of both."""
        null = BASELINE[self.panel.split]
        rows = []
        for who in (*stages, REGRESSION):
            if who not in figures or null not in figures:
                continue
            (model, base), among_C = self._both(name, answers, figures, who, null)
            if not model.cells:
                continue
            _, floor = self._floor(name, among_C)
            value, note = math.nan, f"no gain is possible: {null} is at the noise floor"
            room_B = _centred(base) - _centred(floor)
            gain_B = np.full_like(room_B, np.nan)
            if base.value > floor.value:
                value, note = (base.value - model.value) / (base.value - floor.value), f"over {null}"
                np.divide(_centred(base) - _centred(model), room_B, out=gain_B, where=room_B > 0)
                if np.mean(room_B <= 0) > TAIL:  # unbounded there: leaving those draws out would narrow the interval
                    note += "; no interval, since the null is not shown to lie above the floor"
                    gain_B[:] = np.nan
            gain = model._replace(value=value, draws_3B=gain_B)
            rows.append(self._row(who, f"gain({name})", "gain", gain, note=note + _fewer(among_C, gain)))
        return rows

    def _differences(
        self, name: str, answers: Mapping[str, Floats], figures: Mapping[str, Drawn], stages: Sequence[str]
    ) -> list[Row]:
        """Each stage minus each earlier one, the split's named null, the regression and the split-half; paired."""
        beside = [who for who in (BASELINE[self.panel.split], REGRESSION, HALF) if who in figures]
        rows = []
        for b, later in enumerate(stages):
            for earlier in (*stages[:b], *beside):
                (one, other), among_C = self._both(name, answers, figures, later, earlier)
                if one.cells and other.cells:
                    apart = one._replace(value=one.value - other.value, draws_3B=one.draws_3B - other.draws_3B)
                    note = "paired" + _fewer(among_C, apart)
                    rows.append(self._row(f"{later} - {earlier}", name, "difference", apart, note=note))
        return rows

    def _both(
        self, name: str, answers: Mapping[str, Floats], figures: Mapping[str, Drawn], one: str, other: str
    ) -> tuple[tuple[Drawn, Drawn], NDArray[np.bool_] | None]:
        """Two figures of the cells that both have answers to, and which those are (None: all of both)."""
        ours_C, theirs_C = (~np.isnan(answers[who]).all(-1) for who in (one, other))
        among_C: NDArray[np.bool_] | None = None
        pair = figures[one], figures[other]
        if not np.array_equal(ours_C, theirs_C):
            among_C = np.logical_and(ours_C, theirs_C)
            pair = self._figure(name, answers[one], among_C), self._figure(name, answers[other], among_C)
        if not np.array_equal(pair[0].items, pair[1].items):  # an item may count for one alone: an even split's slope
            items = np.union1d(pair[0].items, pair[1].items)
            pair = (
                self._figure(name, answers[one], among_C, items),
                self._figure(name, answers[other], among_C, items),
            )
        return pair, among_C

    def _masses(self, logps: Mapping[str, Floats], kind: Kind) -> list[Row]:
        rows = []
        for stage, logp_CK in logps.items():
            mine_CK = logp_CK[self.panel.cell_C]
            count_C = np.asarray(~np.isnan(mine_CK).all(-1), dtype=np.float64)
            if count_C.any():
                drawn = self._drawn(Parts(raw_mass(mine_CK) * count_C, count_C))
                rows.append(self._row(stage, "raw_mass", kind, drawn))
        return rows

    def _worst(self, logps: Mapping[str, Floats]) -> list[Row]:
        """The group with the largest mean divergence, among groups with at least two cells."""
        group_C = np.array(self.panel.groups)
        names = [name for name in np.unique(group_C) if (group_C == name).sum() > 1]
        if len(names) < 2:
            return []
        rows = []
        for stage, logp_CK in logps.items():
            shares_CK = softmax(logp_CK[self.panel.cell_C])
            apart_C = jsd_bits(shares_CK, self.panel.truth_CK)
            worst = max(names, key=lambda name: float(apart_C[group_C == name].mean()))
            mine_C = (group_C == worst).astype(np.float64)
            drawn_BC = jsd_bits(shares_CK[None], self.truth_BCK)
            parts_B = Parts(np.nan_to_num(drawn_BC) * mine_C, ~np.isnan(drawn_BC) * mine_C)
            parts = Parts(np.nan_to_num(apart_C) * mine_C, ~np.isnan(apart_C) * mine_C)
            drawn = self._drawn(parts, parts_B)
            rows.append(self._row(stage, "worst_group_jsd_bits", "stage", drawn, note=str(worst)))
        return rows


def _centred(one: Drawn) -> Floats:
    """The draws [3, B] about the figure."""
    known = np.isfinite(one.draws_3B)
    total = np.sum(np.where(known, one.draws_3B, 0.0), axis=1, keepdims=True)
    centred: Floats = one.draws_3B - total / np.maximum(known.sum(axis=1, keepdims=True), 1) + one.value
    return centred


def _fewer(among_C: NDArray[np.bool_] | None, one: Drawn) -> str:
    return "" if among_C is None else f"; on the {one.cells} cells that both answer"


def _ratio(parts: Parts) -> float:
    bottom = float(parts.bottom.sum())
    return float(parts.top.sum()) / bottom if bottom > 0 else math.nan
