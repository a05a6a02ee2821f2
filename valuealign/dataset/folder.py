"""The data set as a folder of Parquet files with a datasheet.

``responses`` (a row per interview), ``targets`` (a row per part, group, item and option), ``outcomes``
(who answered with no option), ``pairs`` (what is held out), ``screens``, ``screened_targets`` and ``sensitivity``
(what careless or styled answering could change); ``codebook.json``, ``datasheet.json``, and the datasheet to read,
``README.md``. It is written aside and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

import valuealign
from valuealign.config import RunConfig
from valuealign.dataset.build import Dataset
from valuealign.dataset.facts import facts
from valuealign.errors import ConfigError, SurveyError
from valuealign.population import noise_floor, outcome_shares, tabulate, target_frame
from valuealign.population.sensitivity import self_report, targets_with_and_without
from valuealign.splits import pairs_frame
from valuealign.surveys.codebook import Codebook

PARTS = ("train", "select", "report")
# What of the configuration makes the data what they are.
SECTIONS = ("name", "seed", "survey", "screens", "weighting", "groups", "splits")
# Rooms whose code makes the data what they are.
ROOMS = ("values", "weighting", "surveys", "population", "splits", "dataset")
CODE = (".py", ".yaml")
HALVINGS = 4
# What a datasheet holds that others read.
SHEET_KEYS = {"title", "source", "licence", "tier", "tables", "weights", "facts", "files", "made_with"}
TABLES = {
    "responses": "a row per interview: fitted and design weight, part, traits, answers, screens",
    "targets": "a row per part, group, item and option: share, interval, n, n_eff, what it was drawn by, noise floor",
    "outcomes": "who answered with no option (don't know and the like), as a share of those asked",
    "pairs": "which (item, group) pairs are held out, in which split and part",
    "screens": "whom a screen marks, and what leaving them out changes, per group",
    "screened_targets": "every target with and without those whom a screen marks",
    "sensitivity": "targets with and without adjustment for styled answering: bounds, not corrections",
}


def folder_of(config: RunConfig, home: Path) -> Path:
    """Where the data set of a configuration lives: the same settings, files and code give the same folder.

    Where a file lies plays no part. A file that is not there is left to its reader to complain of.
    """
    seen = [_settings(config), hashes(config), _code()]
    key = hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:10]
    return home / "data" / f"{config.name}-{key}"


def _code() -> str:
    """A hash of the code that makes the data: a mended reader must not find what the old one made."""
    root = Path(valuealign.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.*") if path.suffix in CODE):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def hashes(config: RunConfig) -> dict[str, str]:
    """SHA-256 of every file that the configuration names; of a folder, of its files by name."""
    survey, weighting = config.survey, config.weighting
    named = {
        "survey.file": survey.file,
        "survey.codebook": survey.codebook,
        "survey.statements": survey.statements,
        "weighting.margins": weighting.margins,
        "weighting.populations": weighting.populations,
    }
    return {key: _hash(path) for key, path in named.items() if path is not None and path.exists()}


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode() if path.is_dir() else b"")
            with file.open("rb") as stream:
                for block in iter(lambda stream=stream: stream.read(1 << 20), b""):  # type: ignore[misc]
                    digest.update(block)
    return digest.hexdigest()


def _settings(config: RunConfig) -> dict[str, Any]:
    """The settings that make the data, files by their names: where they lie is nobody else's business."""

    def named(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: named(value) for key, value in tree.items()}
        return tree.name if isinstance(tree, Path) else tree

    return dict(named(config.model_dump(include=set(SECTIONS))))


