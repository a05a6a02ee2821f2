"""BENCHMARKS: the published benchmarks that can be put to models by file (one file, one line here).

Every one computes its own figures by its own formula; docs/benchmarks-published.md says which, what to bring, and
where the published code does something else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from valuealign.errors import ConfigError, SplitError, nearest
from valuealign.evaluate.benchmarks import (
    advice,
    arora,
    globalopinionqa,
    machiavelli,
    opinionqa,
    subpop,
    worldvaluesbench,
)
from valuealign.evaluate.benchmarks.benchmark import Benchmark, Brought
from valuealign.splits import Trained, named

__all__ = ["BENCHMARKS", "Benchmark", "Brought", "read_benchmark"]

BENCHMARKS: dict[str, Benchmark] = {
    "worldvaluesbench": worldvaluesbench.BENCHMARK,
    "globalopinionqa": globalopinionqa.BENCHMARK,
    "opinionqa": opinionqa.BENCHMARK,
    "subpop": subpop.BENCHMARK,
    "advice": advice.BENCHMARK,
    "machiavelli": machiavelli.BENCHMARK,
    "arora": arora.BENCHMARK,
}


def read_benchmark(name: str, path: Path, trained: Trained) -> Brought:
    """The sheet of a benchmark's file without the questions that training saw, or nearly.

    Raises ConfigError for an unknown name, AnswerError for the file, SplitError where training saw all of it.
    """
    if name not in BENCHMARKS:
        mend = nearest(name, BENCHMARKS)
        raise ConfigError(f"no benchmark is called '{name}'", where="--benchmark", mend=mend)
    if not path.exists():
        mend = f"bring {BENCHMARKS[name].form}"
        raise ConfigError(f"there is no '{path}'", where="--file", mend=mend)
    questions, sheet_of = BENCHMARKS[name].read(path)
    leaked = trained.leaks(questions.values())
    if leaked and len(leaked) == len(questions):
        what = f"all that it asks was trained ({len(leaked)} questions): {named(leaked)}"
        raise SplitError(what, where=str(path), mend="judge by a benchmark that asks something else")
    sheet = sheet_of({leak.asked for leak in leaked})
    left_out = tuple(replace(leak, asked=questions[leak.asked].text) for leak in leaked)
    if left_out:
        note = f"{len(left_out):,} of {len(questions):,} questions were left out, since they were trained, or nearly: "
        sheet = replace(sheet, notes=(*sheet.notes, note + named(left_out)))
    return Brought(sheet, BENCHMARKS[name].source, left_out)
