"""Cross-cultural probes (Arora et al. 2023, arXiv 2203.13722): do a model's answers rank countries as surveys do?

A probe is a sentence with a gap and two words for it. A country's score on a dimension is the mean over its
probes of log p(first word) - log p(second word), in nats; what is reported is Spearman's rank correlation of those
scores with the survey's, over countries. Theirs are masked models and one language for each culture; a chat
model is asked which word belongs into the gap.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from valuealign.errors import AnswerError
from valuealign.evaluate.benchmarks.benchmark import Benchmark, Content, as_item
from valuealign.evaluate.benchmarks.distributions import RAW_MASS, closed_cell, padded
from valuealign.evaluate.benchmarks.means import grouped_rows, numbered
from valuealign.evaluate.record import Row
from valuealign.evaluate.sheet import RESAMPLES, Heard, Sheet, later_minus_earlier
from valuealign.metrics import Floats, interval, raw_mass
from valuealign.surveys.rows import Rows, number, read_rows
from valuealign.types import Estimate

NAME, TITLE = "arora", "Cross-cultural probes: rank correlation with surveys over countries"
COLUMNS = ("country", "dimension", "probe", "first", "second", "score")
GAPS = ("[MASK]", "<mask>", "[Mask]", "____")
GAP, FEWEST = "____", 3


@dataclass(frozen=True)
class _Probes:
    """Probes [N] of a country on a dimension; the survey's scores of D dimensions and C countries (NaN: none)."""

    country_N: NDArray[np.intp]
    dimension_N: NDArray[np.intp]
    score_DC: Floats
    dimensions: Sequence[str]

    def judge(self, heard: Heard) -> tuple[Row, ...]:
        """Spearman's correlation for each dimension and its mean; intervals resample countries, paired."""
        rng = np.random.default_rng(0x61726F7261)
        c = self.score_DC.shape[1]
        picks_BC = rng.integers(0, c, size=(RESAMPLES, c))
        found: dict[str, tuple[Floats, Floats]] = {}
        for who, logps in heard.logps.items():
            model_DC = self._model(padded(logps))
            draws = [spearman(m[picks_BC], s[picks_BC]) for m, s in zip(model_DC, self.score_DC, strict=True)]
            found[who] = spearman(model_DC, self.score_DC), np.stack(draws, axis=-1)
        n = int((~np.isnan(self.score_DC)).any(0).sum())
        rows = _rows("spearman", {who: (float(_mean(r)), _mean(draws)) for who, (r, draws) in found.items()}, n)
        for d, name in enumerate(self.dimensions):
            one = {who: (float(r[d]), draws[:, d]) for who, (r, draws) in found.items()}
            rows += _rows(f"spearman ({name})", one, int((~np.isnan(self.score_DC[d])).sum()))
        masses = {who: raw_mass(padded(logps)) for who, logps in heard.logps.items()}
        return tuple(rows + grouped_rows(NAME, "raw_mass", masses, self.country_N, bounds=(0.0, 1.0)))

    def _model(self, raw_NK: Floats) -> Floats:
        """The mean log-odds [D, C] of the first word, NaN where there is no probe."""
        d, c = self.score_DC.shape
        place_N = self.dimension_N * c + self.country_N
        count = np.bincount(place_N, minlength=d * c)
        total = np.bincount(place_N, raw_NK[:, 0] - raw_NK[:, 1], minlength=d * c)
        mean_DC: Floats = np.divide(total, count, out=np.full(d * c, np.nan), where=count > 0).reshape(d, c)
        return mean_DC


def _rows(metric: str, found: Mapping[str, tuple[float, Floats]], n: int) -> list[Row]:
    """Everybody's figure, and each later one minus each earlier one; none where the model ranks nothing."""
    known = {who: one for who, one in found.items() if np.isfinite(one[0])}
    rows = []
    for who, (at, draws_B) in known.items():
        one = interval(at, draws_B, n=n, clusters=n, bounds=(-1.0, 1.0))
        rows.append(Row(NAME, "report", who, metric, "stage", one, "over countries"))

    def apart(later: tuple[float, Floats], earlier: tuple[float, Floats]) -> Estimate:
        return interval(later[0] - earlier[0], later[1] - earlier[1], n=n, clusters=n)

    return rows + later_minus_earlier(NAME, metric, known, apart)


def spearman(x: Floats, y: Floats) -> Floats:
    """Spearman's rank correlation over the last axis (ties get mean ranks), of the places where both are known.

    NaN where fewer than 3 are known, or where one of the two says the same of all.
    """
    known = ~np.isnan(x) & ~np.isnan(y)
    ranks = [rankdata(np.where(known, one, np.nan), axis=-1, nan_policy="omit") for one in (x, y)]
    n = known.sum(-1)
    centred = [np.where(known, r - (np.expand_dims(n, -1) + 1) / 2, 0.0) for r in ranks]
    top = (centred[0] * centred[1]).sum(-1)
    bottom = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    rho: Floats = np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=(bottom > 0) & (n >= FEWEST))
    return rho


