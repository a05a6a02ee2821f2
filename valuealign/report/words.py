"""What the figures say, in sentences: every number in them is read from the record."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from valuealign.evaluate import BASELINE, BEHAVIOUR, FLOOR, HALF, REGRESSION, UNNAMED, Evaluation, Row
from valuealign.metrics import METRICS
from valuealign.types import Estimate

NULLS = ("uniform", "marginal", "others", "additive", REGRESSION, "training items", "persistence")
COLUMNS = ("everyone", "cells", "groups", "items", "waves", "survey")
WORDS = {
    "uniform": "guess: all answers alike",
    "marginal": "guess: everyone's average",
    "others": "guess: mean of other groups",
    "additive": "guess: traits added up",
    REGRESSION: "guess: regression on traits",
    "training items": "guess: mean of other questions",
    "persistence": "guess: as in the earlier waves",
    FLOOR: "noise floor",
    HALF: "split-half",
}
SPLIT_WORDS = {
    "everyone": "no group named, question trained",
    "cells": "question and group known, not together",
    "groups": "group never trained",
    "items": "question never trained",
    "seen": "trained cells, other people",
    "waves": "trained cells, in waves never trained",
    "survey": "another survey, of which nothing was trained",
}
# What a split asks, as the beginning of a sentence.
ASKED = {
    "everyone": "With no group named",
    "cells": "Asked trained questions of a group that was not trained on them",
    "groups": "Asked of groups that were never trained",
    "items": "Asked questions that were never trained",
    "seen": "Asked what it was trained on",
    "waves": "Asked about waves that were never trained",
    "survey": "Asked another survey's questions",
}
# Explanations under the table, each a plain sentence.
LEGEND = (
    "Lower is better. Every figure compares answers with {people} people who took no part in training.",
    "noise floor: what a perfect model would score against this many people; nothing honest goes lower for long.",
    "split-half: the training people's own answers, held against these people's.",
    "guess: what can be said without a model, from the training people; a model below it has learnt something.",
    "(in brackets): that guess reads the very answers that are held out here; no model could know them.",
    "everyone: no group is named (the headline); cells: question and group were trained, but not together; groups: the"
    " group is new; items: the question is new; waves: the wave is new.",
    "dispersion: 1 means answers as varied as the people's, under 1 a model that is too sure (split '{shown}').",
    "on options: how much of the model's probability falls on the listed answers at all (split '{shown}').",
)
# What a survey's tier lets one do with a report about it.
MAY = {
    "open": "The survey's licence ({licence}; tier open) lets these figures be passed on.",
    "aggregates": "The survey's licence ({licence}; tier aggregates) lets figures of groups be passed on, and nothing"
    " that speaks of single persons: not the table of careless answers.",
    "closed": "Not to be passed on: the survey's licence ({licence}; tier closed) lets nothing of it leave this house.",
}
WITHHELD = {"cells": "cells' own figures", "value_profiles": "groups' value profiles"}
REWORDED_LEGEND = "(in brackets after a model): the same model, asked or read in another way."
AUC_LEGEND = "behaviour: how often an answer people called desirable beats one they did not; 0.5 is chance{note}."


def title_of(metric: str) -> str:
    """What a table of a metric is called, with its unit."""
    unit = "thousandths of a bit" if metric == "jsd_bits" else f"thousandths, {METRICS[metric].unit}"
    how = ", log base 2, no root" if metric == "jsd_bits" else ""
    return f"How far answers are from the people's: {METRICS[metric].title} ({unit}{how})"


def find(evaluation: Evaluation, split: str, who: str, metric: str) -> Row | None:
    """The row, if there is one whose figure exists."""
    try:
        row = evaluation.row(split, who, metric)
    except KeyError:
        return None
    return row if math.isfinite(row.estimate.value) else None


def columns(evaluation: Evaluation) -> list[str]:
    """The splits that the table shows."""
    there = set(evaluation.splits)
    return [split for split in COLUMNS if split in there]


def shown_split(evaluation: Evaluation) -> str:
    """The split whose dispersion and raw mass the table shows: the headline, where it is there; empty without any."""
    return next((split for split in (*COLUMNS, "seen") if split in evaluation.splits), "")


def before(evaluation: Evaluation) -> str:
    """What the last stage is held against: the first of two versions compared, else the first stage of all."""
    return str(evaluation.facts.get("before", evaluation.stages[0]))


def models(evaluation: Evaluation) -> list[str]:
    """The stages, each followed by itself asked or read in other ways."""
    reworded = dict.fromkeys(row.who for row in evaluation.rows if row.kind == "reworded")
    found: list[str] = []
    for stage in evaluation.stages:
        found += [stage, *(who for who in reworded if who.startswith(f"{stage} ("))]
    return found


def words(evaluation: Evaluation, who: str) -> str:
    """Whose figure a row is, in words."""
    return who if who in evaluation.stages else WORDS.get(who, who)


def legend(evaluation: Evaluation) -> list[str]:
    """The sentences below the table."""
    people = evaluation.facts.get("people", "the")
    oracle = any(row.kind == "oracle" for row in evaluation.rows)
    kept = [line for line in LEGEND if oracle or not line.startswith("(in brackets)")]
    shown = shown_split(evaluation)
    lines = [line.format(people=f"{people:,}" if isinstance(people, int) else people, shown=shown) for line in kept]
    lines += [REWORDED_LEGEND] if any(row.kind == "reworded" for row in evaluation.rows) else []
    auc = next((row for row in evaluation.rows if row.split == BEHAVIOUR), None)
    return [*lines, AUC_LEGEND.format(note=f" ({auc.note})" if auc.note else "")] if auc else lines


def may(licence: str, tier: str) -> str:
    """What a survey's licence lets one do with a report about it."""
    return MAY[tier].format(licence=licence or "not stated")


