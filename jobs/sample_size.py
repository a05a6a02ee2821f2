"""How many answers are needed: respondents for intervals, or a noise floor, small enough in every group.

    python jobs/sample_size.py --half-width 0.03 --group maori=0.17 --group pacific=0.08 --design-effect 1.4
    python jobs/sample_size.py --floor-jsd 0.002 --options 5 --group maori=0.17
    python jobs/sample_size.py --floor-tv 0.02 -c run.yaml

With --group nothing is read. Without it the run's survey is the pilot: its groups' shares of the
population (those that groups.min_n_eff keeps), its items' answers (the most demanding item counts)
and its design effect. Give one goal: a half-width of the 95 % interval of a share, or the distance
that even a perfect model would have from the sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import click
from _job import run_job, say

from valuealign.config import RunConfig
from valuealign.dataset import weighted
from valuealign.errors import ConfigError
from valuealign.population import Needed, population_shares, respondents_needed, tabulate
from valuealign.types import EVERYONE

MOST_ROWS = 20


@dataclass(frozen=True)
class Pilot:
    """What a first survey says: shares of groups, of each item's options, and what its weights cost."""

    groups: dict[str, float]
    items: list[list[float]]
    design_effect: float


def sample_size(
    config: RunConfig, group: tuple[str, ...], options: int | None, design_effect: float | None, **goals: float
) -> None:
    """Print what each group needs, the smallest first, and how many to ask in all."""
    if group:
        pilot = Pilot(_by_hand(group), [], 1.0)
    elif options is not None:
        raise ConfigError(
            "a run's items have their own options",
            where="--options",
            mend="leave --options out, or give the groups by hand with --group",
        )
    else:
        pilot = _from_run(config)
    deff = pilot.design_effect if design_effect is None else design_effect
    needed = respondents_needed(pilot.groups, options=options, pilot=pilot.items, design_effect=deff, **goals)
    _print(needed, deff, goals["assurance"])


def _by_hand(given: tuple[str, ...]) -> dict[str, float]:
    groups: dict[str, float] = {}
    for text in given:
        name, _, share = text.rpartition("=")
        if name in groups:
            raise ConfigError(f"group '{name}' twice", where=f"--group {text}", mend="give each group once")
        try:
            groups[name] = float(share)
        except ValueError:
            raise ConfigError(f"'{share}' is no share", where=f"--group {text}", mend="write NAME=0.17") from None
        if not name:
            raise ConfigError("a group without a name", where=f"--group {text}", mend="write NAME=0.17")
    return groups


def _from_run(config: RunConfig) -> Pilot:
    """The run's survey as the pilot: read, screened and weighted; nothing is held out, so it may be small."""
    survey, weights, found = weighted(config)
    shares_G = population_shares(survey, weights.weights_P, found).tolist()
    table = tabulate(survey, weights.weights_P, (EVERYONE,))
    groups = {one.name: share for one, share in zip(found, shares_G, strict=True)}
    asked = [item.id for item, n in zip(table.items, table.n_GI[0], strict=True) if n]
    items = [table.shares(item, EVERYONE).tolist() for item in asked]
    people = survey.people["person"].n_unique()
    say(f"pilot: {survey.codebook.title}, {people:,} people, {len(items)} items with answers")
    return Pilot(groups, items, weights.design_effect)


def _print(needed: Needed, design_effect: float, assurance: float) -> None:
    say(
        f"a group needs {needed.respondents:,} respondents: {needed.n_eff:,} effective, design effect {design_effect:g}"
    )
    say(f"  {'group':44}{'share':>8}{'to ask in all':>16}")
    ordered = sorted(needed.groups, key=lambda need: need.share)
    for need in ordered[:MOST_ROWS]:
        say(f"  {need.name:44}{need.share:8.1%}{need.total:16,}")
    if len(ordered) > MOST_ROWS:
        say(f"  and {len(ordered) - MOST_ROWS} larger groups")
    say(f"total: {needed.total:,} answers, a random sample in which '{ordered[0].name}' has its number with")
    say(f"  probability {assurance:g}; divide by the response rate for the number to invite")


if __name__ == "__main__":
    run_job(
        __doc__,
        sample_size,
        click.option("--group", multiple=True, metavar="NAME=SHARE", help="a group and its share of the population"),
        click.option("--half-width", type=float, help="goal: of the 95 % interval of each share, such as 0.03"),
        click.option("--floor-jsd", type=float, help="goal: noise floor, Jensen-Shannon divergence in bits"),
        click.option("--floor-tv", type=float, help="goal: noise floor, total variation"),
        click.option("--options", type=int, help="options of an item (with --group, for a noise floor)"),
        click.option("--design-effect", type=float, help="Kish's; without it the pilot's, or 1 with --group"),
        click.option("--assurance", type=float, default=0.9, show_default=True, help="probability to reach the number"),
    )
