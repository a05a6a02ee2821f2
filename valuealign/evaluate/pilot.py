"""All items of a survey rectified: a pilot of held-out people, the model's answers by group, and other people's truth.

Shape letters: ``P`` people (rows of the survey), ``G`` groups, ``I`` items, ``K`` options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from valuealign.dataset import LEAST_N
from valuealign.errors import ModelError, SplitError, SurveyError
from valuealign.evaluate.record import Row
from valuealign.evaluate.rectify import FEWEST, Frame, Rectified, rectify
from valuealign.evaluate.sheet import mean_rows
from valuealign.metrics import Floats, softmax, total_variation
from valuealign.population import ShareTable, membership, person_codes, tabulate
from valuealign.prompts import Template
from valuealign.signals import question
from valuealign.splits import Splits
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Cell, Group, Item, Target

Bools = NDArray[np.bool_]
MODEL, PILOT, RECTIFIED, FLOOR = "model alone", "pilot alone", "PPI++", "a perfect estimate"


@dataclass(frozen=True)
class Beside:
    """One item's rectified shares, and the ``truth``: shares counted among people who are not in the pilot."""

    item: Item
    rectified: Rectified
    truth: Target


@dataclass(frozen=True)
class Pilot:
    """Who is asked, who is known by traits alone, and against whom the estimate is held.

    ``pilot_P`` are the rows whose answers are used, ``frame_P`` those whose traits are (nobody of
    the pilot), ``truth_P`` those whose answers are the truth. Made by ``draw_pilot``.
    """

    survey: Survey
    weights_P: Floats
    groups: tuple[Group, ...]
    pilot_P: Bools
    frame_P: Bools
    truth_P: Bools

    @cached_property
    def belongs_PG(self) -> csr_array:
        """What each group counts for each row: those of its groups that have most traits, alike; rows sum to 1."""
        member_PG = membership(self.survey, self.groups)
        depth_G = np.array([len(group.traits) for group in self.groups], dtype=np.int8)
        finest_PG = member_PG & (depth_G == np.max(member_PG * depth_G, axis=1, keepdims=True))
        row, column = np.nonzero(finest_PG)
        return csr_array((1 / finest_PG.sum(axis=1)[row], (row, column)), shape=finest_PG.shape)

    @cached_property
    def asked(self) -> tuple[Group, ...]:
        """The groups that are among the finest of somebody: all that the model need be asked for."""
        used_P = self.pilot_P | self.frame_P
        return tuple(self.groups[g] for g in np.unique(self.belongs_PG[used_P].indices))

    def cells(self, template: Template | None = None) -> tuple[Cell, ...]:
        """What a model is asked, by ``template`` (None: the default one): items outermost, each of every group."""
        flat = [(item, [0.0] * len(item.options)) for item in self.survey.codebook.items]
        return tuple(
            question(item, group, shares, shares, n_eff=0.0, template=template)
            for item, shares in flat
            for group in self.asked
        )

    def known_shares(self, table: ShareTable) -> list[Floats]:
        """``cells`` answered by a table in place of a model: its groups' shares as log-probabilities.

        Where nobody of a group answered an item, everyone's shares stand in (flat where there are none).
        """
        found = []
        for item in self.survey.codebook.items:
            flat_K = np.full(len(item.options), 1.0 / len(item.options))
            everyone_K = table.shares(item.id, EVERYONE)
            for group in self.asked:
                mine_K = table.shares(item.id, group)
                known = (one for one in (mine_K, everyone_K, flat_K) if not np.isnan(one).any())
                found.append(np.log(np.maximum(next(known), 1e-12)))
        return found

    def rectify(self, logps: Sequence[Floats]) -> tuple[Beside, ...]:
        """Every item that ``FEWEST`` persons of the pilot answered, from raw log-probabilities (nats) of ``cells``.

        An item speaks of those who answer it, so its frame are the people who did: that they
        answered is used, and not what. Items that fewer than ``LEAST_N`` of the truth's people answered are left out.
        Raises SurveyError where no item is left, ModelError for log-probabilities that are NaN or leave no option.
        """
        items, groups = self.survey.codebook.items, len(self.asked)
        place = {group: g for g, group in enumerate(self.groups)}
        belongs_PG = self.belongs_PG[:, [place[group] for group in self.asked]]
        truth = tabulate(self.survey, self.weights_P, (EVERYONE,), multiplicity_P=self.truth_P)
        found = []
        for i, item in enumerate(items):
            logp_GK = np.stack([np.asarray(one, dtype=np.float64) for one in logps[i * groups : (i + 1) * groups]])
            if np.isnan(logp_GK).any() or not np.isfinite(logp_GK.max(axis=1)).all():
                mend = "the training diverged: lower its learning_rate"
                raise ModelError("the log-probabilities are not finite", where=item.id, mend=mend)
            shares_GK = softmax(logp_GK)
            one = self._item(item, shares_GK, belongs_PG, truth)
            found += [one] if one else []
        if not found:
            what = f"no item was answered by {FEWEST} persons of the pilot"
            raise SurveyError(what, where="--pilot", mend="choose a larger one, or read more people")
        return tuple(found)

    def _item(self, item: Item, shares_GK: Floats, belongs_PG: csr_array, truth: ShareTable) -> Beside | None:
        answer_P = self.survey.people[item.id].fill_null(-1).to_numpy().astype(np.int64)
        person_P, _ = person_codes(self.survey)
        answered_P = (answer_P >= 0) & (self.weights_P > 0)
        ours, others = np.flatnonzero(self.pilot_P & answered_P), np.flatnonzero(self.frame_P & answered_P)
        enough = len(np.unique(person_P[ours])) >= FEWEST and len(np.unique(person_P[others])) >= FEWEST
        if not enough or truth.n_GI[0, truth.item_index[item.id]] < LEAST_N:
            return None
        frame = Frame.sample(belongs_PG[others] @ shares_GK, self.weights_P[others], person_P[others])
        guess_NK = belongs_PG[ours] @ shares_GK
        found = rectify(answer_P[ours], guess_NK, self.weights_P[ours], frame, person_N=person_P[ours])
        return Beside(item, found, truth.target(item.id, EVERYONE))


