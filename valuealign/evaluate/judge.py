"""The figures of one panel: every stage, null and floor on the cells of one split and part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from valuealign.evaluate.nulls import ORACLES
from valuealign.evaluate.record import BASELINE, FLOOR, HALF, Kind, Row, Tested
from valuealign.metrics import METRICS, Floats, Parts, crossed_draws, crossed_interval, jsd_bits, raw_mass, softmax

Part = Literal["select", "report"]
Ints = NDArray[np.intp]
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


class Judge:
    """The figures of one panel. Every ``who`` meets the same resamples, so differences are paired.

    ``donor_C`` are the exam's cells whose answers stand in where groups are shuffled: the same item
    asked of another group (the cell itself where no other group is asked).
    """

    def __init__(self, panel: Panel, positions_CK: Floats, donor_C: Ints, seed: int) -> None:
        self.panel, self.positions_CK, self.donor_C = panel, positions_CK, donor_C
        self.truth_BCK = panel.resampled_BCK.astype(np.float64)
        self.items = len(set(panel.items))
        resamples = len(self.truth_BCK)
        rng = np.random.default_rng([seed, 0x70696B73])
        even = np.full(self.items, 1 / self.items)
        self.picks_BI = rng.multinomial(self.items, even, size=resamples).astype(np.float64)
        self.shuffled_BI = rng.permuted(np.tile(np.arange(resamples)[:, None], (1, self.items)), axis=0)

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
            draws: dict[str, tuple[float, Floats]] = {}
            for who, shares_CK in answers.items():
                parts = metric.measure(shares_CK, self.panel.truth_CK, self.positions_CK)
                value = _ratio(parts)
                if math.isnan(value):
                    continue  # nothing counts: nominal items on a scale, one group to shuffle, the slope of even shares
                parts_B = metric.measure(shares_CK[None], self.truth_BCK, self.positions_CK)
                draws[who] = value, self._draws(parts, parts_B)
                rows.append(self._row(who, name, kinds[who], *draws[who], note=notes.get(who, "")))
            if metric.better != "near 1" and draws:
                floor, asked, met = self._floor(name)
                draws[FLOOR] = floor, met
                rows.append(self._row(FLOOR, name, "floor", floor, asked, note="what a perfect model would score"))
            if metric.better == "lower" and draws:
                rows += self._gains(name, draws, list(logps))
            rows += self._differences(name, draws, list(logps))
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

    def _draws(self, parts: Parts, parts_B: Parts | None = None) -> Floats:
        """``crossed_draws`` [3, B]; without ``parts_B`` the figure hangs on no people."""
        still = Parts(*(np.broadcast_to(one, (len(self.picks_BI), len(one))) for one in parts))
        return crossed_draws(parts, parts_B or still, self.panel.item_C, self.picks_BI, self.shuffled_BI)

    def _floor(self, name: str) -> tuple[float, Floats, Floats]:
        """A perfect model's expected figure: resampled people against the people, mean over resamples.

        Its draws twice: as a figure of the people who were asked, over whom it is a mean already; and with
        what every resample's people do to it, which a gain shares with the model's own distance to them.
        """
        parts = METRICS[name].measure(self.truth_BCK, self.panel.truth_CK[None], self.positions_CK)
        mean = Parts(parts.top.mean(0), parts.bottom.mean(0))
        return _ratio(mean), self._draws(mean), self._draws(mean, parts)

    def _row(self, who: str, metric: str, kind: Kind, value: float, draws_3B: Floats, *, note: str = "") -> Row:
        free = kind in ("gain", "difference")
        bounds = (-math.inf, math.inf) if free else BOUNDS.get(metric, (0.0, 1.0))
        one = crossed_interval(value, draws_3B, n=len(self.panel.items), clusters=self.items, bounds=bounds)
        return Row(self.panel.split, self.panel.part, who, metric, kind, one, note)

    def _gains(self, name: str, draws: Mapping[str, tuple[float, Floats]], stages: Sequence[str]) -> list[Row]:
        """(null - model) / (null - floor): the share of the possible gain over a named null."""
        null = BASELINE[self.panel.split]
        if null not in draws:
            return []
        (base, base_B), (floor, floor_B) = _centred(*draws[null]), _centred(*draws[FLOOR])
        rows = []
        for stage in stages:
            value, model_B = _centred(*draws[stage])
            if base <= floor:
                nothing = f"no gain is possible: {null} is at the noise floor"
                rows.append(self._row(stage, f"gain({name})", "gain", math.nan, model_B, note=nothing))
                continue
            room_B = base_B - floor_B
            gain_B = np.divide(base_B - model_B, room_B, out=np.full_like(room_B, np.nan), where=room_B > 0)
            gain = (base - value) / (base - floor)
            rows.append(self._row(stage, f"gain({name})", "gain", gain, gain_B, note=f"over {null}"))
        return rows

    def _differences(self, name: str, draws: Mapping[str, tuple[float, Floats]], stages: Sequence[str]) -> list[Row]:
        """Each stage minus each earlier one, the split's named null and the split-half, on the same resamples."""
        there = [stage for stage in stages if stage in draws]
        beside = [who for who in (BASELINE[self.panel.split], HALF) if who in draws]
        rows = []
        for b, later in enumerate(there):
            for earlier in (*there[:b], *beside):
                value = draws[later][0] - draws[earlier][0]
                apart_B = draws[later][1] - draws[earlier][1]
                rows.append(self._row(f"{later} - {earlier}", name, "difference", value, apart_B, note="paired"))
        return rows

    def _masses(self, logps: Mapping[str, Floats], kind: Kind) -> list[Row]:
        rows = []
        for stage, logp_CK in logps.items():
            mine_CK = logp_CK[self.panel.cell_C]
            asked_C = ~np.isnan(mine_CK).all(-1)
            count_C = np.asarray(asked_C, dtype=np.float64)
            parts = Parts(raw_mass(mine_CK) * count_C, count_C)
            if not asked_C.any():
                continue
            rows.append(self._row(stage, "raw_mass", kind, _ratio(parts), self._draws(parts)))
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
            drawn = self._draws(parts, parts_B)
            rows.append(self._row(stage, "worst_group_jsd_bits", "stage", _ratio(parts), drawn, note=str(worst)))
        return rows


def _centred(value: float, draws_3B: Floats) -> tuple[float, Floats]:
    known = np.isfinite(draws_3B)
    total = np.sum(np.where(known, draws_3B, 0.0), axis=1, keepdims=True)
    return value, draws_3B - total / np.maximum(known.sum(axis=1, keepdims=True), 1) + value


def _ratio(parts: Parts) -> float:
    bottom = float(parts.bottom.sum())
    return float(parts.top.sum()) / bottom if bottom > 0 else math.nan