def sharing(evaluation: Evaluation) -> list[str]:
    """What the survey's licence lets one do with the figures, and what is withheld; empty where no survey is asked."""
    facts = evaluation.facts
    if "tier" not in facts:
        return []
    held, lines = facts["withheld"], [may(facts["licence"], facts["tier"])]
    parts = [f"{held[key]:,} {what}" for key, what in WITHHELD.items() if held.get(key)]
    if parts:
        lines.append(
            f"Withheld, since fewer than {held['fewer_than']} people stand behind each: {' and '.join(parts)}."
            " They count in the means."
        )
    return lines


def findings(evaluation: Evaluation, metric: str = "jsd_bits") -> list[str]:
    """For each split what the last stage is worth over the named guess, and what it changed against the one before."""
    if not evaluation.stages:
        return []
    last, lines = evaluation.stages[-1], []
    for split in columns(evaluation):
        lines += [line] if (line := worth(evaluation, split, last, metric)) else []
    if len(evaluation.stages) > 1:
        apart = f"{last} - {evaluation.stages[-2]}"
        found = [(split, find(evaluation, split, apart, metric)) for split in columns(evaluation)]
        changes = [f"{split} {signed(row.estimate)}" for split, row in found if row]
        if changes:
            lines.append(f"{last} changed the distance by (below 0: nearer to the people): {'; '.join(changes)}.")
    return lines


def worth(evaluation: Evaluation, split: str, who: str, metric: str = "jsd_bits") -> str:
    """The gain of ``who`` over the split's named guess, and whether it beats it; empty where nothing is known."""
    null = BASELINE[split]
    try:
        gain = evaluation.row(split, who, f"gain({metric})")
    except KeyError:
        return ""
    if not math.isfinite(gain.estimate.value):
        return f"{split}: {gain.note}."
    line = f"{split}: {who} made {_share(gain, '95 %: ')} of the possible gain over '{WORDS[null]}'"
    apart = find(evaluation, split, f"{who} - {null}", metric)
    return f"{line}{_verdict(apart, null)}{_beside_regression(evaluation, split, who, metric)}"


def _verdict(apart: Row | None, null: str) -> str:
    """What the paired difference from the guess allows one to say."""
    if apart is None or apart.estimate.high < 0:
        return "."
    if null != "additive":
        known = "that guess"
    else:
        known = "a spreadsheet that adds up single traits"
    if apart.estimate.low > 0:
        return f": it is worse than {known}."
    return f": it is not shown to know anything that {known} does not."


def _beside_regression(evaluation: Evaluation, split: str, who: str, metric: str) -> str:
    """What a regression made of the same gain, and whether the model is nearer than it."""
    gain = find(evaluation, split, REGRESSION, f"gain({metric})")
    apart = find(evaluation, split, f"{who} - {REGRESSION}", metric)
    if gain is None or apart is None:
        return ""
    nearer = "nearer than it" if apart.estimate.high < 0 else "not shown to be nearer than it"
    if apart.estimate.low > 0:
        nearer = "further than it"
    return f" A regression on the groups' traits made {_share(gain)}: {who} is {nearer}."


def _share(row: Row, what: str = "") -> str:
    """A figure in per cent with its interval, if it has one."""
    one = row.estimate
    if not math.isfinite(one.low):
        return f"{percent(one.value)} (no interval)"
    return f"{percent(one.value)} ({what}{percent(one.low)} to {percent(one.high)})"


def summary(evaluation: Evaluation) -> list[str]:
    """The record for people who do not read tables: a few plain sentences, the headline first."""
    if not evaluation.stages:
        return []
    last = evaluation.stages[-1]
    found = [
        _headline(evaluation, last),
        _groups(evaluation, last),
        _variety(evaluation, last),
        _furthest(evaluation, last),
        _worst(evaluation, last),
        _behaviour(evaluation, last),
        _stands(evaluation, last),
    ]
    return [line for line in found if line]


