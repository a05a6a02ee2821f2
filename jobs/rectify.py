"""Population shares from a model and a small pilot of people, by PPI++ (docs/rectification.md).

    python jobs/rectify.py                                 # the champion, 200 people
    python jobs/rectify.py -c run.yaml --version v3 --pilot 500

The pilot is drawn from the report people, who trained nothing; the others of them are the truth
beside it. Use the configuration that the version was aligned with, so that the same people are held
out. Prints a table and writes it as CSV and JSON. Where lambda is near 0 the model is worth nothing here.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import click
import numpy as np
from _job import open_registry, run_job, say
from prepare import prepare

from valuealign import config as configuration
from valuealign.config import RunConfig
from valuealign.evaluate.pilot import Beside, as_table, draw_pilot, how_far
from valuealign.prompts import evaluate_templates
from valuealign.registry import check_base


def rectify(config: RunConfig, version: str, pilot: int) -> tuple[Beside, ...]:
    """Draw the pilot, score, rectify, print and write."""
    from valuealign.models.host import Host
    from valuealign.models.load import fingerprint, resolve

    registry = open_registry()
    found = registry.get(version, name=config.name)
    registry.verify(found)
    check_base(found, fingerprint(resolve(config.model.path, progress=say), config.model.quantize), "set model.path")
    prepared = prepare(config, progress=lambda text: None)
    if found.card.get("data_hash") not in (None, prepared.data_hash):
        say(f"note: {found.ref} was trained on other data or another split: if it saw the pilot, no interval holds")
    data = prepared.dataset
    drawn = draw_pilot(data.survey, data.weights.weights_P, data.groups, data.splits, persons=pilot, seed=config.seed)
    cells = drawn.cells(evaluate_templates(config.prompts)[0])
    say(f"scoring {found.ref}: {len(cells):,} cells, {len(drawn.asked)} groups")
    host = Host.of(config.model)
    host.load(found.id, found.path)
    items = drawn.rectify(host.score(found.id, cells))
    show(items)
    left = len(data.survey.codebook.items) - len(items)
    if left:
        say(f"{left} items are left out: too few of the pilot answered them")
    key = hashlib.sha256(f"{found.ref}\n{pilot}\n{config.seed}\n{prepared.data_hash}".encode()).hexdigest()[:8]
    folder = configuration.home() / "runs" / config.name / f"rectify-{key}"
    table = as_table(items)
    facts = {"version": found.ref, "pilot": pilot, "data_hash": prepared.data_hash, "shares": table.to_dicts()}
    _write(folder / "rectified.csv", table.write_csv())
    _write(folder / "rectified.json", json.dumps(facts, ensure_ascii=False, indent=1))
    say(f"\ntable: {folder / 'rectified.csv'}")
    return items


def show(items: tuple[Beside, ...]) -> None:
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
        e = row.estimate
        say(f"  {row.who:40} {100 * e.value:6.2f} ({100 * e.low:.2f}, {100 * e.high:.2f})")
    before, after = (
        float(np.mean([x(one.rectified) for one in items])) for x in (lambda r: r.n_eff, lambda r: r.worth)
    )
    say(f"The model is worth {after - before:.0f} respondents beside the pilot's {before:.0f} (means over items).")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


if __name__ == "__main__":
    run_job(
        __doc__,
        rectify,
        click.option("--version", default="champion", show_default=True, help="a version or alias"),
        click.option("--pilot", default=200, show_default=True, help="people of the pilot"),
    )
