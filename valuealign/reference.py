"""The table of reference log-probabilities: computed once, read by all epochs, trials and ranks.

It is content-addressed: the key hashes the model that scores, how it computes, and the cells'
token ids, so a changed model, tokenizer, template or cell makes a new table, never a wrong hit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import feather

from valuealign.disk import writing
from valuealign.errors import ModelError
from valuealign.types import Rendered

Score = Callable[[Sequence[Rendered]], list[np.ndarray]]


def table_key(rendered: Sequence[Rendered], identity: Mapping[str, str]) -> str:
    """Hex key of a table. ``identity`` names base weights, adapter, dtype and kernel; token ids
    stand for tokenizer and template."""
    digest = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode())
    for row in rendered:
        digest.update(json.dumps([row.prompt_ids, row.completion_ids]).encode())
    return digest.hexdigest()[:32]


def reference_logps(
    rendered: Sequence[Rendered],
    *,
    score: Score,
    identity: Mapping[str, str],
    folder: Path,
    writer: bool = True,
    agree: Callable[[bool], bool] = bool,
    make: bool = True,
) -> list[np.ndarray]:
    """log pi_ref [K] of every row's completions, from the table in ``folder`` or made by ``score``.

    Every rank calls this; ``score`` may be collective, so ``agree`` makes all ranks take the
    writer's word on whether the table is there. Only the ``writer`` rank writes. Raises ModelError
    if the table is gone and ``make`` is false: the model at hand is no longer the reference; DiskError if a
    table that was made cannot be written.
    """
    path = folder / f"{table_key(rendered, identity)}.arrow"
    found = _read(path)
    there = agree(found is not None)
    if not there and not make:
        raise ModelError(
            "the reference table of this stage is gone, and the model has moved on from it",
            where=str(path),
            mend="restore it, or start the run anew in another folder (change its name)",
        )
    if there:
        if found is None:
            raise ModelError(
                "the reference table is on another machine", where=str(path), mend="share VALUEALIGN_HOME among workers"
            )
        return found
    logps = score(rendered)
    if writer:
        table = pa.table({"cell": [r.cell.key for r in rendered], "logp": [logp.tolist() for logp in logps]})
        aside = path.with_suffix(f".{os.getpid()}.aside")
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            feather.write_feather(table, aside)
            os.replace(aside, path)
    return logps


def _read(path: Path) -> list[np.ndarray] | None:
    """The table, or None where there is none, or none that can be read (it is then made anew)."""
    try:
        return [np.asarray(row, dtype=np.float64) for row in feather.read_table(path)["logp"].to_pylist()]
    except (OSError, pa.ArrowException, KeyError):
        return None


class Noise(NamedTuple):
    """How far two ways to compute the same log-probabilities lie apart, in nats of a whole completion."""

    rms: float
    largest: float
    completions: int


def noise(one: Sequence[np.ndarray], two: Sequence[np.ndarray]) -> Noise:
    """The noise in r = log pi - log pi_ref where pi is computed one way and pi_ref the other; an array [K] a cell."""
    apart = np.concatenate([a - b for a, b in zip(one, two, strict=True)])
    return Noise(float(np.sqrt(np.mean(apart**2))), float(np.abs(apart).max()), len(apart))