def _mean(values: Floats) -> Floats:
    """The mean over the last axis of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(-1) / np.maximum(count, 1), np.nan)


def read(path: Path) -> Content:
    """The probes of a table with a row for each country, dimension and probe (CSV, JSON lines, a JSON array, Parquet).

    Columns ``country``, ``dimension``, ``probe`` (with a gap: [MASK] or ____), ``first`` and ``second`` (the words; the
    first is the one that a higher survey score goes with), ``score`` (the survey's, of that country and dimension). A
    country is named in the prompt where several have the probe in the same words; else its language says which it is.
    Raises AnswerError for a probe without a gap, a score that is no number or differs, and fewer than 3 countries.
    """
    rows = read_rows(path)
    rows.need(COLUMNS, f"a table of probes has {', '.join(COLUMNS)}")
    text = {name: [rows.text(name, row) for row in range(rows.height)] for name in COLUMNS[:-1]}
    countries, dimensions = (list(dict.fromkeys(text[name])) for name in ("country", "dimension"))
    country_N, dimension_N = numbered(text["country"]), numbered(text["dimension"])
    score_DC = _scores(rows, dimension_N, country_N, (len(dimensions), len(countries)))
    few = [name for name, score_C in zip(dimensions, score_DC, strict=True) if (~np.isnan(score_C)).sum() < FEWEST]
    if few:
        mend = "a rank correlation needs 3 countries or more in every dimension"
        raise AnswerError(f"'{few[0]}' has fewer than {FEWEST} countries", where=str(path), mend=mend)
    probes = [_probe(rows, row) for row in range(rows.height)]
    asked_of: dict[str, set[str]] = {}
    for probe, country in zip(probes, text["country"], strict=True):
        asked_of.setdefault(probe, set()).add(country)
    named = [len(asked_of[probe]) > 1 for probe in probes]
    words = list(zip(text["first"], text["second"], strict=True))

    def sheet(left_out: Collection[str]) -> Sheet:
        kept = [row for row, probe in enumerate(probes) if probe not in left_out]
        by_name = sum(named[row] for row in kept)
        notes = (
            f"the country is named in {by_name:,} of {len(kept):,} prompts: those that several have in the same words",
            "the published probes are for masked models; a chat model is asked which of the two words fills the gap",
        )
        cells = tuple(
            closed_cell(probes[row], words[row], f"a person from {country}" if named[row] else "", country, NAME)
            for row, country in ((row, text["country"][row]) for row in kept)
        )
        judge = _Probes(country_N[kept], dimension_N[kept], score_DC, dimensions).judge
        return Sheet(NAME, TITLE, _metrics(dimensions), judge, cells, notes=notes)

    return Content({probe: as_item(probe, probe, pair) for probe, pair in zip(probes, words, strict=True)}, sheet)


def _metrics(dimensions: Sequence[str]) -> dict[str, str]:
    what = (
        "Spearman's rank correlation over countries between the model's mean log-odds of the first word (nats) and the "
        "survey's scores (-1 to 1, higher is better)"
    )
    of = {f"spearman ({name})": f"the same for '{name}' alone" for name in dimensions}
    return {"spearman": f"{what}: the mean over dimensions", **of, "raw_mass": RAW_MASS}


def _scores(rows: Rows, dimension_N: NDArray[np.intp], country_N: NDArray[np.intp], shape: tuple[int, int]) -> Floats:
    score_DC = np.full(shape, np.nan)
    for row in range(rows.height):
        score, place = number(rows.columns["score"][row]), (dimension_N[row], country_N[row])
        if score is None:
            what = f"the score '{rows.columns['score'][row]}' is no number"
            raise AnswerError(what, where=rows.where(row, "score"), mend="give the survey's score, or take the row out")
        if not np.isnan(score_DC[place]) and score_DC[place] != score:
            mend = "a country has one score on a dimension: give all its probes the same"
            raise AnswerError(f"the score was {score_DC[place]:g} before", where=rows.where(row, "score"), mend=mend)
        score_DC[place] = score
    return score_DC


def _probe(rows: Rows, row: int) -> str:
    """The probe with its gap as a chat shows it."""
    text = rows.text("probe", row)
    mark = next((mark for mark in GAPS if mark in text), None)
    if mark is None:
        raise AnswerError(
            "the probe has no gap", where=rows.where(row, "probe"), mend="write [MASK] for the missing word"
        )
    return f"Which word fills the gap? {text.replace(mark, GAP)}"


BENCHMARK = Benchmark(
    TITLE,
    "after Arora et al. 2023, arXiv 2203.13722",
    "a table of probes: country, dimension, probe (with [MASK]), first, second, score (the survey's)",
    read,
)
