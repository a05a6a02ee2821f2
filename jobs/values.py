"""Value profiles: what people stand for, what a model says they stand for, and whether both show the circle.

    python jobs/values.py                                 # the people of the survey, no model
    python jobs/values.py --version champion              # beside a registered version and its base
    python jobs/values.py -c run.yaml --theory schwartz19

Scores are centred on the mean rating and divided by nothing: above 0 is more important than the rest. The circle is
that of Schwartz's theory: neighbours are alike, opposites conflict. It is judged over persons for the people, and over
the groups that it speaks for in a model, by the mean error of the values' angles and the share of random orders that
would do as well (p).
"""

from __future__ import annotations

import click
import numpy as np
from _job import run_job, say

from valuealign.config import RunConfig
from valuealign.dataset import weighted
from valuealign.evaluate import Questions, hear
from valuealign.evaluate.profiles import (
    PEOPLE,
    Profile,
    compare_profiles,
    profile_cells,
    profile_items,
    theory_of,
)
from valuealign.population import tabulate
from valuealign.prompts import evaluate_templates
from valuealign.types import Cell
from valuealign.values import THEORIES


def values(config: RunConfig, version: tuple[str, ...], theory: str | None) -> tuple[Profile, ...]:
    """Score, compare and print."""
    survey, weights, groups = weighted(config)
    chosen = THEORIES[theory] if theory else theory_of(survey)
    items = profile_items(survey, chosen)
    table = tabulate(survey, weights.weights_P, [group for group in groups if len(group.traits) <= 1])
    cells = profile_cells(items, table, evaluate_templates(config.prompts)[0])
    logps = _score(config, version, cells) if version else {}
    profiles = compare_profiles(survey, weights.weights_P, table, chosen, logps)
    say(f"{chosen.title}: {len(items)} items, {len(table.groups)} groups; {weights.everyone}\n")
    strangers = sum(bool(set(item.values) - set(chosen.values)) for item in survey.codebook.items)
    if strangers:
        say(f"note: {strangers} items measure values that this theory does not name; they count for nothing here\n")
    show(profiles)
    return profiles


def _score(config: RunConfig, refs: tuple[str, ...], cells: tuple[Cell, ...]) -> dict[str, list[np.ndarray]]:
    from _models import hosted  # without a version no model is needed

    host, _, who = hosted(config, refs)
    return dict(hear(host, who, {"values": Questions(cells)}, seed=config.seed, say=say)["values"].logps)


def _p(one: Profile) -> str:
    if one.circle is None:
        return "-"
    return f"{one.circle.p_value:.3f}" if one.circle.p_value >= 0.001 else "<.001"


def show(profiles: tuple[Profile, ...]) -> None:
    """A column for each: the profile of everyone, then the circle."""
    say("  ".join([f"{'everyone':28}", *(f"{one.who:>12}" for one in profiles)]))
    for v, value in enumerate(profiles[0].values):
        say("  ".join([f"{value:28}", *(f"{one.everyone_V[v]:>+12.3f}" for one in profiles)]))
    rows = {
        "peak of the sinusoid": [one.peak or "-" for one in profiles],
        "  its r2": ["-" if np.isnan(one.r2) else f"{one.r2:.2f}" for one in profiles],
        "circle: angle error": [f"{np.degrees(one.circle.error):.0f} deg" if one.circle else "-" for one in profiles],
        "  p": [_p(one) for one in profiles],
        "  stress": [f"{one.circle.stress:.2f}" if one.circle else "-" for one in profiles],
        "distance from people": ["-" if one.distance is None else f"{one.distance:.3f}" for one in profiles],
    }
    for name, shown in rows.items():
        say("  ".join([f"{name:28}", *(f"{text:>12}" for text in shown)]))
    for one in profiles:
        if one.why:
            say(f"{one.who}: no circle shown: {one.why}")
        elif one.circle and one.who == PEOPLE:
            say(f"\nThe people's circle is over {one.circle.n:,} persons, a model's over the groups it was asked for.")


if __name__ == "__main__":
    run_job(
        __doc__,
        values,
        click.option("--version", multiple=True, help="a version or alias (v3, champion, demo@v3); may be repeated"),
        click.option(
            "--theory", type=click.Choice([n for n, t in THEORIES.items() if t.scores_people]), help="whose values"
        ),
    )
