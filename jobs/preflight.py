"""Before a long run: a few minutes that show whether this box, or this cluster, does what a run needs.

    python jobs/preflight.py                          # every check, with a tiny model
    python jobs/preflight.py --model /models/my-base  # with your own
    python jobs/preflight.py --only device --only collectives
    python jobs/preflight.py --json > preflight.json  # progress goes to standard error
    ray job submit -- python jobs/preflight.py        # on the running cluster

Packages, cluster, shared storage, GPU and driver, DeepSpeed, NCCL (gloo without GPUs), packed against
dense scores, steps under ZeRO-3, a worker killed in mid-run, an adapter served. Each passes, fails with
the mend, or is skipped and says why. It uses all GPUs of the cluster, in bf16, and trains for seconds;
without any, two processes do the same list on the CPU. What is served or runs already is left alone.

Exit status: 0 if nothing failed, 1 if a check failed, 2 for a mistake on the command line.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from _job import keep_lines, say, user_errors

from valuealign import config as configuration
from valuealign.preflight import CHECKS, Site, examine, failed, read_pins, record, table

ROOT = Path(__file__).parents[1]


def service() -> Any:
    """The project's service; it loads Ray Serve and the model libraries."""
    from serve import app

    return app


@click.command(help=keep_lines(__doc__), context_settings={"max_content_width": 120})
@click.option("--only", multiple=True, metavar="NAME", type=click.Choice(list(CHECKS)), help=f"of: {', '.join(CHECKS)}")
@click.option("--model", type=click.Path(path_type=Path), help="a Hugging Face folder; without it, a tiny model")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object in place of the table")
def preflight(only: tuple[str, ...], model: Path | None, as_json: bool) -> None:
    chosen = {name: check for name, check in CHECKS.items() if name in (only or CHECKS)}
    home = configuration.home()
    with user_errors():
        pins = read_pins(ROOT / "pyproject.toml")
        (home / "preflight").mkdir(parents=True, exist_ok=True)
        out = Path(tempfile.mkdtemp(dir=home / "preflight"))
    try:
        # Ray prints where it likes: standard output is the JSON's alone.
        with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
            with Site(out, home, pins, service, progress=say, model=model) as site:
                outcomes = examine(chosen, site, progress=say)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    say(json.dumps(record(outcomes), indent=2) if as_json else "\n".join(["", *table(outcomes)]))
    raise SystemExit(1 if failed(outcomes) else 0)


if __name__ == "__main__":
    preflight()