def _people(row: Row) -> str:
    """A total variation distance as people in a hundred."""
    return f"{100 * row.estimate.value:.1f}"


def _headline(evaluation: Evaluation, last: str) -> str:
    split = shown_split(evaluation)
    mine, floor = (find(evaluation, split, who, "total_variation") for who in (last, FLOOR))
    if mine is None or floor is None:
        return ""
    line = (
        f"{ASKED[split]}, {last} answers like the people but for {_people(mine)} of every 100 answers, which would have"
        f" to be others (a perfect model, judged against these people: {_people(floor)}"
    )
    first = before(evaluation)
    then = find(evaluation, split, first, "total_variation") if first != last else None
    return line + (f"; {first}: {_people(then)})." if then else ").")


def _groups(evaluation: Evaluation, last: str) -> str:
    """Whether naming groups is worth a model at all, in the splits that hold groups out."""
    verdicts: dict[str, list[str]] = {}
    for split, what in (
        ("cells", "for known groups on questions they were not trained on"),
        ("groups", "for new groups"),
    ):
        apart = find(evaluation, split, f"{last} - additive", "jsd_bits")
        if apart is not None:
            one = apart.estimate
            verdict = "better than" if one.high < 0 else "worse than" if one.low > 0 else "not shown to be better than"
            verdicts.setdefault(verdict, []).append(what)
    known = "a spreadsheet that adds up single traits"
    said = "; ".join(f"{verdict} {known} {' and '.join(whats)}" for verdict, whats in verdicts.items())
    return f"Asked to answer as a group of people, it is {said}." if said else ""


def _variety(evaluation: Evaluation, last: str) -> str:
    row = find(evaluation, shown_split(evaluation), last, "dispersion")
    if row is None:
        return ""
    low, high, value = row.estimate.low, row.estimate.high, row.estimate.value
    if high < 1:
        how = "they are surer than people differ"
    elif low > 1:
        how = "they are less sure than people are"
    else:
        how = "not shown to differ"
    span = f"95 %: {percent(low)} to {percent(high)}"
    return f"Its answers hold {percent(value)} of the variety of the people's (entropy; {span}): {how}."


def _furthest(evaluation: Evaluation, last: str) -> str:
    apart = [(distance(one.people, one.stages[last]), one) for one in evaluation.portraits if last in one.stages]
    if len(apart) < 2:
        return ""
    (least, near), (most, far) = min(apart, key=lambda one: one[0]), max(apart, key=lambda one: one[0])
    return (
        f"It is nearest to the people on “{near.question}” ({100 * least:.1f} of 100 answers differ) and"
        f" furthest on “{far.question}” ({100 * most:.1f})."
    )


def _worst(evaluation: Evaluation, last: str) -> str:
    row = find(evaluation, "seen", last, "worst_group_jsd_bits") or find(
        evaluation, "cells", last, "worst_group_jsd_bits"
    )
    if row is None:
        return ""
    group = "a small group" if row.note == UNNAMED else f"the group {row.note}"
    return (
        f"It seems to know {group} least ({1000 * row.estimate.value:.1f} thousandths of a bit; small"
        " groups are furthest by chance too)."
    )


def _behaviour(evaluation: Evaluation, last: str) -> str:
    row = find(evaluation, BEHAVIOUR, last, "auc")
    if row is None or last == evaluation.stages[0]:
        return ""
    one = row.estimate
    shown = (
        "" if one.low > 0.5 else " (not shown to be more than chance)" if one.high >= 0.5 else " (worse than chance)"
    )
    return (
        f"Of two answers, one that people called desirable and one they did not, it moved towards the desirable one in"
        f" {percent(one.value)} of cases{shown}; 50 % is chance."
    )


def _stands(evaluation: Evaluation, last: str) -> str:
    by_who = {one.who: one for one in evaluation.standings}
    people, mine = by_who.get("people"), by_who.get(last)
    if people is None or mine is None:
        return ""

    def top(scores: Sequence[float], values: Sequence[str]) -> str:
        order = np.argsort([-score if math.isfinite(score) else math.inf for score in scores], kind="stable")
        return ", ".join(values[place] for place in order[:3])

    first, second = top(people.scores, people.values), top(mine.scores, mine.values)
    same = "and so for it" if first == second else f"for it {second}"
    return f"What matters most to the people is {first}; {same} ({people.theory})."


def distance(p: Sequence[float], q: Sequence[float]) -> float:
    """Total variation distance of two lists of shares."""
    return float(np.abs(np.asarray(p) - np.asarray(q)).sum() / 2)


def percent(share: float) -> str:
    """A share in whole per cent."""
    return f"{100 * share:.0f} %"


def signed(one: Estimate) -> str:
    """A difference in thousandths, with its interval."""
    return f"{1000 * one.value:+.1f} ({1000 * one.low:+.1f} to {1000 * one.high:+.1f})"
