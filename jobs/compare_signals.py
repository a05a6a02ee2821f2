"""Which use of the raw answers teaches a model the people best? One survey, one base, equal compute: a table.

    python jobs/compare_signals.py -c examples/nonvoters_run.yaml survey.file=nonvoters_data.csv
    python jobs/compare_signals.py --signal targets --signal modal --tokens 100000

Trains the base with each signal (group shares, single people, value profiles, one modal answer,
documents) until it has forwarded --tokens, once for each learning rate of the grid; keeps the rate
with the least distance on the select part, and judges on the report part. In this process, without a
cluster. Prints the table and writes it (table.md, comparison.json) below $VALUEALIGN_HOME/runs; what is
done is kept, so that an interrupted comparison goes on when repeated. docs/signals.md reads the table.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import click
from _job import run_job, say

from valuealign import config as configuration
from valuealign.compare import RATES, Comparison, compare, markdown
from valuealign.config import RunConfig
from valuealign.errors import ConfigError
from valuealign.models.load import fingerprint, resolve
from valuealign.prepared import prepare
from valuealign.report import print_table

TOKENS = 400_000


def compare_signals(
    config: RunConfig, signal: tuple[str, ...], tokens: int, rate: tuple[float, ...], into: Path | None, mark: str
) -> Comparison:
    """Compare, print, write; returns the last state."""
    if into is not None:
        around(into, mark)  # a document without a place for the table says so before the work
    base = resolve(config.model.path, progress=say)
    config = config.model_copy(update={"stages": ("distribution",)})
    prepared = prepare(config)
    facts = [configuration.dump(config), prepared.data_hash, fingerprint(base), str(tokens)]
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:10]
    out = configuration.home() / "runs" / config.name / f"signals-{key}"
    say(f"comparison: {out}")
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(base)})})
    run = compare(
        config, prepared.dataset, prepared.exam, out, tokens=tokens, signals=signal, rates=rate or RATES, say=say
    )
    for state in run:
        state = replace(state, evaluation=prepared.sharing.of(state.evaluation))
        write(state, out)
        say(f"  {len(state.chosen)} signals done, the last with learning rate {list(state.chosen.values())[-1].rate:g}")
    say("\n" + print_table(state.evaluation))
    say(f"\ntable: {out / 'table.md'}")
    if into is not None:
        before, after = around(into, mark)
        into.write_text(f"{before}\n\n{markdown(state)}\n\n{after}", encoding="utf-8")
    return state


def write(state: Comparison, out: Path) -> None:
    """The state as a table and as a record; nothing of it names a place on this machine."""
    record = {
        "chosen": {signal: asdict(trial) for signal, trial in state.chosen.items()},
        "trials": [asdict(trial) for trial in state.trials],
        "evaluation": json.loads(state.evaluation.to_json()),
    }
    for name, text in {"table.md": markdown(state), "comparison.json": json.dumps(record, indent=1)}.items():
        aside = out / f".{name}"
        aside.write_text(text + "\n", encoding="utf-8")
        aside.replace(out / name)


def around(document: Path, mark: str) -> tuple[str, str]:
    """A document's text up to and with one mark, and from the other on. Raises ConfigError if it has none."""
    first, last = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    try:
        before, found, rest = document.read_text(encoding="utf-8").partition(first)
    except OSError as error:
        raise ConfigError(
            f"cannot read the document ({error.strerror})", where=str(document), mend="name a Markdown file"
        ) from None
    _, end, after = rest.partition(last)
    if not found or not end:
        raise ConfigError("no place for the table", where=str(document), mend=f"write {first} and {last} in it")
    return before + first, last + after


if __name__ == "__main__":
    run_job(
        __doc__,
        compare_signals,
        click.option("--signal", multiple=True, help="compare these only; may be repeated"),
        click.option("--tokens", type=click.IntRange(1), default=TOKENS, show_default=True, help="of each training"),
        click.option(
            "--rate", multiple=True, type=float, help=f"multiples of distribution.learning_rate; else {RATES}"
        ),
        click.option("--into", type=click.Path(path_type=Path), help="put the table into this Markdown file, ..."),
        click.option("--mark", default="table", show_default=True, help="... between <!-- MARK --> and <!-- /MARK -->"),
    )
