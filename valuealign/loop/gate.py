"""The gate: what a candidate is held against before it serves.

Of the people: survey distance (over all, and in the worst group), how wide answers are spread, how far the model has
moved; all on the select part, and none of it from feedback. Of what else it could: prompts that must get no worse.
And of what the update was for: the corrected mistakes, the same ones in other words, corrections it has not seen, and
earlier corrections. Every limit is in the configuration beforehand.

Shape letters: ``C`` exam cells of the select part, ``F`` feedback cells, ``K`` completions, ``B`` bootstrap resamples,
``I`` clusters that are resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from valuealign.config import GateConfig
from valuealign.errors import GateError
from valuealign.loop.lessons import EARLIER, HELD, PARAPHRASES, REGRESSION, Lessons
from valuealign.loop.records import (
    CANDIDATE,
    CHAMPION,
    STAGE1,
    START,
    WHO,
    Candidate,
    Check,
    Distances,
    GateResult,
    Keys,
    Logps,
    Measured,
)
from valuealign.metrics import Floats, Parts, entropy_bits, interval, jsd_bits, ratio_draws
from valuealign.types import EVERYONE, Cell, Estimate

DRAWS = 1000
# A level of a trait that fewer items are asked of is judged together with the other such levels.
FEWEST_ITEMS = 5
# Of fewer held-out prompts no loss can be told from chance: they are shown, and decide nothing.
FEWEST_HELD = 10
SURVEY_LOST = "survey distance lost to {than} (JSD, bits)"


def gate(
    candidate: Candidate, lessons: Lessons, exam: Measured, *, rules: GateConfig, seed: int = 0, draws: int = DRAWS
) -> GateResult:
    """Hold the candidate against the champion, the stage-1 model, and what it was corrected for.

    Survey distance (select part) may grow by less than ``rules.margin`` bits over either: the upper end
    of the 95 % interval (bootstrap over items) of the mean paired difference decides. Against the
    stage-1 model too, so that small losses do not add up; and in every group by itself. docs/loop.md has all
    checks. Raises GateError if that cannot be told.
    """
    missing = set(WHO) - set(candidate.logps)
    if missing:
        raise GateError(f"no scores of {', '.join(sorted(missing))}", mend="let the trainer score all three models")
    how = _How(draws, np.random.default_rng(seed))
    checks = [
        non_inferior(
            candidate.logps[CANDIDATE],
            candidate.logps[than],
            than,
            exam,
            margin=rules.margin,
            draws=how.draws,
            rng=how.rng,
        )
        for than in (CHAMPION, STAGE1)
    ]
    checks += [
        check
        for than in (CHAMPION, STAGE1)
        if (check := worst_group(candidate.logps, than, exam, margin=rules.worst, how=how)) is not None
    ]
    checks += _spread_and_moved(candidate.logps, exam, rules, how)
    checks += _no_worse(candidate, lessons, rules, how)
    checks += _learned(candidate, lessons.cells, rules, how)
    checks += _beyond(candidate, lessons, rules, how)
    return GateResult(tuple(checks), (*lessons.notes, *_untold(candidate, lessons, exam)))


@dataclass(frozen=True)
class _How:
    draws: int
    rng: np.random.Generator

    def ratio(
        self,
        top_C: Floats,
        clusters: Sequence[str],
        bottom_C: Floats | None = None,
        bounds: tuple[float, float] = (-np.inf, np.inf),
    ) -> Estimate:
        """sum(top) / sum(bottom) (None: a mean), clusters resampled; of a single cluster there is no interval."""
        bottom_C = np.ones(len(top_C)) if bottom_C is None else bottom_C
        names, cluster_C = np.unique(clusters, return_inverse=True)
        value = float(top_C.sum() / bottom_C.sum()) if bottom_C.sum() > 0 else float("nan")
        drawn_B = np.zeros(0)
        if len(names) > 1:
            picks_BI = self.rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=self.draws)
            drawn_B = ratio_draws(Parts(top_C, bottom_C), cluster_C, picks_BI.astype(np.float64))
        return interval(value, drawn_B, n=len(top_C), clusters=len(names), bounds=bounds)


# Of the people


def non_inferior(
    new: Logps, old: Logps, than: str, exam: Distances, *, margin: float, draws: int, rng: np.random.Generator
) -> Check:
    """Whether survey distance on the select part grew by less than ``margin`` bits.

    The upper end of the 95 % interval (bootstrap over items) of the mean paired difference decides.
    Raises GateError where nothing bounds it.
    """
    worse_C, keys = _worse(new, old, than, exam)
    items = [item for _, item, _ in keys]
    if len(set(items)) < 2:
        raise GateError(
            "the select part asks fewer than two items, so nothing bounds a loss of survey distance",
            where="splits",
            mend="use a survey with more items",
        )
    figure = _How(draws, rng).ratio(worse_C, items)
    means = f"on average over questions and groups, how much further from the people than {than} the answers are"
    return _at_most(SURVEY_LOST.format(than=than), figure, margin, means)


def worst_group(logps: Mapping[str, Logps], than: str, exam: Distances, *, margin: float, how: _How) -> Check | None:
    """The same in the group with the largest upper bound; None where no group is asked by itself.

    A group is a level of a trait, with all cells that name it. That each of them must pass needs no correction for
    how many there are: it makes the rule stricter, not laxer.
    """
    worse_C, keys = _worse(logps[CANDIDATE], logps[than], than, exam)
    found = [
        (how.ratio(worse_C[mask_C], [keys[c][1] for c in np.flatnonzero(mask_C)]), name)
        for name, mask_C in _levels(keys).items()
    ]
    found = [one for one in found if np.isfinite(one[0].high)]
    if not found:
        return None
    figure, name = max(found, key=lambda one: one[0].high)
    means = f"the same in {name}, where it is worst of {len(found)} groups"
    return _at_most(f"{SURVEY_LOST.format(than=than)} in the worst group, {name}", figure, margin, means)


def _untold(candidate: Candidate, lessons: Lessons, exam: Distances) -> list[str]:
    """What the checks leave out, and why."""
    _, keys = exam.distances(candidate.logps[CANDIDATE], part="select")
    few = [name for name, mask_C in _levels(keys).items() if len({keys[c][1] for c in np.flatnonzero(mask_C)}) < 2]
    notes = [f"{name} not judged by themselves: a single question of the select part is asked of them" for name in few]
    if 0 < (held := len(set(_prompts(lessons.held)))) < FEWEST_HELD:
        notes.append(f"too few corrected prompts were held out to tell of a loss there: {held}, not {FEWEST_HELD}")
    right = [
        prefers(np.asarray(logp_K), cell)
        for logp_K, cell in zip(candidate.before, lessons.cells, strict=True)
        if not cell.closed and len(cell.completions) > 1
    ]
    if any(right):
        why = "whole texts are compared, and a shorter one has the advantage: they count as no mistakes"
        notes.append(f"{sum(right)} of {len(right)} corrections were preferred before training ({why})")
    return notes


def _levels(keys: Keys) -> dict[str, np.ndarray]:
    """Masks [C] by level of a trait; those of few items together."""
    names = [set(group.split(" & ")) if group != EVERYONE.name else set() for _, _, group in keys]
    masks = {
        level: np.array([level in one for one in names]) for level in dict.fromkeys(n for one in names for n in one)
    }
    items_C = np.array([item for _, item, _ in keys])
    few = [level for level, mask_C in masks.items() if len(set(items_C[mask_C])) < FEWEST_ITEMS]
    small = {"the small groups": np.any([masks[level] for level in few], axis=0)} if few else {}
    return {level: mask_C for level, mask_C in masks.items() if level not in few} | small


def _worse(new: Logps, old: Logps, than: str, exam: Distances) -> tuple[Floats, Keys]:
    new_C, keys = exam.distances(new, part="select")
    old_C, old_keys = exam.distances(old, part="select")
    worse_C = np.asarray(new_C) - np.asarray(old_C)
    if keys != old_keys or len(worse_C) != len(keys) or not np.isfinite(worse_C).all():
        raise GateError(f"the candidate and {than} were not scored on the same cells", mend="score both on exam.cells")
    return worse_C, keys


def _spread_and_moved(logps: Mapping[str, Logps], exam: Measured, rules: GateConfig, how: _How) -> list[Check]:
    """Answers as spread as the stage-1 model's (their entropy), and near them (KL)."""
    new_CK, keys = exam.shares(logps[CANDIDATE], part="select")
    old_CK, _ = exam.shares(logps[STAGE1], part="select")
    items, checks = [item for _, item, _ in keys], []
    if rules.dispersion is not None:
        low, high = rules.dispersion
        figure = how.ratio(entropy_bits(new_CK), items, entropy_bits(old_CK), bounds=(0.0, np.inf))
        means = "entropy of the answers over that of the stage-1 model's: "
        name = "spread of answers over stage1's"
        narrow = bool(figure.low >= low)
        checks.append(Check(f"{name}, not narrower", figure, "lower bound at least", low, narrow, means + "certainty"))
        wide = bool(figure.high <= high)
        checks.append(Check(f"{name}, not wider", figure, "upper bound at most", high, wide, means + "blurring"))
    if rules.kl is not None:
        floor = np.finfo(np.float64).tiny
        ratio_CK = np.log(np.maximum(new_CK, floor)) - np.log(np.maximum(old_CK, floor))
        figure = how.ratio(np.nansum(new_CK * ratio_CK, axis=1), items, bounds=(0.0, np.inf))
        means = "how far the answers have moved from the stage-1 model's, in whatever direction"
        checks.append(_at_most("KL of survey answers from stage1 (nats)", figure, rules.kl, means))
    return checks


