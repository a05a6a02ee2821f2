"""Releasing a prepared data set: only what its licence lets one pass on, with nobody's id."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import polars as pl

from valuealign.dataset.folder import card, put_in_place, put_json, put_text
from valuealign.errors import SurveyError

# What a tier lets one pass on. Persons' answers need an open licence; `screens` speaks of persons too.
RELEASED = {
    "open": ("targets", "outcomes", "pairs", "screens", "screened_targets", "sensitivity", "responses"),
    "aggregates": ("targets", "outcomes", "pairs"),
    "closed": (),
}


def release(folder: Path, out: Path, *, responses: bool | None = None, least_n: int = 10) -> tuple[str, ...]:
    """Write what may be released of ``folder`` into ``out``; returns the names of the tables.

    ``responses`` asks for persons' answers (True), leaves them out (False), or takes what the tier
    allows (None). Shares of fewer than ``least_n`` people are left out: a share of one person is
    that person's answer. Persons get numbers by chance, and their rows a new order. This does not
    protect against differences between overlapping groups. Raises SurveyError where the tier
    forbids it, or ``out`` exists.
    """
    sheet = json.loads((folder / "datasheet.json").read_text(encoding="utf-8"))
    tier, licence = sheet["tier"], sheet["licence"] or "not stated"
    allowed = RELEASED[tier]
    mend = "get permission, then write 'tier: aggregates' or 'tier: open' into the codebook"
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
    tables = tuple(
        n for n in allowed if (folder / f"{n}.parquet").exists() and (n != "responses" or responses is not False)
    )
    aside = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir(parents=True)
    try:
        for name in tables:
            frame = pl.read_parquet(folder / f"{name}.parquet")
            _anonymous(name, frame, least_n).write_parquet(aside / f"{name}.parquet", compression="zstd")
        shutil.copy(folder / "codebook.json", aside / "codebook.json")
        put_json(aside / "datasheet.json", sheet | {"released": {"tables": tables, "least_n": least_n}})
        put_text(aside / "README.md", card(sheet, tables))
        put_in_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return tables


def _anonymous(name: str, frame: pl.DataFrame, least_n: int) -> pl.DataFrame:
    """Without small groups' shares, and without persons' ids and the order of the file."""
    if name == "targets":
        return _large(frame, least_n)
    if "n" in frame.columns:
        return frame.filter(pl.col("n") >= least_n)
    if "person" in frame.columns:
        ids = frame["person"].unique()
        chance = np.random.default_rng()  # on purpose not seeded: nobody can turn it back
        number = pl.Series(chance.permutation(len(ids)) + 1)
        shuffled = frame[chance.permutation(frame.height)]
        return shuffled.with_columns(person=pl.col("person").replace_strict(ids, number)).sort("person")
    return frame


def _large(targets: pl.DataFrame, least_n: int) -> pl.DataFrame:
    """Where a part of an (item, group) pair is small, only the whole stays: the rest would give it away."""
    sizes = targets.group_by("item", "group", "part").agg(pl.col("n").first())
    small = sizes.group_by("item", "group").agg(
        small=(pl.col("n").min() < least_n) | (pl.col("part").n_unique() < targets["part"].n_unique())
    )
    marked = targets.join(small, on=["item", "group"], how="left", maintain_order="left")
    whole = (pl.col("part") == "all") & (pl.col("n") >= least_n)
    return marked.filter(~pl.col("small") | whole).drop("small")
