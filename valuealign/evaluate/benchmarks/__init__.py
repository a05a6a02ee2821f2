"""BENCHMARKS: the published benchmarks that can be put to models by file (one file, one line here).

Every one computes its own figures by its own formula; docs/benchmarks-published.md says which, what to bring, and
where the published code does something else.
"""

from __future__ import annotations

from pathlib import Path

from valuealign.errors import ConfigError, nearest
from valuealign.evaluate.benchmarks import (
    advice,
    arora,
    globalopinionqa,
    machiavelli,
    opinionqa,
    subpop,
    worldvaluesbench,
)
from valuealign.evaluate.benchmarks.benchmark import Benchmark
from valuealign.evaluate.sheet import Sheet

__all__ = ["BENCHMARKS", "Benchmark", "read_benchmark"]

BENCHMARKS: dict[str, Benchmark] = {
    "worldvaluesbench": worldvaluesbench.BENCHMARK,
    "globalopinionqa": globalopinionqa.BENCHMARK,
    "opinionqa": opinionqa.BENCHMARK,
    "subpop": subpop.BENCHMARK,
    "advice": advice.BENCHMARK,
    "machiavelli": machiavelli.BENCHMARK,
    "arora": arora.BENCHMARK,
}


def read_benchmark(name: str, path: Path) -> Sheet:
    """The sheet of a benchmark's file. Raises ConfigError for an unknown name, AnswerError for the file."""
    if name not in BENCHMARKS:
        mend = nearest(name, BENCHMARKS)
        raise ConfigError(f"no benchmark is called '{name}'", where="--benchmark", mend=mend)
    if not path.exists():
        mend = f"bring {BENCHMARKS[name].form}"
        raise ConfigError(f"there is no '{path}'", where="--file", mend=mend)
    return BENCHMARKS[name].read(path)
