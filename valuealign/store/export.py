"""Feedback as a Parquet file, for whoever counts it elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, Row, Select

from valuealign.disk import writing

ROWS = 5_000  # of one row group, and in memory at a time
# What is of no fixed shape (metadata, traits, a response's detail) is JSON in a text column.
_AS_JSON = ("traits", "metadata", "screened", "response__detail")
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("correction", pa.string()),
        pa.field("shares", pa.map_(pa.string(), pa.float64())),
        pa.field("n", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("created", pa.string(), nullable=False),
        pa.field("reviewed", pa.string()),
        pa.field("reviewer", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("manifest_id", pa.string()),
        pa.field("key_id", pa.string()),
        pa.field("person", pa.string()),
        pa.field("campaign", pa.string()),
        pa.field("traits", pa.string()),
        pa.field("comment", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("screened", pa.string()),
        pa.field("response__kind", pa.string(), nullable=False),
        pa.field("response__name", pa.string(), nullable=False),
        pa.field("response__version", pa.string(), nullable=False),
        pa.field(
            "response__messages",
            pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])),
            nullable=False,
        ),
        pa.field("response__answer", pa.string(), nullable=False),
        pa.field("response__detail", pa.string(), nullable=False),
        pa.field("response__created", pa.string(), nullable=False),
    ]
)


def write(path: Path, connection: Connection, query: Select[Any]) -> int:
    """Write the rows of ``query`` (feedback joined to its responses) to ``path``; returns how many.

    The file is written aside and renamed. Raises DiskError.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.aside")
        try:
            rows = _write(aside, connection, query)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return rows


def _write(path: Path, connection: Connection, query: Select[Any]) -> int:
    rows = 0
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        found = connection.execution_options(yield_per=ROWS).execute(query)
        for some in found.partitions():
            writer.write_table(pa.Table.from_pylist([_plain(row) for row in some], schema=_SCHEMA))
            rows += len(some)
    return rows


def _plain(row: Row[Any]) -> dict[str, Any]:
    columns = {name: getattr(row, name) for name in _SCHEMA.names}
    for name in _AS_JSON:
        if columns[name] is not None:
            columns[name] = json.dumps(columns[name], ensure_ascii=False, sort_keys=True)
    if columns["shares"] is not None:
        columns["shares"] = [(option, float(share)) for option, share in columns["shares"].items()]
    columns["response__messages"] = [{"role": role, "content": text} for role, text in columns["response__messages"]]
    return columns
