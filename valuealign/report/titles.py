"""Titles of charts that say what was found, as far as the intervals allow: every number is read from the record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from valuealign.evaluate import Evaluation
from valuealign.report.words import columns, find, percent
from valuealign.types import Estimate


class Ways(NamedTuple):
    """What is said of figures under a mark, over it, and of those whose interval holds it."""

    under: str
    over: str
    neither: str


def sorted_by(figures: Mapping[str, Estimate], ways: Ways, *, at: float = 0.0, most: int = 6) -> str:
    """Which figures lie under ``at``, which over it, and of which neither is shown.

    "nearer in cells and items; not shown to differ in groups"; at most ``most`` names are said of each kind.
    """
    kinds: dict[str, list[str]] = {way: [] for way in ways}
    for name, one in figures.items():
        kinds[ways.under if one.high < at else ways.over if one.low > at else ways.neither].append(name)
    return "; ".join(f"{kind} {_listed(names, most)}" for kind, names in kinds.items() if names)


def _listed(names: Sequence[str], most: int) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def calibration_title(evaluation: Evaluation, last: str, kinds: Mapping[str, str]) -> str:
    """Whether the differences between ``last``'s shares are as large as the people's; ``kinds`` names each split."""
    slopes = {split: find(evaluation, split, last, "calibration_slope") for split in kinds}
    named = {
        f"{kinds[split]} (slope {one.value:.2f}, {one.low:.2f} to {one.high:.2f})": one
        for split, row in slopes.items()
        if row and (one := row.estimate)
    }
    if not named:
        return "Share by share: the model's answers and the people's"
    ways = Ways("exaggerates differences on a", "plays differences down on a", "is not shown to distort them on a")
    return f"Share by share, {last} {sorted_by(named, ways, at=1)}"


def changes_title(evaluation: Evaluation, later: str, earlier: str) -> str:
    """Where ``later`` is nearer to the people than ``earlier``, where further, and where neither is shown."""
    rows = {split: find(evaluation, split, f"{later} - {earlier}", "jsd_bits") for split in columns(evaluation)}
    known = {split: row.estimate for split, row in rows.items() if row}
    ways = Ways("nearer to the people in", "further from them in", "not shown to differ in")
    return f"{later} beside {earlier}: {sorted_by(known, ways)}"


def groups_title(evaluation: Evaluation, last: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """In how many ``groups`` (mean distances by who) ``last`` beats the additive guess, and whether all show it."""
    pairs = [(apart[last], apart["additive"]) for apart in groups.values()]
    known = [(mine, guess) for mine, guess in pairs if math.isfinite(mine) and math.isfinite(guess)]
    if not known:
        worst = max(groups, key=lambda group: groups[group][last])
        return f"In this sample {last} is furthest from {worst} ({1000 * groups[worst][last]:.1f} thousandths of a bit)"
    nearer = sum(mine < guess for mine, guess in known)
    line = f"{last} is nearer to the people than traits added up in {nearer} of {len(known)} groups"
    rows = {split: find(evaluation, split, f"{last} - additive", "jsd_bits") for split in ("cells", "groups")}
    over_all = {split: row.estimate for split, row in rows.items() if row}
    ways = Ways("nearer in", "further in", "not shown to be nearer in")
    return f"{line}; over all of them {sorted_by(over_all, ways)}" if over_all else line


def sweep_title(trials: Sequence[Mapping[str, Any]]) -> str:
    """How many trials kept the people, and the most behaviour that one of them reached."""
    kept = [one for one in trials if one.get("feasible")]
    if not kept:
        return f"None of {len(trials)} trials kept the people"
    best = max(kept, key=lambda one: float(one["auc"]))
    at = f"beta {best['beta']:g} and lambda_d / lambda_u {best['lambda_d'] / best['lambda_u']:.2f}"
    line = (
        f"{len(kept)} of {len(trials)} trials kept the people; the most behaviour among them is AUC {best['auc']:.3f}"
    )
    return f"{line}, at {at}"


def values_title(evaluation: Evaluation, last: str) -> str:
    """How far the profiles of people and ``last`` are apart, on average over groups."""
    by_who = {one.who: one for one in evaluation.standings}
    mine = by_who.get(last)
    if mine is None or mine.distance is None:
        return "What people and model stand for"
    apart = f"{percent(mine.distance)} of the scale apart in this sample"
    return f"What people and model stand for: {apart}, on average over groups"
