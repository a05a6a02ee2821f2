"""How many answers are needed: respondents for a wanted half-width, or for a wanted noise floor.

Shape letter: ``K`` options of an item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from valuealign.errors import ConfigError
from valuealign.population.table import JEFFREYS, intervals

MOST = 10**7  # more people asked than in any survey: beyond it a goal or a group's share is refused


class GroupNeed(NamedTuple):
    """A group's share of the population, the respondents it needs, and the whole sample that brings them."""

    name: str
    share: float
    respondents: int
    total: int


@dataclass(frozen=True)
class Needed:
    """``n_eff`` effective respondents a group, ``respondents`` with the design effect in it; ``total`` to ask."""

    n_eff: int
    respondents: int
    total: int
    groups: tuple[GroupNeed, ...]


def respondents_needed(
    groups: Mapping[str, float],
    *,
    options: int | None = None,
    pilot: Sequence[Sequence[float]] = (),
    half_width: float | None = None,
    floor_jsd: float | None = None,
    floor_tv: float | None = None,
    design_effect: float = 1.0,
    assurance: float = 0.9,
) -> Needed:
    """Respondents that every group needs, and how many to ask in all so that the smallest group has them.

    ``groups`` maps a name to its share of the population. One goal: ``half_width`` of the 95 %
    interval of each share, or a noise floor against the whole sample, ``floor_jsd`` (Jensen-Shannon
    divergence in bits) or ``floor_tv`` (total variation). ``pilot`` holds the shares of each item
    of a first survey: the most demanding counts. Without it the worst case is taken: a share of
    one half, or equal shares of ``options``.

    ``total`` is the simple random sample in which the group has its respondents with probability
    ``assurance`` (negative binomial), and each group's is its own. Respondents answer: divide by
    the response rate for those to be invited. ``design_effect`` is Kish's, 1 or more.

    Raises ConfigError for shares, goals or pilot shares that make no sense, and where more than
    ``MOST`` would have to be asked.
    """
    _check(groups, pilot, options, design_effect, assurance)
    goals = {"half_width": half_width, "floor_jsd": floor_jsd, "floor_tv": floor_tv}
    given = {name: goal for name, goal in goals.items() if goal is not None}
    if len(given) != 1:
        raise ConfigError(
            f"{len(given) or 'no'} goals given", where=", ".join(given or goals), mend="give one of " + ", ".join(goals)
        )
    (name, goal), *_ = given.items()
    if not 0 < goal < 1:
        raise ConfigError(f"a goal of {goal:g}", where=name, mend="give a number between 0 and 1, such as 0.03")
    if name != "half_width" and not pilot and options is None:
        raise ConfigError("a noise floor hangs on the options", where=name, mend="say how many options an item has")
    shapes = [np.asarray(shares, dtype=np.float64) for shares in pilot] or [
        np.full(options or 2, 0.5 if name == "half_width" else 1 / (options or 2))
    ]
    answers = max({"half_width": _for_width, "floor_jsd": _for_jsd, "floor_tv": _for_tv}[name](s, goal) for s in shapes)
    respondents = math.ceil(round(answers * design_effect, 6))
    needs = tuple(
        GroupNeed(group, share, respondents, _to_ask(group, share, respondents, assurance))
        for group, share in groups.items()
    )
    return Needed(answers, respondents, max(need.total for need in needs), needs)


def jsd_floor(options: int, n_eff: float) -> float:
    """Expected Jensen-Shannon divergence in bits of true shares from a sample: (K - 1) / (8 n ln 2).

    Second order of the divergence, sum_k d_k^2 / (8 p_k ln 2), with E d_k^2 = p_k (1 - p_k) / n.
    """
    return (options - 1) / (8 * n_eff * math.log(2))


def tv_floor(shares_K: np.ndarray, n_eff: float) -> float:
    """Expected total variation of true shares from a sample: sum_k sqrt(p_k (1 - p_k)) / sqrt(2 pi n).

    Each share's error is normal, so its mean size is sqrt(2 / pi) standard deviations; half of their sum.
    """
    return float(np.sqrt(shares_K * (1 - shares_K)).sum() / math.sqrt(2 * math.pi * n_eff))


def half_width(share: np.ndarray | float, n_eff: float) -> np.ndarray:
    """Half the length of the printed 95 % interval of a share as counted (about 1.96 sqrt(p (1 - p) / n)).

    It does not hang on the number of options, and a shrunk target's is mostly shorter.
    """
    shares = np.asarray(share, dtype=np.float64)
    low, high = intervals(shares * n_eff + JEFFREYS, (1 - shares) * n_eff + JEFFREYS, shares)
    return np.asarray(high - low) / 2


def _for_width(shares_K: np.ndarray, goal: float) -> int:
    """The fewest answers whose widest interval is narrow enough, by bisection."""
    low, high = 0, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(shares_K, middle).max() <= goal else (middle, high)
    return _bounded(high)


def _for_jsd(shares_K: np.ndarray, goal: float) -> int:
    return _bounded(jsd_floor(max(2, int((shares_K > 0).sum())), 1) / goal)


def _for_tv(shares_K: np.ndarray, goal: float) -> int:
    return _bounded((tv_floor(shares_K, 1) / goal) ** 2)


def _to_ask(group: str, share: float, respondents: int, assurance: float) -> int:
    """The random sample in which a group has its respondents with probability ``assurance``."""
    from scipy.stats import nbinom  # half a second's import

    others = respondents * (1 / share - 1)  # as many on average
    if others <= MOST:
        others = float(nbinom.ppf(assurance, respondents, share))
    if respondents + others > MOST:
        raise ConfigError(
            f"a share of {share:g}: more than {MOST:,} people would have to be asked",
            where=f"group '{group}'",
            mend="leave the group out, sample it on its own (share 1), or ask for a wider half-width or a higher floor",
        )
    return respondents + int(others)


def _bounded(answers: float) -> int:
    if answers >= MOST:
        raise ConfigError("more respondents than any survey has", mend="ask for a wider half-width or a higher floor")
    return max(1, math.ceil(answers))


def _check(
    groups: Mapping[str, float],
    pilot: Sequence[Sequence[float]],
    options: int | None,
    design_effect: float,
    assurance: float,
) -> None:
    if not groups:
        raise ConfigError("no groups", where="groups", mend="name a group and its share, such as maori=0.17")
    for name, share in groups.items():
        if not 0 < share <= 1:
            raise ConfigError(f"a share of {share:g}", where=f"group '{name}'", mend="a fraction of the population")
    if options is not None and options < 2:
        raise ConfigError(f"{options} options", where="options", mend="a question has at least two")
    for number, shares in enumerate(pilot, start=1):
        if len(shares) < 2 or min(shares) < 0 or not math.isclose(math.fsum(shares), 1, abs_tol=1e-6):
            raise ConfigError(
                f"{len(shares)} shares that sum to {math.fsum(shares):g}",
                where=f"pilot item {number}",
                mend="give the shares of at least two options, none negative, sum 1",
            )
    if not design_effect >= 1 or math.isinf(design_effect):
        raise ConfigError(f"a design effect of {design_effect:g}", where="design_effect", mend="give 1 or more")
    if not 0 < assurance < 1:
        raise ConfigError(f"an assurance of {assurance:g}", where="assurance", mend="give a probability such as 0.9")
