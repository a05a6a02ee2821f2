"""Release a prepared data set: Parquet tables that `datasets.load_dataset` reads, with a data card.

    python jobs/export.py -c run.yaml --out release/town
    python jobs/export.py -c run.yaml --out release/town --targets-only

What may be released follows from the codebook's licence tier: `open` releases everything, `aggregates` target shares
but no persons' answers, `closed` nothing. Persons are renumbered, and shares of fewer people than --least-n are left
out. Then, in Python: datasets.load_dataset("release/town", "targets").
"""

from __future__ import annotations

from pathlib import Path

import click
from _job import run_job, say
from prepare import draw, keep

from valuealign.config import RunConfig
from valuealign.dataset import release


def export(config: RunConfig, out: Path, responses: bool | None, least_n: int) -> None:
    """Prepare the data set where that has not been done, then release it."""
    folder = keep(config)
    tables = release(folder, out, responses=responses, least_n=least_n)
    draw(out)
    say(f"released {', '.join(tables)}: {out}")


if __name__ == "__main__":
    run_job(
        __doc__,
        export,
        click.option("--out", type=click.Path(path_type=Path), required=True, help="the folder to write (a new one)"),
        click.option(
            "--responses/--targets-only",
            default=None,
            help="with or without persons' answers; neither: as the tier allows",
        ),
        click.option(
            "--least-n", default=10, show_default=True, type=click.IntRange(1), help="fewest people of a share"
        ),
    )
