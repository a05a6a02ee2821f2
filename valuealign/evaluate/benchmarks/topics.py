"""Consistency over topics: whether the group that a model is nearest to is the same one from topic to topic.

Shape letters: ``Q`` questions, ``G`` groups, ``T`` topics, ``B`` bootstrap resamples, the sample itself first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from valuealign.evaluate.benchmarks.distributions import Figure, Published
from valuealign.evaluate.benchmarks.means import numbered
from valuealign.evaluate.probes.stated import drawn_rows, resamples
from valuealign.evaluate.record import Row
from valuealign.evaluate.sheet import Heard
from valuealign.metrics import Floats
from valuealign.surveys.rows import read_rows

Topics = Mapping[str, tuple[str, ...]]  # a question's key -> its topics


def read_topics(path: Path) -> Topics:
    """A table with a row for each question and topic: ``key``, ``topic``. Raises AnswerError for what is no such."""
    rows = read_rows(path)
    rows.need(("key", "topic"), "a table of topics has a row for each question and topic: key, topic")
    found: dict[str, tuple[str, ...]] = {}
    for row in range(rows.height):
        key = rows.text("key", row)
        found[key] = (*found.get(key, ()), rows.text("topic", row))
    return found


def consistency_rows(published: Published, figure: Figure, topics: Topics, metric: str, heard: Heard) -> list[Row]:
    """For each who the part of topics whose nearest group, by ``figure``, is the one that is nearest over all: the
    mean over topics in each attribute (the first word of a group), then over attributes.

    Who has no figure (no attribute with two groups, no topic) has no row. Intervals resample questions.
    """
    asked = published.asked
    at_A = np.flatnonzero([figure.of is None or figure.of(one) for one in asked])
    question_A, group_A = (numbered([getattr(asked[a], name) for a in at_A]) for name in ("question", "group"))
    keys, groups = (list(dict.fromkeys(getattr(asked[a], name) for a in at_A)) for name in ("question", "group"))
    attribute_G = numbered([group.partition(" ")[0] for group in groups])
    named = list(dict.fromkeys(topic for key in keys for topic in topics.get(key, ())))
    about_TQ = np.array([[topic in topics.get(key, ()) for key in keys] for topic in named], dtype=np.float64)
    picks_BQ = resamples(len(keys))
    draws = {}
    for who, logps in heard.logps.items():
        value_A = figure.measure(
            published.answers_AK(logps, named=figure.named), published.people_AK, published.positions_AK
        )
        value_QG = np.full((len(keys), len(groups)), np.nan)
        value_QG[question_A, group_A] = value_A[at_A]
        draws[who] = _consistency(value_QG, about_TQ, attribute_G, picks_BQ)
    return drawn_rows(published.name, metric, draws, clusters=len(keys), bounds=(0.0, 1.0))


def _consistency(value_QG: Floats, about_TQ: Floats, attribute_G: NDArray[np.intp], picks_BQ: Floats) -> Floats:
    """The figure [B]; NaN where nothing can be said."""
    overall_BG = _means(value_QG, picks_BQ)
    by_topic = [_means(value_QG, picks_BQ * about_Q) for about_Q in about_TQ]
    parts: list[Floats] = []
    for attribute in range(attribute_G.max(initial=-1) + 1):
        mine_G = attribute_G == attribute
        if mine_G.sum() > 1:
            best_B = overall_BG[:, mine_G].argmax(-1)
            there = [np.isfinite(one_BG[:, mine_G]).sum(-1) > 1 for one_BG in by_topic]
            same = [one_BG[:, mine_G].argmax(-1) == best_B for one_BG in by_topic]
            parts.append(_part(same, there, len(best_B)))
    return _mean(np.array(parts)) if parts else np.full(len(picks_BQ), np.nan)


def _part(same: Sequence[NDArray[np.bool_]], there: Sequence[NDArray[np.bool_]], size: int) -> Floats:
    """Of the topics that are there, the part that is the same [B]."""
    if not same:
        return np.full(size, np.nan)
    return _mean(np.where(np.array(there), np.array(same, dtype=np.float64), np.nan))


def _means(value_QG: Floats, weight_BQ: Floats) -> Floats:
    """Each group's weighted mean over its questions [B, G]; minus infinity where it has none."""
    known_QG = ~np.isnan(value_QG)
    top_BG, bottom_BG = weight_BQ @ np.where(known_QG, value_QG, 0.0), weight_BQ @ known_QG.astype(np.float64)
    found: Floats = np.divide(top_BG, bottom_BG, out=np.full(top_BG.shape, -np.inf), where=bottom_BG > 0)
    return found


def _mean(value_NB: Floats) -> Floats:
    """The mean over the first axis of what is known [B]; NaN where nothing is."""
    known_NB = ~np.isnan(value_NB)
    count_B = known_NB.sum(0)
    return np.where(count_B > 0, np.where(known_NB, value_NB, 0.0).sum(0) / np.maximum(count_B, 1), np.nan)
