"""From a World-Values-size CSV to targets: seconds, memory, and the same with pandas, in one run.

    python benchmarks/survey_scale.py
    python benchmarks/survey_scale.py --people 2000 --items 20      # a quick look

Writes a synthetic file (290 items of 2 to 10 options, don't know and no answer among them, 66
countries, four traits, design weights) with a codebook, and turns it into weighted shares, n and
n_eff for 66 x (1 + levels of the four traits) groups, countries counted equally: by valuealign
(generic reader, weigh, find_groups, tabulate) and by pandas (read_csv, countries rescaled, then a
groupby for each item and crossing): ``ratio_vs_pandas`` and the growth are of this, ``shares_seconds``.
Then valuealign alone makes the table of targets with a 95 % interval of each (target_frame): ``seconds``
and ``peak_gib`` are of all of it. Valuealign also checks every code and counts everyone, pandas does
not. Neither side rakes (there are no margins), shrinks, or measures the noise floor. Each run is a
process of its own, so that neither's memory counts for the other; imports are not timed; the fastest of
--runs counts. Both must give the same numbers. The exponent compares with a quarter of the people. The
last line is JSON.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import yaml
from machine import hardware, peak_gib

COUNTRIES = 66
OPTIONS = (4, 3, 10, 2, 5)  # of items 1, 2, 3, ... in turn
TRAITS = {"sex": 2, "age": 6, "education": 3, "settlement": 2}
TITLE = "A synthetic survey of many countries"


def write_survey(folder: Path, people: int, items: int) -> None:
    """``answers.csv`` and ``codebook.yaml``, the same for the same number of people."""
    rng = np.random.default_rng(people)
    columns = {
        "id": np.arange(1, people + 1),
        "weight": np.round(rng.lognormal(0, 0.5, people) + 0.01, 6),
        "country": np.arange(people) % COUNTRIES + 1,
        **{trait: rng.integers(1, levels + 1, people) for trait, levels in TRAITS.items()},
    }
    for number in range(items):
        options = OPTIONS[number % len(OPTIONS)]
        answers = rng.binomial(options - 1, rng.uniform(0.2, 0.8, COUNTRIES)[columns["country"] - 1]) + 1
        lost = rng.random(people)
        columns[f"Q{number + 1}"] = np.where(lost < 0.04, -1, np.where(lost < 0.06, -2, answers))
    pl.DataFrame(columns).write_csv(folder / "answers.csv")
    scales = {f"s{n}": [{code: f"answer {code}"} for code in range(1, n + 1)] for n in sorted(set(OPTIONS))}
    levels = {"country": COUNTRIES, **TRAITS}
    book = {
        "name": "synthetic",
        "title": TITLE,
        "person": "id",
        "weight": "weight",
        "country": "country",
        "missing": [-1, -2],
        "scales": scales,
        "items": {
            f"Q{n + 1}": {"text": f"Question {n + 1}?", "scale": f"s{OPTIONS[n % len(OPTIONS)]}"} for n in range(items)
        },
        "traits": {name: {"levels": [str(level) for level in range(1, n + 1)]} for name, n in levels.items()},
    }
    (folder / "codebook.yaml").write_text(yaml.safe_dump(book, sort_keys=False))


def crossings() -> list[tuple[str, ...]]:
    return [("country",), *(("country", trait) for trait in TRAITS)]


def by_valuealign(folder: Path, items: int) -> dict[str, np.ndarray]:
    from valuealign.config import GroupsConfig, SurveyConfig, WeightingConfig
    from valuealign.population import find_groups, tabulate, target_frame
    from valuealign.surveys import read_survey
    from valuealign.weighting import weigh

    started = time.perf_counter()
    config = SurveyConfig(reader="generic", file=folder / "answers.csv", codebook=folder / "codebook.yaml")
    survey = read_survey(config, 0)
    equal = WeightingConfig(everyone="equal")
    weights_P = weigh(survey, None, equal, country="country", population_weights=False).weights_P
    groups = find_groups(survey, weights_P, GroupsConfig(crossed=tuple(crossings()), min_n_eff=0.5))
    table = tabulate(survey, weights_P, groups)
    shares_seconds = time.perf_counter() - started
    targets = target_frame(table)
    seconds = time.perf_counter() - started
    assert targets.height and not targets["low"].null_count()
    # Groups of which nobody answered anything have no targets, on either side.
    order = sorted((g for g in range(1, len(groups)) if table.n_GI[g].any()), key=lambda g: groups[g].name)
    found = {"shares": table.shares_GIK[order], "n": table.n_GI[order], "n_eff": table.n_eff_GI[order]}
    times = {"seconds": np.array(seconds), "shares_seconds": np.array(shares_seconds)}
    return {**times, "names": np.array([groups[g].name for g in order]), **found}


def by_pandas(folder: Path, items: int) -> dict[str, np.ndarray]:
    """The same numbers as one would write them: small integers, categories, a groupby for each item and crossing."""
    import pandas as pd

    started = time.perf_counter()
    small = dict.fromkeys(("country", *TRAITS, *(f"Q{n + 1}" for n in range(items))), "int8")
    table = pd.read_csv(folder / "answers.csv", dtype=small)
    people = table[["country", *TRAITS]].astype("category")
    mass = table["weight"] / table.groupby("country")["weight"].transform("sum")
    mass = mass / mass.mean()
    people = people.assign(mass=mass, square=mass**2, n=1)
    found: dict[tuple[str, ...], list[Any]] = {crossing: [] for crossing in crossings()}
    for number in range(items):
        answer = table[f"Q{number + 1}"]
        given = people[answer > 0].assign(answer=answer)
        for crossing, frames in found.items():
            cells = given.groupby([*crossing, "answer"], observed=True)[["mass", "square", "n"]].sum()
            by_group = cells.groupby(level=list(crossing), observed=True)
            whole = by_group.sum()
            shares = cells["mass"] / by_group["mass"].transform("sum")
            frames.append((shares, whole["n"], whole["mass"] ** 2 / whole["square"]))
    seconds = time.perf_counter() - started
    return {"seconds": np.array(seconds), "shares_seconds": np.array(seconds), **_aligned(found, items)}


def _aligned(found: dict[tuple[str, ...], list[Any]], items: int) -> dict[str, np.ndarray]:
    """The frames as arrays, groups in the order of their names; outside the time."""
    places: dict[str, dict[int, Any]] = {}
    for crossing, frames in found.items():
        for i, (long, n, n_eff) in enumerate(frames):
            options = OPTIONS[i % len(OPTIONS)]
            shares = long.unstack(fill_value=0.0).reindex(columns=range(1, options + 1), fill_value=0.0)
            for key, *numbers in zip(n.index, shares.loc[n.index].values, n.values, n_eff.values, strict=True):
                levels = key if isinstance(key, tuple) else (key,)
                name = " & ".join(f"{t}={level}" for t, level in sorted(zip(crossing, levels, strict=True)))
                places.setdefault(name, {})[i] = numbers
    order = sorted(places)
    shares_GIK = np.full((len(order), items, max(OPTIONS[:items])), np.nan)
    n_GI, n_eff_GI = np.zeros((len(order), items), dtype=np.int64), np.zeros((len(order), items))
    for g, name in enumerate(order):
        for i, (shares, n, n_eff) in places[name].items():
            shares_GIK[g, i, : len(shares)], n_GI[g, i], n_eff_GI[g, i] = shares, n, n_eff
    return {"names": np.array(order), "shares": shares_GIK, "n": n_GI, "n_eff": n_eff_GI}


SIDES = {"valuealign": by_valuealign, "pandas": by_pandas}


def run(side: str, folder: Path, items: int, runs: int) -> tuple[float, float, float]:
    """Seconds and those to the shares alone, each of the fastest of ``runs`` processes, and the highest peak in GiB.

    The last run's numbers stay in ``folder``.
    """
    outcomes = []
    for _ in range(runs):
        command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--items", str(items)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{side} failed:\n{done.stderr}")
        outcomes.append([float(number) for number in done.stdout.split()[-3:]])
    seconds, shares_seconds, peaks = zip(*outcomes, strict=True)
    return min(seconds), min(shares_seconds), max(peaks)


def same(folder: Path) -> int:
    """How many groups both sides found; ends the benchmark where any number differs."""
    ours, theirs = (np.load(folder / f"{side}.npz") for side in SIDES)
    for name in ("names", "n"):
        if not np.array_equal(ours[name], theirs[name]):
            raise SystemExit(f"the two sides differ in {name}")
    for name in ("shares", "n_eff"):
        if not np.allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12, equal_nan=True):
            raise SystemExit(f"the two sides differ in {name}")
    return len(ours["names"])


def compare(people: int, items: int, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, quarter = Path(name) / "full", Path(name) / "quarter"
        for place, count in ((folder, people), (quarter, people // 4)):
            place.mkdir()
            write_survey(place, count, items)
        print(f"{people:,} people x {items} items, {(folder / 'answers.csv').stat().st_size / 1e6:.0f} MB of CSV")
        seconds, shares, peak = run("valuealign", folder, items, runs)
        _, less, _ = run("valuealign", quarter, items, runs)
        print(f"valuealign: {seconds:.2f} s, {peak:.2f} GiB, with the intervals; to the shares alone {shares:.2f} s")
        print(f"a quarter of the people: {less:.2f} s to the shares", flush=True)
        theirs, _, their_peak = run("pandas", folder, items, runs)
        groups = same(folder)
        print(f"pandas: {theirs:.2f} s, {their_peak:.2f} GiB; the same shares, n and n_eff for {groups} groups")
    return {
        "seconds": round(seconds, 3),
        "peak_gib": round(peak, 3),
        "seconds_per_million_answers": round(seconds / (people * items / 1e6), 4),
        "shares_seconds": round(shares, 3),
        "ratio_vs_pandas": round(theirs / shares, 2),
        "growth_exponent": round(math.log(shares / less) / math.log(people / (people // 4)), 3),
        "pandas_seconds": round(theirs, 3),
        "pandas_peak_gib": round(their_peak, 3),
        "people": people,
        "items": items,
        "groups": groups,
        "hardware": hardware(),
    }


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--people", default=97_000, show_default=True, type=click.IntRange(min=4 * COUNTRIES))
@click.option("--items", default=290, show_default=True, type=click.IntRange(min=1))
@click.option("--runs", default=2, show_default=True, type=click.IntRange(min=1), help="the fastest counts")
@click.option("--side", type=click.Choice(list(SIDES)), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(people: int, items: int, runs: int, side: str | None, folder: Path | None) -> None:
    if side is None or folder is None:
        print(json.dumps(compare(people, items, runs)))
        return
    found = SIDES[side](folder, items)
    peak = peak_gib()
    np.savez(folder / f"{side}.npz", **{name: value for name, value in found.items() if "seconds" not in name})
    print(float(found["seconds"]), float(found["shares_seconds"]), peak)


if __name__ == "__main__":
    main()
