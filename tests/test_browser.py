"""The report as a browser shows it: on a desk, on a phone, on paper."""

from __future__ import annotations

import csv
import functools
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from known_public import the_world

from valuealign.evaluate import READOUTS, Evaluation, Heard, Standing, described
from valuealign.prompts import wordings
from valuealign.report import write_report
from valuealign.types import Estimate
from valuealign.weighting import Gap

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("CI"), reason="no Chromium here: 'make browser' installs it"
)
# Opens the report in a frame of a given width, and writes what it measures into the page.
MEASURE = """<!doctype html><body><iframe id="page" src="report.html" width="{width}" height="900"></iframe><script>
document.getElementById("page").onload = (event) => {{
  const page = event.target.contentDocument, width = page.documentElement.clientWidth;
  const drawn = [...page.querySelectorAll("svg")].filter((one) => one.checkVisibility());
  const small = drawn.filter((one) => one.getBoundingClientRect().width < 80 || !one.querySelector("path, text"));
  const out = drawn.filter((one) => one.getBoundingClientRect().right > width + 1);
  document.body.dataset.found = [page.documentElement.scrollWidth - width, drawn.length, small.length, out.length,
    page.querySelectorAll("section").length, performance.getEntriesByType("resource").length].join(" ");
}};
</script></body>"""


def chromium(*arguments: str) -> str:
    assert BROWSER is not None, "in CI a browser is installed (.ci/browser)"
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--hide-scrollbars"]
    done = subprocess.run([BROWSER, *quiet, *arguments], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@functools.cache
def full() -> Evaluation:
    """A record with everything that a report can show."""
    world = the_world()
    rng = np.random.default_rng(0)
    stages = {
        "base": [np.log(rng.dirichlet(np.ones(len(cell.completions)))) for cell in world.exam.cells],
        "distribution": world.answers(group="everyone"),
        "kto": world.answers(),
    }
    way = READOUTS["orders"](world.exam, wordings().questions["chat"])
    heard = {who: [np.log(rng.dirichlet(np.ones(len(c.completions)))) for c in way.asked.cells] for who in stages}
    assert way.sheet is not None
    values = ("freedom", "honour", "wealth", "calm", "care")
    standings = tuple(
        Standing(who, "Five values", "circle", values, tuple(rng.normal(0, 0.1, 5)),
                 {group: tuple(rng.normal(0, 0.1, 5)) for group in ("everyone", "sex=f", "sex=m")}, 0.03)
        for who in ("people", *stages)
    )  # fmt: skip
    made = replace(world.exam.judge(stages), standings=standings)
    return made.joined(way.sheet.judge(Heard(heard)), sheets=described([way.sheet]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(
        folder,
        title="A town",
        evaluation=full(),
        facts={"Whom was asked": {"survey": "A test", "a very long fact": "word " * 80}},
        behaviour={"base": Estimate(0.5, 0.5, 0.5, 9), "kto": Estimate(0.8, 0.7, 0.9, 9)},
        lineage=["data 0123", "base", "town@v1", "town@v2"],
        gaps=(Gap("sex", "f", 0.52, 0.60, 0.52), Gap("age", "18-34", 0.3, 0.1, 0.301)),
        sweep=[{"beta": 0.1, "lambda_d": 1.2, "lambda_u": 1.0, "auc": 0.8, "feasible": True},
               {"beta": 0.3, "lambda_d": 0.9, "lambda_u": 1.0, "auc": 0.7, "feasible": False}],
        configuration="name: town\n",
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("width", [1180, 390])
def test_a_browser_shows_every_chart_and_nothing_sticks_out(folder: Path, width: int) -> None:
    (folder / f"measure-{width}.html").write_text(MEASURE.format(width=width), encoding="utf-8")
    shown = chromium("--virtual-time-budget=20000", "--dump-dom", f"file://{folder}/measure-{width}.html")
    found = re.search(r'data-found="([^"]+)"', shown)
    assert found, shown[-2000:]
    wider, charts, small, outside, sections, loaded = map(int, found[1].split())
    assert wider <= 0 and outside == 0, "on a phone too nothing is wider than the page"
    assert charts >= 15 and small == 0 and sections >= 8
    assert loaded <= 1, "the page asks for nothing but itself"


def test_it_prints(folder: Path) -> None:
    chromium("--no-pdf-header-footer", f"--print-to-pdf={folder / 'report.pdf'}", f"file://{folder}/report.html")
    printed = (folder / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20


def test_the_page_says_what_the_record_says(folder: Path) -> None:
    page, record = (folder / "report.html").read_text(), Evaluation.from_json((folder / "evaluation.json").read_text())
    for line in record.facts["summary"]:
        assert line in unescape(page), line
    moved = record.figure("everyone", "kto", "total_variation").value
    assert f"{100 * moved:.1f} of every 100 answers" in record.facts["summary"][0]
    assert record.standings == full().standings and len(record.tested) == len(full().tested)
    (effect,) = [row for row in record.rows if (row.metric, row.who) == ("order_effect", "kto")]
    assert f"{effect.estimate.value:.3f} (" in page
    cells = list(csv.DictReader((folder / "cells.csv").open(encoding="utf-8")))
    assert len(cells) == len(record.tested) and float(cells[0]["kto"]) == record.tested[0].apart["kto"]
