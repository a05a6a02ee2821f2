"""What one should know of the data, a line each: printed by every job, and kept in every report and datasheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from valuealign.dataset.build import Dataset
from valuealign.population import list_groups, missing_countries, outcome_shares, repair, styles
from valuealign.types import EVERYONE

# More items, groups or units than this are not all named in a line.
NAMED = 12


def facts(dataset: Dataset) -> dict[str, str]:
    """The facts of a data set: name -> what is so."""
    survey, weights, asked = dataset.survey, dataset.weights, dataset.asked.people
    book = survey.codebook
    persons = asked["person"].n_unique()
    rows = "" if persons == asked.height else f" in {asked.height:,} interviews"
    gone = asked.height - survey.people.height
    dropped = f", {gone:,} of them dropped by screens" if gone else ""
    found = {
        "survey": book.title,
        "asked": f"{persons:,} people{rows}{dropped}; {len(book.items)} items",
        "everyone": weights.everyone,
        "weights": _how_weighted(dataset),
        "design effect": f"{weights.design_effect:.3f}, so worth {weights.n_eff:,.0f} people",
    }
    if weights.gaps:
        before, after = (max(abs(getattr(gap, at) - gap.target) for gap in weights.gaps) for at in ("before", "after"))
        found["largest gap to a margin"] = f"{100 * before:.2f} points before, {100 * after:.2f} after"
    if survey.truth is not None:
        error = repair(survey, weights.weights_P)
        found["error of the targets against the known truth"] = (
            f"{error.before:.4f} before raking, {error.after:.4f} after (mean total variation)"
        )
    if outcomes := _outcomes(dataset):
        found["answered with no option"] = outcomes
    if book.label_only:
        found["items with a label only (no question wording)"] = ", ".join(book.label_only)
    found |= _countries(dataset)
    notes = (*survey.notes, *weights.notes, *dataset.screened.notes)
    found |= {f"note {number}": note for number, note in enumerate(notes, start=1)}
    found["answering styles"] = "; ".join(note for style in styles(survey, weights.weights_P) for note in style.notes)
    held = ", ".join(f"{name}/{part} {len(pairs)}" for (name, part), pairs in sorted(dataset.splits.pairs.items()))
    found |= {"groups": _groups(dataset), "held out": held}
    if units := dataset.splits.units:
        found["items that stay together (families and near-duplicates)"] = _named([" + ".join(unit) for unit in units])
    if dataset.shrunk is not None and len(dataset.groups) > 1:
        pull_GI = dataset.shrunk.pull_GI[[group != EVERYONE for group in dataset.groups]]
        towards = "what their traits say" if dataset.config.groups.shrink == "traits" else "everyone"
        found[f"training targets drawn towards {towards}"] = (
            f"by {np.nanmedian(pull_GI):.0%} in the median cell, {np.nanmax(pull_GI):.0%} at most (empirical Bayes)"
        )
    return found


def _how_weighted(dataset: Dataset) -> str:
    weights = dataset.weights
    trimmed = f"; {weights.trimmed:,} trimmed" if weights.trimmed else ""
    if weights.gaps:
        return f"fitted to known margins{trimmed}"
    given = dataset.config.survey.weight or dataset.survey.codebook.weight
    own = "the survey's own" if given else "none: all count alike"
    rescaled = ", but each country brought to its part of everyone" if weights.rescaled else ""
    return f"{own}{rescaled}; no margins given{trimmed}"


def _groups(dataset: Dataset) -> str:
    """How many there are, and how many were left out and why."""
    config = dataset.config.groups
    found = list_groups(dataset.survey, dataset.weights.weights_P, config)
    left = [
        f"{found.small:,} worth fewer than {config.min_n_eff:g} people (groups.min_n_eff)" if found.small else "",
        f"{found.beyond:,} beyond the largest (groups.max_groups)" if found.beyond else "",
    ]
    out = " and ".join(text for text in left if text)
    return f"{len(dataset.groups):,}" + (f"; left out: {out}" if out else "")


def _countries(dataset: Dataset) -> dict[str, str]:
    """Which targets do not speak for all countries, where everyone is all of them."""
    if dataset.config.weighting.everyone not in ("adults", "equal"):
        return {}
    missing = missing_countries(dataset.survey, dataset.weights.weights_P, dataset.groups)
    if missing is None:
        return {}
    found = {}
    for kind, lacking, total in (
        ("items", missing.items, len(dataset.survey.codebook.items)),
        ("groups", {group.name: those for group, those in missing.groups.items()}, len(dataset.groups)),
    ):
        if lacking:
            named = _named([f"{name} without {', '.join(those)}" for name, those in lacking.items()], "; ")
            found[f"{kind} that speak for some countries only"] = f"{len(lacking):,} of {total:,}: {named}"
    if missing.pairs:
        found["more (item, group) pairs that speak for some countries only"] = f"{missing.pairs:,}"
    if missing.item:
        found["countries' parts among those who answered an item"] = (
            f"at most {100 * missing.shift:.1f} points from their parts of everyone ({missing.item}, {missing.country})"
        )
    return found


def _named(names: Sequence[str], between: str = ", ") -> str:
    return between.join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _outcomes(dataset: Dataset) -> str:
    """How often each outcome occurs; empty where none does."""
    book = dataset.survey.codebook
    if not book.outcomes:
        return ""
    shares_IO = outcome_shares(dataset.survey, dataset.weights.weights_P, (EVERYONE,))[0]
    parts = []
    for o, name in enumerate(book.outcomes):
        if np.nansum(shares_IO[:, o]):
            worst = int(np.nanargmax(shares_IO[:, o]))
            most = f"{shares_IO[worst, o]:.1%}, {book.items[worst].id}"
            parts.append(f"{name} {np.nanmean(shares_IO[:, o]):.1%} of those asked (most: {most})")
    return "; ".join(parts)
