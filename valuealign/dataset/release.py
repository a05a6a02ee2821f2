"""Releasing a prepared data set: only what its licence lets one pass on, with nobody's id."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from valuealign.dataset.folder import card, put_json, put_text, read_sheet, whole_or_not
from valuealign.errors import SurveyError

# Fewest persons behind a figure of a named group: a share of one person is that person's answer.
LEAST_N = 10
# What a tier lets one pass on. Persons' answers need an open licence; `screens` speaks of persons too.
RELEASED = {
    "open": ("targets", "outcomes", "pairs", "screens", "screened_targets", "sensitivity", "responses"),
    "aggregates": ("targets", "outcomes", "pairs"),
    "closed": (),
}


def release(folder: Path, out: Path, *, responses: bool | None = None, least_n: int = LEAST_N) -> tuple[str, ...]:
    """Write what may be released of ``folder`` into ``out``; returns the names of the tables.

    ``responses`` asks for persons' answers (True), leaves them out (False), or takes what the tier
    allows (None). Shares of fewer than ``least_n`` people are left out of every table. Persons get numbers
    by chance, and their rows a new order. This does not protect against differences between overlapping
    groups. Raises SurveyError where the tier forbids it, ``out`` exists or something of ``folder`` is gone,
    ConfigError where ``out`` cannot be made.
    """
    sheet = read_sheet(folder)
    tier, licence = sheet["tier"], sheet["licence"] or "not stated"
    allowed = RELEASED[tier]
    mend = "get permission, then write 'tier: aggregates' or 'tier: open' into the codebook, or into survey.tier"
    if not allowed:
        raise SurveyError(f"the licence ({licence}) lets nothing be passed on", where=str(folder), mend=mend)
    if responses and "responses" not in allowed:
        raise SurveyError(
            f"the licence ({licence}) lets no persons' answers be passed on",
            where=str(folder),
            mend=f"release the targets alone (without --responses), or {mend}",
        )
    if out.exists():
        raise SurveyError("the folder is there already", where=str(out), mend="name another one, or move it away")
    tables = tuple(n for n in allowed if n in sheet["tables"] and (n != "responses" or responses is not False))
    large = _large(_read(folder, "targets"), least_n)
    with whole_or_not(out) as aside:
        for name in tables:
            _released(name, _read(folder, name), large, least_n).write_parquet(
                aside / f"{name}.parquet", compression="zstd"
            )
        shutil.copy(folder / "codebook.json", aside / "codebook.json")
        put_json(aside / "datasheet.json", sheet | {"tables": tables, "released": {"least_n": least_n}})
        put_text(aside / "README.md", card(sheet, tables))
    return tables


def _read(folder: Path, name: str) -> pl.DataFrame:
    path = folder / f"{name}.parquet"
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError):
        mend = f"delete {folder}, and prepare the data set again"
        raise SurveyError("the table cannot be read", where=str(path), mend=mend) from None


def _released(name: str, frame: pl.DataFrame, large: pl.DataFrame, least_n: int) -> pl.DataFrame:
    """Without small groups' shares, and without persons' ids and the order of the file.

    ``large`` are the (part, item, group) that many people answered. A pair that is withheld there is
    withheld in every table with shares; ``pairs`` has none.
    """
    if name == "targets":
        return frame.join(large, on=large.columns, how="semi", maintain_order="left")
    if name == "responses":
        return _renumbered(frame)
    if "share" in frame.columns:
        whole = large.filter(part="all")
        frame = frame.join(whole, on=["item", "group"], how="semi", maintain_order="left")
    return large_enough(frame, least_n)


def large_enough(frame: pl.DataFrame, least_n: int = LEAST_N) -> pl.DataFrame:
    """Rows whose ``n`` people, and whom a screen ``flagged`` of them, are ``least_n`` or more (or none are flagged)."""
    if "flagged" in frame.columns:
        frame = frame.filter((pl.col("flagged") == 0) | (pl.col("flagged") >= least_n))
    if "n_without" in frame.columns:
        # Few who are marked would be given away by the difference.
        marked = pl.col("n") - pl.col("n_without")
        frame = frame.filter(pl.col("n_without") >= least_n, (marked == 0) | (marked >= least_n))
    return frame.filter(pl.col("n") >= least_n) if "n" in frame.columns else frame


def _renumbered(people: pl.DataFrame) -> pl.DataFrame:
    ids = people["person"].unique()
    chance = np.random.default_rng()  # on purpose not seeded: nobody can turn it back
    number = pl.Series(chance.permutation(len(ids)) + 1)
    shuffled = people[chance.permutation(people.height)]
    return shuffled.with_columns(person=pl.col("person").replace_strict(ids, number)).sort("person")


def _large(targets: pl.DataFrame, least_n: int) -> pl.DataFrame:
    """The (part, item, group) to release; where a part of a pair is small, only the whole: the rest gives it away."""
    sizes = targets.group_by("part", "item", "group").agg(pl.col("n").first())
    parts = targets["part"].n_unique()
    small = (pl.col("n").min() < least_n) | (pl.col("part").n_unique() < parts)
    marked = sizes.with_columns(small=small.over("item", "group"))
    whole = (pl.col("part") == "all") & (pl.col("n") >= least_n)
    return marked.filter(~pl.col("small") | whole).select("part", "item", "group")