def draw_pilot(
    survey: Survey, weights_P: Floats, groups: Sequence[Group], splits: Splits, *, persons: int, seed: int
) -> Pilot:
    """``persons`` persons drawn at random from the report people; the other report people are the truth.

    Everybody outside the pilot is known by traits. ``groups`` must hold ``EVERYONE``. Raises
    SplitError where the pilot would be too small, or leave too few for the truth.
    """
    assert EVERYONE in groups, "everybody must be in some group"
    person_P, _ = person_codes(survey)
    held_P = splits.people("report")
    everybody_P = held_P | splits.people("train") | splits.people("select")
    there = np.unique(person_P[held_P])
    if persons < FEWEST or len(there) - persons < FEWEST:
        raise SplitError(
            f"a pilot of {persons} out of {len(there)} held-out people",
            where="--pilot",
            mend=f"at least {FEWEST} must be in it and {FEWEST} outside: choose another size, or read more people",
        )
    chosen = np.random.default_rng([seed, 0x70696C6F74]).permutation(there)[:persons]
    inside_P = np.isin(person_P, chosen)
    return Pilot(survey, weights_P, tuple(groups), inside_P & held_P, everybody_P & ~inside_P, held_P & ~inside_P)


def as_table(found: Sequence[Beside]) -> pl.DataFrame:
    """A row for each option: the model alone, the pilot alone, PPI++ and the truth, with their 95 % limits."""
    rows = [
        {
            "item": one.item.id,
            "option": option.text,
            "model": r.model[k],
            "pilot": r.pilot[k].value,
            "pilot_low": r.pilot[k].low,
            "pilot_high": r.pilot[k].high,
            "rectified": r.shares[k].value,
            "rectified_low": r.shares[k].low,
            "rectified_high": r.shares[k].high,
            "truth": one.truth.shares[k],
            "truth_low": one.truth.low[k],
            "truth_high": one.truth.high[k],
            "lambda": r.lambda_,
            "n": r.n,
            "n_eff": r.n_eff,
            "worth": r.worth,
        }
        for one in found
        for r in (one.rectified,)
        for k, option in enumerate(one.item.options)
    ]
    return pl.DataFrame(rows)


def how_far(found: Sequence[Beside]) -> list[Row]:
    """Total variation from the truth's people of the model, the pilot and PPI++, over items, and paired differences.

    ``a perfect estimate`` is what the true shares themselves would be away from a sample as large as
    the truth's: the normal approximation, sum over options of sqrt(2 p (1 - p) / (pi n_eff)) / 2.
    """
    values: dict[str, list[float]] = {MODEL: [], PILOT: [], RECTIFIED: [], FLOOR: []}
    for one in found:
        truth_K, r = np.array(one.truth.shares), one.rectified
        guesses = {MODEL: r.model, PILOT: [e.value for e in r.pilot], RECTIFIED: [e.value for e in r.shares]}
        for who, shares_K in guesses.items():
            values[who].append(float(total_variation(np.array(shares_K), truth_K)))
        values[FLOOR].append(float(np.sqrt(2 * truth_K * (1 - truth_K) / (np.pi * one.truth.n_eff)).sum() / 2))
    note = "over items; one and the same pilot for all of them"
    return mean_rows("rectification", "total_variation", values, bounds=(0.0, 1.0), note=note)
