"""What a model can still do: results of the Language Model Evaluation Harness (``lm-eval``), before and after.

The harness runs by its own command on an exported model and the user's own tasks (docs/paid.md); nothing of it
is imported here. What it wrote is read: with the answers it logged, differences are paired, question by question.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from valuealign.errors import ConfigError
from valuealign.evaluate.record import Row
from valuealign.evaluate.sheet import later_minus_earlier, mean_rows
from valuealign.types import Estimate

CAPABILITY = "capability"
WROTE = "name the folder or the results_*.json that lm_eval wrote with --output_path"
# What must be the same for two runs to be compared.
SETTINGS = ("versions", "n-shot", "n-samples")
LM_EVAL = {CAPABILITY: {"title": "What the model can still do (lm-eval)", "metrics": {}, "notes": []}}
Key = tuple[str, str]  # task, metric with its filter


@dataclass(frozen=True)
class Figure:
    """A metric of a task: value, standard error (NaN: none), questions, and the value of each logged one by its id."""

    value: float
    error: float
    n: int
    logged: Mapping[str, float]


def read_lm_eval(results: Sequence[tuple[str, Path | str]]) -> list[Row]:
    """The figures that ``lm_eval`` found of each who (the base first), and each later one minus each earlier one.

    ``results`` has who and a path of each: the JSON file of a run, or a folder with one ``results_*.json``. Where
    every run logged its answers (``--log_samples``) and a figure is their mean, intervals resample questions and
    differences are paired; else they come from the standard errors, and a difference as if of independent runs:
    wider than need be. Both are 95 %.
    Raises ConfigError for what the harness did not write, for runs with other settings of one task, and for one who
    with two results.
    """
    paths: dict[str, Path] = {}
    for who, path in results:
        if who in paths:
            what, mend = (
                f"'{who}' has another result before, {paths[who]}",
                "give each model one result, under its name",
            )
            raise ConfigError(what, where=f"--lm-eval {who} {path}", mend=mend)
        paths[who] = Path(path)
    read = {who: _read(path) for who, path in paths.items()}
    _same_settings({who: (tree, path) for who, (path, tree) in read.items()})
    figures = {who: _figures(path, tree) for who, (path, tree) in read.items()}
    rows: list[Row] = []
    for key in dict.fromkeys(key for found in figures.values() for key in found):
        better = [tree.get("higher_is_better", {}).get(key[0], {}) for _, tree in read.values()]
        lower = any(one.get(key[1].split(",")[0]) is False for one in better)
        mine = {who: found[key] for who, found in figures.items() if key in found}
        rows += _rows(f"{key[0]}/{key[1].removesuffix(',none')}", mine, "lower is better" if lower else "")
    return rows


def _rows(name: str, mine: Mapping[str, Figure], note: str) -> list[Row]:
    first = next(iter(mine.values())).logged
    if first and all(one.logged.keys() == first.keys() for one in mine.values()):
        values = {who: [one.logged[question] for question in first] for who, one in mine.items()}
        return mean_rows(CAPABILITY, name, values, note=note)
    rows = [
        Row(CAPABILITY, "report", who, name, "stage", _normal(one.value, one.error, one.n), note)
        for who, one in mine.items()
    ]

    def apart(new: Figure, old: Figure) -> Estimate:
        return _normal(new.value - old.value, math.hypot(new.error, old.error), min(new.n, old.n))

    return rows + later_minus_earlier(CAPABILITY, name, mine, apart, note="unpaired")


def _normal(value: float, error: float, n: int) -> Estimate:
    return Estimate(value, value - 1.96 * error, value + 1.96 * error, n)


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    """The results' file and what it holds."""
    if path.is_dir():
        found = sorted(path.rglob("results_*.json"))
        if len(found) != 1:
            what = f"{len(found)} files results_*.json are here, not one"
            raise ConfigError(what, where=str(path), mend=WROTE)
        path = found[0]
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the results ({error.strerror})", where=str(path), mend=WROTE) from None
    except ValueError:
        raise ConfigError("not valid JSON", where=str(path), mend=WROTE) from None
    if not isinstance(tree, dict) or not isinstance(tree.get("results"), dict) or not tree["results"]:
        raise ConfigError("no results of lm_eval", where=str(path), mend=WROTE)
    return path, tree


def _same_settings(read: Mapping[str, tuple[dict[str, Any], Path]]) -> None:
    met: dict[Key, tuple[Any, Path]] = {}
    for tree, path in read.values():
        for setting in SETTINGS:
            for task, value in tree.get(setting, {}).items():
                other, before = met.setdefault((task, setting), (value, path))
                if other != value:
                    what = f"'{setting}' of '{task}' is {value} here and {other} in {before}"
                    raise ConfigError(what, where=str(path), mend="run lm_eval alike for all models")


def _figures(path: Path, tree: Mapping[str, Any]) -> dict[Key, Figure]:
    found: dict[Key, Figure] = {}
    for task, metrics in tree["results"].items():
        logged = _logged(path, task)
        for name, value in metrics.items():
            metric, parted, sieve = name.partition(",")
            if not parted or metric.endswith("_stderr") or not _is_number(value):
                continue
            error = metrics.get(f"{metric}_stderr,{sieve}")
            each = {key: one[metric] for key, one in logged.get(sieve, {}).items() if _is_number(one.get(metric))}
            is_mean = bool(each) and math.isclose(
                float(np.mean(list(each.values()))), value, rel_tol=1e-6, abs_tol=1e-9
            )
            n = int(tree.get("n-samples", {}).get(task, {}).get("effective", len(each)))
            kept = {key: float(one) for key, one in each.items()} if is_mean else {}
            found[task, name] = Figure(float(value), float(error) if _is_number(error) else math.nan, n, kept)
    return found


def _logged(path: Path, task: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What was logged of a task beside a results' file: filter -> question -> metric -> value. Nothing: empty."""
    file = path.with_name(f"samples_{task}_{path.stem.rpartition('_')[2]}.jsonl")  # of the same run, by its time
    found: dict[str, dict[str, dict[str, Any]]] = {}
    if file.exists():
        for number, line in enumerate(file.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
            try:
                one = json.loads(line)
                found.setdefault(one["filter"], {})[f"{one['doc_id']} {one['doc_hash']}"] = one
            except (ValueError, KeyError, TypeError):
                where, mend = f"{file}, line {number}", "run lm_eval again with --log_samples, or remove the file"
                raise ConfigError("no answer that lm_eval logged", where=where, mend=mend) from None
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