def _at_most(name: str, figure: Estimate, limit: float, means: str) -> Check:
    return Check(name, figure, "upper bound at most", limit, bool(figure.high <= limit), means)


# Of what else it could


def _no_worse(candidate: Candidate, lessons: Lessons, rules: GateConfig, how: _How) -> list[Check]:
    """The share of regression prompts on which the wanted answers lead must not drop."""
    if rules.regression_margin is None or not lessons.regression:
        return []
    right = {who: _share(_asked(candidate, who, REGRESSION, lessons), lessons.regression, leads) for who in WHO}
    found = []
    for than in (CHAMPION, STAGE1):
        figure = how.ratio(right[CANDIDATE] - right[than], _prompts(lessons.regression), bounds=(-1.0, 1.0))
        passed = bool((figure.low if np.isfinite(figure.low) else figure.value) >= -rules.regression_margin)
        means = f"change, against {than}, in the share of prompts whose wanted answers are the more probable ones"
        name = f"regression prompts kept, against {than} (change in share)"
        found.append(Check(name, figure, "lower bound at least", -rules.regression_margin, passed, means))
    return found


# Of what it was for


def _learned(candidate: Candidate, cells: Sequence[Cell], rules: GateConfig, how: _How) -> list[Check]:
    """Whether feedback moved the model: log-ratios (nats), and which corrections it now prefers."""
    if not cells or len(candidate.before) != len(cells) or len(candidate.after) != len(cells):
        raise GateError(
            "the feedback cells were not scored before and after", mend="let the trainer score each of them"
        )
    before, after = _arrays(candidate.before), _arrays(candidate.after)
    if not all(np.isfinite(one_K).all() for one_K in (*before, *after)):
        raise GateError("a feedback cell's log-probability is not finite", mend="lower update.learning_rate")
    checks: list[Check] = []
    open_F = [f for f, cell in enumerate(cells) if not cell.closed]
    if open_F:
        moved_F = np.array([_moved(after[f] - before[f], cells[f]) for f in open_F])
        figure = how.ratio(moved_F, [str(f) for f in open_F])
        means = "how much more the wanted answers gained than the unwanted ones"
        checks.append(Check("feedback learned (log-ratio, nats)", figure, "above", 0.0, figure.value > 0, means))
    if corrected := [f for f in open_F if len(cells[f].completions) > 1]:
        some = [cells[f] for f in corrected]
        was_F, now_F = (_share([side[f] for f in corrected], some, prefers) for side in (before, after))
        share, was = how.ratio(now_F, _prompts(some), bounds=(0.0, 1.0)), float(was_F.mean())
        means = "share of corrections that are more probable than the answers they correct"
        rule = "not below what it was before"
        checks.append(Check("corrections preferred (share)", share, rule, was, share.value >= was, means))
        if (mistakes_F := was_F == 0).any():
            checks.append(_least(now_F, mistakes_F, some, "mistakes no longer made (share)", rules.corrected, how))
    if closed := [f for f, cell in enumerate(cells) if cell.closed]:
        wanted = [np.array(cells[f].desirable) / sum(cells[f].desirable) for f in closed]
        lost_F = np.array(
            [
                float(jsd_bits(_softmax(after[f]), want_K) - jsd_bits(_softmax(before[f]), want_K))
                for f, want_K in zip(closed, wanted, strict=True)
            ]
        )
        figure = how.ratio(lost_F, [str(f) for f in closed])
        name, means = "distance from posted shares (change, JSD, bits)", "shares that people posted came nearer"
        checks.append(Check(name, figure, "below", 0.0, figure.value < 0, means))
    return checks