def write(dataset: Dataset, folder: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Write the data set into ``folder`` and return its datasheet; an older folder there is replaced."""
    with whole_or_not(folder) as aside:
        for name, frame in _frames(dataset):
            frame.write_parquet(aside / f"{name}.parquet", compression="zstd")
            say(f"  {name}: {frame.height:,} rows")
        tables = sorted(path.stem for path in aside.glob("*.parquet"))
        sheet = datasheet(dataset) | {"tables": tables}
        put_json(aside / "codebook.json", codebook_record(dataset.survey.codebook))
        put_json(aside / "datasheet.json", sheet)
        put_text(aside / "README.md", card(sheet, tables))
    return sheet


def read_sheet(folder: Path) -> dict[str, Any]:
    """The datasheet of a prepared folder. Raises SurveyError where it, or a file it speaks of, is gone or broken."""
    path = folder / "datasheet.json"
    mend = "prepare the data set again: jobs/prepare.py makes it anew"
    try:
        sheet = json.loads(path.read_text(encoding="utf-8"))
        lost = [name for name in sheet["tables"] if not (folder / f"{name}.parquet").is_file()]
        lost = [f"{name}.parquet" for name in lost] + [n for n in ("codebook.json",) if not (folder / n).is_file()]
        if SHEET_KEYS - sheet.keys():
            raise KeyError(*(SHEET_KEYS - sheet.keys()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise SurveyError("the datasheet cannot be read", where=str(path), mend=mend) from None
    if lost:
        raise SurveyError(f"{', '.join(lost)} of the data set is gone", where=str(folder), mend=mend)
    return dict(sheet)


@contextlib.contextmanager
def whole_or_not(folder: Path) -> Iterator[Path]:
    """A folder aside to write into, which takes the place of ``folder`` at the end, or goes without a trace.

    Raises ConfigError where no folder can be made there.
    """
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        mend = "name a folder that can be made and written"
        raise ConfigError(f"cannot make the folder ({error.strerror})", where=str(folder), mend=mend) from None
    try:
        yield aside
        put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_in_place(aside: Path, folder: Path) -> None:
    """Rename a finished folder into place; what stood there goes only once the new one stands."""
    old = folder.with_name(f".{folder.name}.old-{uuid.uuid4().hex[:8]}")
    if folder.exists():
        os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


def put_text(path: Path, text: str) -> None:
    """A text file that ends with a line's end."""
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def put_json(path: Path, tree: object) -> None:
    """JSON to be read by people too."""
    put_text(path, json.dumps(tree, indent=1, ensure_ascii=False, default=str))


def _frames(dataset: Dataset) -> Iterator[tuple[str, pl.DataFrame]]:
    survey, weights_P = dataset.survey, dataset.weights.weights_P
    yield "responses", _responses(dataset)
    yield "targets", _targets(dataset)
    yield "pairs", pairs_frame(dataset.splits)
    if survey.codebook.outcomes:
        yield "outcomes", _outcomes(dataset)
    if flags := dataset.screened.flags:
        # Over everybody who was asked: else a target with the dropped could not be shown.
        yield "screens", dataset.screens
        who = (dataset.asked, dataset.asked_weights_P, dataset.groups, flags)
        yield "screened_targets", targets_with_and_without(*who)
    bounds = self_report(survey, weights_P, dataset.groups).frame
    if bounds.height:
        yield "sensitivity", bounds


def _responses(dataset: Dataset) -> pl.DataFrame:
    """Everybody who was asked; ``part`` and ``weight`` are null for those whom a screen dropped."""
    people, flags = dataset.asked.people, dataset.screened.flags
    kept = dataset.screened.kept_P
    part = np.full(people.height, None, dtype=object)
    weight = np.full(people.height, np.nan)
    part[kept] = np.array(PARTS, dtype=object)[dataset.splits.person_P]
    weight[kept] = dataset.weights.weights_P
    if dataset.config.splits.waves:
        held = pl.col("wave").is_in(list(dataset.config.splits.waves)).fill_null(False)
        people = people.with_columns(held_out_wave=held)
    return people.rename({"weight": "design_weight"}).with_columns(
        pl.Series("weight", weight).fill_nan(None),
        pl.Series("part", part.tolist(), dtype=pl.String),
        *(pl.Series(f"screen_{name}", flag_P) for name, flag_P in flags.items()),
    )


def _targets(dataset: Dataset) -> pl.DataFrame:
    """Targets of everybody (with the noise floor), of the train people, and the truth of the others (never drawn)."""
    config, survey = dataset.config, dataset.survey
    whole = dataset.table()
    floor = noise_floor(
        survey, dataset.weights.weights_P, dataset.groups, seed=config.seed, halvings=HALVINGS, metric="jsd_bits"
    )
    parts = {
        "all": target_frame(whole, dataset.drawn(), floor),
        "train": target_frame(dataset.train, dataset.shrunk),
        **{part: target_frame(dataset.table(part)) for part in PARTS[1:]},
    }
    return pl.concat(frame.select(pl.lit(part).alias("part"), pl.all()) for part, frame in parts.items())


def _outcomes(dataset: Dataset) -> pl.DataFrame:
    """group, item, outcome, share of the ``n`` persons who were asked."""
    survey, groups = dataset.survey, dataset.groups
    book = survey.codebook
    shares_GIO = outcome_shares(survey, dataset.weights.weights_P, groups)
    asked = survey.people.with_columns(
        pl.when(pl.col(item.id).is_not_null()).then(pl.lit(0, pl.Int16)).alias(item.id) for item in book.items
    )
    n_GI = tabulate(replace(survey, people=asked), dataset.weights.weights_P, groups).n_GI
    g, i, o = np.nonzero(~np.isnan(shares_GIO))
    return pl.DataFrame(
        {
            "group": pl.Series([group.name for group in groups]).gather(g),
            "item": pl.Series([item.id for item in book.items]).gather(i),
            "outcome": pl.Series(book.outcomes).gather(o),
            "share": shares_GIO[g, i, o],
            "n": n_GI[g, i],
        }
    )


def codebook_record(book: Codebook) -> dict[str, Any]:
    """The codebook as plain data: what a reader of ``responses`` and ``targets`` needs."""
    items = [
        {
            "id": item.id,
            "text": item.text,
            "ordinal": item.ordinal,
            "options": [{"index": k, "text": o.text, "position": o.position} for k, o in enumerate(item.options)],
            "values": list(item.values),
            "reversed": item.key < 0,
            "label_only": item.id in book.label_only,
        }
        for item in book.items
    ]
    traits = [
        {"id": t.id, "text": t.text, "levels": list(t.levels), "phrases": dict(t.phrases), "several": t.several}
        for t in book.traits
    ]
    outcomes = [{"index": -1 - j, "text": name} for j, name in enumerate(book.outcomes)]
    return {"name": book.name, "title": book.title, "items": items, "traits": traits, "outcomes": outcomes}


def datasheet(dataset: Dataset) -> dict[str, Any]:
    """Where the data come from, what was done to them, and what may be done with them."""
    book, weights = dataset.survey.codebook, dataset.weights
    flags = {name: int(flag_P.sum()) for name, flag_P in dataset.screened.flags.items()}
    return {
        "name": dataset.config.name,
        "title": book.title,
        "source": book.source,
        "licence": book.licence,
        "tier": book.tier,
        "people": dataset.survey.people["person"].n_unique(),
        "interviews": dataset.survey.people.height,
        "items": len(book.items),
        "groups": len(dataset.groups),
        "weights": {
            "everyone": weights.everyone,
            "design_effect": weights.design_effect,
            "n_eff": weights.n_eff,
            "trimmed": weights.trimmed,
            "margins": [gap._asdict() for gap in weights.gaps],
        },
        "screens": {
            "settings": dataset.config.screens.model_dump(mode="json"),
            "flagged": flags,
            "dropped": dataset.asked.people.height - dataset.survey.people.height,
        },
        "facts": facts(dataset),
        "files": hashes(dataset.config),
        "settings": _settings(dataset.config),
        "made_with": f"valuealign {version('valuealign')}",
    }


def card(sheet: Mapping[str, Any], tables: Iterable[str]) -> str:
    """The data card: a Markdown page whose head tells ``datasets.load_dataset`` which tables there are."""
    head = {
        "pretty_name": sheet["title"],
        "license": "other",
        "license_name": sheet["licence"] or "not stated",
        "configs": [
            {"config_name": name, "data_files": f"{name}.parquet", **({"default": True} if name == "targets" else {})}
            for name in tables
        ],
    }
    lines = [f"| {key} | {_cell(value)} |" for key, value in sheet["facts"].items()]
    margins = [
        f"| {m['trait']} | {m['level']} | {m['target']:.4f} | {m['before']:.4f} | {m['after']:.4f} |"
        for m in sheet["weights"]["margins"]
    ]
    files = [f"| `{key}` | `{digest}` |" for key, digest in sheet["files"].items()]
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
            f"# {sheet['title']}\n",
            f"Source: {sheet['source'] or 'not stated'}. Licence: {sheet['licence'] or 'not stated'} "
            f"(tier `{sheet['tier']}`). Made with {sheet['made_with']}.\n",
            "| | |\n|---|---|",
            *lines,
            *(
                ["\n## Margins\n\n| trait | level | population | before | after |\n|---|---|---|---|---|"]
                if margins
                else []
            ),
            *margins,
            "\n## Tables\n",
            *(f"- `{name}`: {TABLES[name]}" for name in tables),
            *(["\n## Files it was made from\n\n| key | SHA-256 |\n|---|---|", *files] if files else []),
            "\nAn answer is the option's index in `codebook.json`; a negative number is one of its outcomes.",
            "",
        ]
    )


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
