"""Population shares from a model and a small pilot of people, by PPI++ (docs/rectification.md).

    python jobs/rectify.py                                 # the champion, 200 people
    python jobs/rectify.py -c run.yaml --version v3 --pilot 500

The pilot is drawn from the report people, who trained nothing; the others of them are the truth
beside it. Use the configuration that the version was aligned with, so that the same people are held
out. Prints a table and writes it as a page with charts, CSV and JSON. Where lambda is near 0 the model
is worth nothing here.
"""

from __future__ import annotations

import hashlib

import click
import numpy as np
from _job import run_job, say
from _models import hosted, say_other_data

from valuealign import config as configuration
from valuealign.config import RunConfig
from valuealign.evaluate.pilot import Beside, draw_pilot, how_far
from valuealign.prepared import prepare
from valuealign.prompts import evaluate_templates
from valuealign.report import write_rectified


def rectify(config: RunConfig, version: str, pilot: int) -> tuple[Beside, ...]:
    """Draw the pilot, score, rectify, print and write."""
    host, (found,), _ = hosted(config, (version,))
    prepared = prepare(config, progress=lambda text: None)
    say_other_data((found,), prepared.data_hash, so=": if it saw the pilot, no interval holds")
    data = prepared.dataset
    drawn = draw_pilot(data.survey, data.weights.weights_P, data.groups, data.splits, persons=pilot, seed=config.seed)
    cells = drawn.cells(evaluate_templates(config.prompts)[0])
    say(f"asking {found.ref}: {len(cells):,} cells")
    items = drawn.rectify(host.score(found.id, cells))
    show(items, drawn.rectify(drawn.known_shares(data.train)))
    if left := len(data.survey.codebook.items) - len(items):
        say(f"{left} items are left out: too few of the pilot answered them")
    key = hashlib.sha256(f"{found.ref}\n{pilot}\n{config.seed}\n{prepared.data_hash}".encode()).hexdigest()[:8]
    folder = configuration.home() / "runs" / config.name / f"rectify-{key}"
    book, facts = data.survey.codebook, {"pilot": pilot, "data_hash": prepared.data_hash}
    page = write_rectified(folder, items, version=found.ref, licence=book.licence, tier=book.tier, facts=facts)
    say(f"\nreport: {page}")
    return items


def show(items: tuple[Beside, ...], by_table: tuple[Beside, ...]) -> None:
    """Each option's shares in hundredths, then how far each way is from the truth and what the model was worth."""
    say(f"{'':32}  {'model':>6}  {'pilot alone':>18}  {'PPI++':>18}  {'other people':>18}")
    for one in items:
        r = one.rectified
        say(f"{one.item.id}: {r.n} people of the pilot, lambda {r.lambda_:.2f}, worth {r.gained:+.0f} of {r.n_eff:.0f}")
        for k, option in enumerate(one.item.options):
            spans = [(e.value, e.low, e.high) for e in (r.pilot[k], r.shares[k])]
            spans.append((one.truth.shares[k], one.truth.low[k], one.truth.high[k]))
            shown = "  ".join(f"{100 * v:5.1f} ({100 * a:4.1f}, {100 * b:4.1f})" for v, a, b in spans)
            say(f"  {option.text[:30]:30}  {100 * r.model[k]:6.1f}  {shown}")
    say("\nMean distance from the other people (total variation, hundredths; 95 % intervals over items):")
    for row in how_far(items):
        v, a, b = (100 * x for x in (row.estimate.value, row.estimate.low, row.estimate.high))
        say(f"  {row.who:40} {v:6.2f} ({a:.2f}, {b:.2f})")
    n_eff = np.mean([one.rectified.n_eff for one in items])
    model, table = (np.mean([one.rectified.gained for one in of]) for of in (items, by_table))
    say(f"\nBeside the pilot's {n_eff:.0f}, the model is worth {model:.1f} respondents (mean over items).")
    say(f"The training people's own shares by group, a table in place of a model, are worth {table:.1f}.")


if __name__ == "__main__":
    run_job(
        __doc__,
        rectify,
        click.option("--version", default="champion", show_default=True, help="a version or alias"),
        click.option("--pilot", default=200, show_default=True, help="people of the pilot"),
    )