def _beyond(candidate: Candidate, lessons: Lessons, rules: GateConfig, how: _How) -> list[Check]:
    """Corrections in other words, ones that were not trained, and those of earlier updates.

    What was learned is held against what the training started from: a champion that a rebuild replaces has learned the
    same already.
    """
    checks: list[Check] = []
    right = {
        (name, who): _share(_asked(candidate, who, name, lessons), cells, prefers)
        for name, cells in lessons.ask.items()
        if name != REGRESSION
        for who in (START, CHAMPION, CANDIDATE)
    }
    if lessons.paraphrases:
        was_F, now_F = right[PARAPHRASES, START], right[PARAPHRASES, CANDIDATE]
        if (mistakes_F := was_F == 0).any():
            name = "mistakes no longer made, in other words (share)"
            checks.append(_least(now_F, mistakes_F, lessons.paraphrases, name, rules.paraphrased, how))
    if lessons.held:
        change_F = right[HELD, CANDIDATE] - right[HELD, START]
        figure = how.ratio(change_F, _prompts(lessons.held), bounds=(-1.0, 1.0))
        limit = -rules.held_out if len(set(_prompts(lessons.held))) >= FEWEST_HELD else -1.0
        passed = bool((figure.low if np.isfinite(figure.low) else figure.value) >= limit)
        means = "change in the share of corrections preferred, among those that were kept out of training"
        name = "held-out corrections (change in share)"
        checks.append(Check(name, figure, "lower bound at least", limit, passed, means))
        if (mistakes_F := right[HELD, START] == 0).any():
            name = "held-out mistakes no longer made (share)"
            # Shown; the change decides.
            checks.append(_least(right[HELD, CANDIDATE], mistakes_F, lessons.held, name, 0.0, how))
    if lessons.earlier and (kept_F := right[EARLIER, CHAMPION] == 1).any():
        name = "earlier corrections still kept (share)"
        checks.append(_least(right[EARLIER, CANDIDATE], kept_F, lessons.earlier, name, rules.kept, how))
    return checks


