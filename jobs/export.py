"""Release a prepared data set, or a trained version as a plain Hugging Face folder.

    python jobs/export.py -c run.yaml --out release/town
    python jobs/export.py -c run.yaml --out release/town --targets-only
    python jobs/export.py -c run.yaml --model v12 --out release/town-v12
    python jobs/export.py -c run.yaml --model champion --merged --out release/town-whole

What may be released follows from the codebook's licence tier: `open` releases everything, `aggregates` target shares
and models but no persons' answers, `closed` nothing. Of a data set, persons are renumbered, and shares of fewer people
than --least-n are left out; then, in Python: datasets.load_dataset("release/town", "targets"). A version is written
with its tokenizer and card: all weights if it has them or with --merged, else the adapter in PEFT's layout.
"""

from __future__ import annotations

from pathlib import Path

import click
from _job import open_registry, run_job, say
from prepare import draw, keep

from valuealign.config import RunConfig
from valuealign.dataset import LEAST_N, release
from valuealign.errors import ConfigError
from valuealign.registry import check_base


def export(
    config: RunConfig, out: Path, responses: bool | None, least_n: int, model: str | None = None, merged: bool = False
) -> None:
    """Release a version, or the data set (prepared where that has not been done)."""
    if model is not None:
        if responses is not None:
            raise ConfigError("a version holds no persons' answers", where="--model", mend="leave that option out")
        export_model(config, model, out, merged=merged)
        return
    if merged:
        raise ConfigError("only a version can be merged", where="--merged", mend="name one: --model champion")
    folder = keep(config)
    tables = release(folder, out, responses=responses, least_n=least_n)
    draw(out)
    say(f"released {', '.join(tables)}: {out}")


def export_model(config: RunConfig, ref: str, out: Path, *, merged: bool) -> None:
    """Release a version of the run's model family."""
    from valuealign.models.export import export_version
    from valuealign.models.load import fingerprint, resolve

    version = open_registry().get(ref, name=config.name)
    base = resolve(str(version.card.get("base", config.model.path)), progress=say)
    check_base(version, fingerprint(base, version.quantize), "restore the base that its card names")
    export_version(version, out, base=str(base), merged=merged, progress=say)
    say(f"released {version.ref}: {out}")


if __name__ == "__main__":
    run_job(
        __doc__,
        export,
        click.option("--out", type=click.Path(path_type=Path), required=True, help="the folder to write (a new one)"),
        click.option("--model", metavar="VERSION", help="release this version or alias in place of the data set"),
        click.option("--merged", is_flag=True, help="with --model: an adapter's version as all weights"),
        click.option(
            "--responses/--targets-only",
            default=None,
            help="with or without persons' answers; neither: as the tier allows",
        ),
        click.option(
            "--least-n", default=LEAST_N, show_default=True, type=click.IntRange(1), help="fewest people of a share"
        ),
    )