def _least(now_F: Floats, which_F: np.ndarray, cells: Sequence[Cell], name: str, limit: float, how: _How) -> Check:
    """Of those that are ``which``, the share that is right now: all of them were looked at, so the share decides."""
    some = [cell for cell, counts in zip(cells, which_F, strict=True) if counts]
    figure = how.ratio(now_F[which_F], _prompts(some), bounds=(0.0, 1.0))
    means = f"of {len(some)}, those where the correction is now more probable than the answer that was corrected"
    return Check(name, figure, "at least", limit, figure.value >= limit, means)


def _asked(candidate: Candidate, who: str, name: str, lessons: Lessons) -> Logps:
    found = candidate.asked.get(who, {}).get(name)
    if found is None or len(found) != len(lessons.ask[name]):
        raise GateError(f"{who} was not scored on the cells '{name}'", mend="let the trainer score all of ask")
    return found


def _prompts(cells: Sequence[Cell]) -> list[str]:
    """What is resampled: prompts, as several cells of one are no independent evidence."""
    return [cell.source if cell.source.startswith("paraphrase:") else str(cell.prompt) for cell in cells]


def _arrays(logps: Logps) -> list[Floats]:
    return [np.asarray(logp_K, dtype=np.float64) for logp_K in logps]


def _softmax(logp_K: Floats) -> Floats:
    return np.asarray(np.exp(logp_K - np.logaddexp.reduce(logp_K)))


def _share(logps: Logps, cells: Sequence[Cell], right: Callable[[Floats, Cell], bool]) -> Floats:
    """1 for each cell that is right, else 0 [F]."""
    return np.array([right(logp_K, cell) for logp_K, cell in zip(_arrays(logps), cells, strict=True)], dtype=np.float64)


def _sides(values_K: Floats, cell: Cell) -> tuple[float, float]:
    """Mass-weighted mean over the desirable and over the undesirable completions (0 where none)."""
    wanted_K, unwanted_K = np.array(cell.desirable), np.array(cell.undesirable)
    wanted = float(wanted_K @ values_K / wanted_K.sum()) if wanted_K.sum() > 0 else 0.0
    unwanted = float(unwanted_K @ values_K / unwanted_K.sum()) if unwanted_K.sum() > 0 else 0.0
    return wanted, unwanted


def _moved(ratio_K: Floats, cell: Cell) -> float:
    wanted, unwanted = _sides(ratio_K, cell)
    return wanted - unwanted


def prefers(logp_K: Floats, cell: Cell) -> bool:
    """Whether the wanted completions are, on average, more probable than the unwanted ones."""
    wanted, unwanted = _sides(logp_K, cell)
    return wanted > unwanted


def leads(logp_K: Floats, cell: Cell) -> bool:
    """Whether all wanted completions together are more probable than all unwanted ones."""
    wanted_K, unwanted_K = np.array(cell.desirable) > 0, np.array(cell.undesirable) > 0
    return bool(np.logaddexp.reduce(logp_K[wanted_K]) > np.logaddexp.reduce(logp_K[unwanted_K]))
