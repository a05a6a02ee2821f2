"""What docs/scaling.md has in its tables: four A40s, 8 and 64 GPUs, planned from rates and bytes on the wire.

    python benchmarks/scaling_plan.py            # prints the tables
    python benchmarks/scaling_plan.py --check    # fails where docs/scaling.md has others
    python benchmarks/scaling_plan.py --write    # puts them there

Memory, operations and micro-batches are the planner's (valuealign/planner/), bytes those of its wire.py. The share of
a GPU's peak that is reached is what benchmarks/scaling.py measured, where a result for that GPU lies in
benchmarks/results/ (the last by name counts), else the planner's assumption; each table says which. No model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click

from valuealign import planner
from valuealign.config import DistributionConfig, RunConfig
from valuealign.config import load as load_run
from valuealign.learner import Stage, distribution_term
from valuealign.planner import GB, wire
from valuealign.planner.architecture import Architecture
from valuealign.planner.work import Size
from valuealign.types import Cell, Message

HERE = Path(__file__).parent
PAGE, RESULTS = HERE.parent / "docs" / "scaling.md", HERE / "results"
GIGABIT = 1e9 / 8  # bytes
# A survey question of 120 tokens with its group, and five answers of four (three are read, the last is predicted).
CELL = Size(120, (4,) * 5)
STEP = 256  # cells of an optimizer step
EACH = 64  # cells a GPU, where the step grows with the GPUs
BUDGETS = (8192, 4096, 2048)  # tokens of a micro-batch: few need no recomputation, many gather weights less often


def _llama_like(width: int, inner: int, layers: int, heads: int, *, tied: bool) -> dict[str, Any]:
    """A config.json of Qwen3's kind: 8 key heads, heads of 128."""
    return {
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128,
        "tie_word_embeddings": tied,
    }  # fmt: skip


# The sizes of Qwen3-1.7B, Qwen3-8B and Qwen3-32B.
MODELS = {
    "small": _llama_like(2048, 6144, 28, 16, tied=True),
    "medium": _llama_like(4096, 12_288, 36, 32, tied=False),
    "large": _llama_like(5120, 25_600, 64, 64, tied=False),
}
RUNS = (
    ("small", "lora"),
    ("medium", "lora"),
    ("medium", "full"),
    ("large", "lora"),
    ("large", "nf4"),
    ("large", "full"),
)
TRAINS = {"lora": "an adapter", "nf4": "an adapter, the base in 4 bits", "full": "all weights"}
HOST = 32 * GB  # bytes of the host's memory that a GPU's offloaded states may take, to be advised


class Setup(NamedTuple):
    """GPUs of a kind in one box, or in several with a network: Gbit/s of a box in each direction."""

    gpus: int
    kind: str
    boxes: int = 1
    network: float = 0.0

    @property
    def name(self) -> str:
        """In words."""
        apart = f", {self.boxes} boxes, {self.network:,.0f} Gbit/s each" if self.boxes > 1 else ""
        return f"{self.gpus} x {self.kind}{apart}"

    @property
    def box(self) -> planner.Box:
        """As the planner takes it."""
        return planner.Box(self.gpus, planner.GPUS[self.kind].memory * GB, self.kind)

    @property
    def link(self) -> wire.Link:
        """What a ring over all of them waits for."""
        gpu = planner.GPUS[self.kind]
        inside = wire.Link(gpu.link, gpu.sends * GB)
        return wire.slowest(inside, wire.Link("network", self.network * GIGABIT)) if self.boxes > 1 else inside


SETUPS = (
    Setup(4, "A40"),
    Setup(8, "A40", 2, 25),
    Setup(8, "A40", 2, 100),
    Setup(8, "H100"),
    Setup(64, "A40", 16, 100),
    Setup(64, "H100", 8, 3200),
)


class Row(NamedTuple):
    """A run on a setup: how it is trained, bytes a GPU, and of an optimizer step its cells, seconds and bytes sent."""

    way: RunConfig
    plan: planner.Plan
    cells: int
    micros: int
    computing: float
    moved: tuple[wire.Moved, ...]
    sent: float
    sending: float

    @property
    def slow(self) -> float:
        """Seconds of a step if nothing is sent while something is computed."""
        return self.computing + self.sending

    @property
    def quick(self) -> float:
        """Seconds of a step if as much as can be is."""
        return max(self.computing, self.sending)

    @property
    def offloads(self) -> bool:
        """Whether the optimizer's states are on the host."""
        return self.way.train.offload != "none"


def configured(kind: str, budget: int = BUDGETS[0]) -> RunConfig:
    """The run: bfloat16, rank 16 where it is an adapter."""
    what = ("model.train=lora", "model.quantize=nf4") if kind == "nf4" else (f"model.train={kind}",)
    return load_run(None, (*what, "model.dtype=bfloat16", f"train.token_budget={budget}"))


def sizes_of(model: str) -> Architecture:
    """The model's sizes."""
    return planner.read_architecture(MODELS[model])


@cache
def loaded(cells: int) -> planner.Load:
    """A stage whose step has so many cells of one length."""
    one = Cell((Message("user", "?"),), tuple("abcde"), (0.2,) * 5, (0.0,) * 5, closed=True)
    term = distribution_term([one] * cells, DistributionConfig())
    return planner.load(Stage("distribution", (term,), epochs=1, learning_rate=1e-4, cells_per_step=cells), _size)


def _size(cell: Cell) -> Size:
    return CELL


def utilisation(kind: str) -> tuple[float, str]:
    """The share of a GPU's peak that is reached, and where that is from."""
    for path in sorted(RESULTS.glob("*-scaling*.json"), reverse=True):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("kind") == kind and found["utilisation"]:
            return float(found["utilisation"]), f"measured: `benchmarks/results/{path.name}`"
    return planner.UTILISATION, "assumed"


@cache
def row(model: str, kind: str, setup: Setup, cells: int) -> Row | None:
    """One trial over all GPUs of a setup, with the token budget that takes the least time; None where none fits."""
    found = [one for budget in BUDGETS if (one := _row(model, kind, setup, cells, budget))]
    return min(found, key=lambda one: (one.offloads, one.slow), default=None)


def _row(model: str, kind: str, setup: Setup, cells: int, budget: int) -> Row | None:
    """With one budget, in the fastest way that fits by the planner."""
    run, sizes, load = configured(kind, budget), sizes_of(model), loaded(cells)
    found = planner.candidates(MODELS[model], run, setup.box, micro=planner.largest_of([load], sizes))
    chosen = planner.best(found)
    if chosen is None:
        return None
    way = planner.changed(run, chosen.settings)
    rate = planner.rate_of(setup.box, way.model.dtype, utilisation(setup.kind)[0])
    time = planner.stage_time(load, planner.Clock(sizes, way, rate), ranks=setup.gpus)
    step = load.step(0, ranks=setup.gpus, token_budget=way.train.token_budget, packed=sizes.packed)
    micros = max(map(len, step.trained))
    moved = tuple(wire.moved(sizes, way, trained=micros))
    sent = wire.sent(moved, setup.gpus)
    return Row(way, chosen.plan, cells, micros, time.seconds, moved, sent, setup.link.seconds(sent))


def figure(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 0.0005 or value == 0:
        return f"{value:.3g}"
    return f"{value:.6f}".rstrip("0")


def between(low: float, high: float) -> str:
    """A range, or one figure where both look alike."""
    ends = (figure(low), figure(high))
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def percent(low: float, high: float) -> str:
    """A range in per cent."""
    ends = (f"{100 * low:.0f}", f"{100 * high:.0f}")
    return f"{ends[0]} %" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} %"


def way_of(found: Row) -> str:
    """How it is trained, in words."""
    train = found.way.train
    more = [", recomputed"] * train.recompute
    more += [f", offloaded ({found.plan.host / GB:.3g} GB)*"] * found.offloads
    return f"ZeRO {train.zero}{''.join(more)}, {train.token_budget:,} tokens"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rates() -> str:
    """Each GPU's peak and what is reached of it, and what joins the setups."""
    kinds = dict.fromkeys(setup.kind for setup in SETUPS)
    rows = []
    for kind in kinds:
        share, whence = utilisation(kind)
        peak = planner.GPUS[kind].bfloat16
        rows.append([kind, f"{peak:g}", f"{share:.3g}", f"{share * peak:.1f}", whence])
    first = table(["GPU", "peak, TFLOP/s", "share", "TFLOP/s", "share is"], rows)
    links = [
        [s.name, s.link.name, f"{s.link.bandwidth / GB:.4g}", f"{wire.REACHED * s.link.bandwidth / GB:.4g}"]
        for s in SETUPS
    ]
    head = ["GPUs", "a ring waits for", "GB/s, nominal", f"taken, {wire.REACHED:g} of it (assumed)"]
    return f"{first}\n{table(head, links)}"


def models() -> str:
    """Parameters, and what an adapter adds."""
    rows = []
    for name, config in MODELS.items():
        sizes = sizes_of(name)
        adapter = sizes.lora(configured("lora").model.lora_r)
        rows.append(
            [name, f"{sizes.parameters:,}", f"{adapter:,}", f"{config['num_hidden_layers']}", f"{sizes.width:,}"]
        )
    return table(["model", "parameters", "of an adapter", "layers", "width"], rows)


def alone() -> str:
    """A trial on each GPU: nothing is sent, so N GPUs do N times as much."""
    rows = []
    for model, kind in RUNS:
        for gpu in dict.fromkeys(setup.kind for setup in SETUPS):
            found = row(model, kind, Setup(1, gpu), STEP)
            if found is None:
                rows.append([model, TRAINS[kind], gpu, "fits in no way", "", "", "", "", ""])
                continue
            rate = found.cells / found.computing
            times = [figure(n * rate) for n in (1, 4, 8, 64)]
            rows.append([model, TRAINS[kind], gpu, way_of(found), f"{found.plan.total / GB:.1f}", *times])
    head = ["model", "trains", "GPU", "way", "GB a GPU", "cells/s of 1", "of 4", "of 8", "of 64"]
    return table(head, rows)


def over_all() -> str:
    """One trial over all GPUs."""
    parts = []
    for model, kind in RUNS:
        rows = []
        for setup in SETUPS:
            for cells in dict.fromkeys((STEP, EACH * setup.gpus)):
                rows.append(_line(setup, row(model, kind, setup, cells), cells))
        head = [
            "GPUs", "cells a step", "way", "GB a GPU", "computing, s", "sent a GPU, GB", "sending, s", "cells/s",
            "efficiency",
        ]  # fmt: skip
        parts.append(f"**{model.capitalize()}, {TRAINS[kind]}**\n\n{table(head, rows)}")
    return "\n".join(parts)


def _line(setup: Setup, found: Row | None, cells: int) -> list[str]:
    if found is None:
        return [setup.name, f"{cells:,}", "fits in no way", *[""] * 6]
    few = "†" if cells * sum(CELL.strips(True)) / setup.gpus < planner.hours.FEW else ""
    return [
        setup.name,
        f"{cells:,}{few}",
        way_of(found),
        f"{found.plan.total / GB:.1f}",
        figure(found.computing),
        figure(found.sent / GB),
        figure(found.sending),
        between(cells / found.slow, cells / found.quick),
        percent(found.computing / found.slow, found.computing / found.quick),
    ]


def choice() -> str:
    """A trial on each GPU, one on each box, one over all: cells a second of the whole."""
    rows = []
    for model, kind in RUNS:
        for setup in SETUPS:
            one = row(model, kind, Setup(1, setup.kind), STEP)
            box = row(model, kind, Setup(setup.gpus // setup.boxes, setup.kind), STEP) if setup.boxes > 1 else None
            every = row(model, kind, setup, STEP)
            speeds = [_speed(one, setup.gpus), _speed(box, setup.boxes) if setup.boxes > 1 else "", _speed(every, 1)]
            rows.append([model, TRAINS[kind], setup.name, *speeds, _advice(one, box, every, setup)])
    return table(["model", "trains", "GPUs", "on each GPU", "on each box", "over all", "for a sweep"], rows)


def _speed(found: Row | None, times: int) -> str:
    return between(times * STEP / found.slow, times * STEP / found.quick) if found else "does not fit"


def _advice(one: Row | None, box: Row | None, every: Row | None, setup: Setup) -> str:
    if one and one.plan.host <= HOST:
        return "a trial on each GPU"
    if box and (every is None or setup.boxes / box.slow >= 1 / every.slow):
        return "a trial on each box"
    return "one over all" if every else "more or larger GPUs"


def arithmetic() -> str:
    """One row of the tables in full: the large model's adapter over the first setup."""
    setup, model = SETUPS[0], "large"
    found = row(model, "lora", setup, STEP)
    assert found is not None
    sizes, n = sizes_of(model), setup.gpus
    p, t = sizes.parameters, sizes.lora(found.way.model.lora_r)
    rank = found.way.model.lora_r
    small = sum(count * size for size, count in wire.tensors(sizes, rank) if size <= wire.PERSISTENT)
    kept = int(p + t - small - found.moved[1].size / (2 * found.micros))
    again = p + t - small - kept
    link, (share, whence) = setup.link, utilisation(setup.kind)
    peak = planner.GPUS[setup.kind].bfloat16
    work = found.computing * share * peak
    gathered, once_more, gradients, updated = (one.sent(n) / GB for one in found.moved)
    said = [
        f"{model}, an adapter, {setup.name}, {way_of(found)}: {STEP} cells a step, {found.micros} micro-batches a GPU",
        "",
        f"P  parameters of the base                      {p:>16,}",
        f"T  of the adapter, the only ones with gradients {t:>15,}",
        f"S  in tensors of up to {wire.PERSISTENT:,} elements, whole everywhere {small:>11,}",
        f"Q  P + T - S - {kept:,} (head, embedding, first q, k, v): again backward {again:>10,}",
        "",
        "each GPU sends, in a step",
        f"  weights, forward     {n - 1}/{n} x {found.micros} x 2 bytes x (P + T - S)  {gathered:>9.3f} GB",
        f"  weights, backward    {n - 1}/{n} x {found.micros} x 2 bytes x Q            {once_more:>9.3f} GB",
        f"  gradients            {n - 1}/{n} x {found.micros} x 4 bytes x T            {gradients:>9.3f} GB",
        f"  S, once updated      {n - 1}/{n} x 2 bytes x S                {updated:>9.3f} GB",
        f"  together                                        {found.sent / GB:>9.3f} GB",
        f"sending     {found.sent / GB:.3f} GB / ({wire.REACHED:g} x {link.bandwidth / GB:g} GB/s) = "
        f"{found.sending:.3f} s",
        f"computing   {work:.1f} TFLOP a GPU / ({share:.3g} x {peak:g} TFLOP/s, {whence.partition(':')[0]}) = "
        f"{found.computing:.3f} s",
        f"a step      {found.quick:.3f} s (all sent while computing) to {found.slow:.3f} s (nothing)",
        f"cells/s     {STEP} / {found.slow:.3f} s = {STEP / found.slow:.3g} to {STEP} / {found.quick:.3f} s = "
        f"{STEP / found.quick:.3g}",
    ]
    return "".join(f"    {line}".rstrip() + "\n" for line in said)


def cpu_result() -> Mapping[str, Any]:
    """The last result of benchmarks/scaling.py on a CPU, with its name."""
    for path in sorted(RESULTS.glob("*-scaling*.json"), reverse=True):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["device"] == "cpu":
            return found | {"name": path.name}
    raise click.ClickException("no result of benchmarks/scaling.py on a CPU lies in benchmarks/results/")


def by_arithmetic(one: Mapping[str, Any], wired: Mapping[str, Any]) -> tuple[float, float]:
    """Bytes that a rank sends in a step by wire.py, in NCCL's rings and by gloo, in what benchmarks/scaling.py ran."""
    keys = (f"model.train={one['train']}", f"train.zero={one['zero']}", f"model.dtype={wired['dtype']}")
    sizes, run = planner.read_architecture(wired["config"]), load_run(None, keys)
    first, more = (wire.moved(sizes, run, trained=n, **wired["thresholds"]) for n in (1, 2))
    # The mean of several steps may lie between two numbers of micro-batches, in which all is linear.
    found = [
        a._replace(size=a.size + (one["micro_batches"] - 1) * (b.size - a.size))
        for a, b in zip(first, more, strict=True)
    ]
    # Gloo adds up everywhere even where a shard is asked for (torch's ProcessGroupGloo).
    gloo = [m._replace(how="all-reduce") if m.how == "reduce-scatter" else m for m in found]
    return wire.sent(found, one["workers"]), wire.sent(gloo, one["workers"])


def measured() -> str:
    """Bytes by the arithmetic beside measured ones."""
    wired, rows = cpu_result()["wire"], []
    for one in wired["sent"]:
        planned, gloo = by_arithmetic(one, wired)
        given, tcp = one["given_to_collectives"], one["tcp"]
        trained = f"{TRAINS[one['train']]}, ZeRO {one['zero']}"
        sizes = [f"{size / 1e6:.3f}" for size in (planned, given, gloo, tcp)]
        rows.append([trained, f"{one['micro_batches']:g}", *sizes, f"{given / planned:.3f}", f"{tcp / gloo:.3f}"])
    head = [
        "trains", "micro-batches", "by arithmetic, MB", "in collectives", "by arithmetic for gloo", "over TCP",
        "ratio in collectives", "ratio over TCP",
    ]  # fmt: skip
    return table(head, rows)


def workers() -> str:
    """Cells a second with one and two workers."""
    found = cpu_result()
    rows = [
        [
            way.replace("lora", TRAINS["lora"]).replace("full", TRAINS["full"]),
            *(f"{one[n]['cells_per_second']:.2f}" for n in ("1", "2")), f"{one['ratio']:.2f}",
            f"{one['ratio_of_cpu_seconds']:.2f}",
            *(f"{one[n]['tokens_per_second']:,.0f}" for n in ("1", "2")),
            *(f"{one[n]['waiting']:.2f}" for n in ("1", "2")),
        ]
        for way, one in found["rates"].items()
    ]  # fmt: skip
    head = [
        "trains", "cells/s, 1 worker", "2 workers", "ratio", "of processor time", "tokens/s, 1", "2", "waiting, 1", "2",
    ]  # fmt: skip
    return table(head, rows)


TABLES = {
    "models": models,
    "rates": rates,
    "arithmetic": arithmetic,
    "alone": alone,
    "over all": over_all,
    "choice": choice,
    "workers": workers,
    "measured": measured,
}


def filled(text: str) -> str:
    """The page with its tables as they are computed now. Each stands between ``<!-- name -->`` and ``<!-- end -->``."""
    for name, make in TABLES.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        if not mark or "<!-- end -->" not in rest:
            raise click.ClickException(f"{PAGE.name} has no place for the table '{name}'")
        text = f"{before}{mark}\n{make()}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def differences(text: str, now: str) -> Iterator[str]:
    """Lines that are not as computed, with what they should be."""
    old, new = text.splitlines(), now.splitlines()
    for number in range(max(len(old), len(new))):
        a, b = (lines[number] if number < len(lines) else "(no line)" for lines in (old, new))
        if a != b:
            yield f"line {number + 1}\n  has      {a}\n  computed {b}"


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--check", is_flag=True, help="fail where the page has other figures")
@click.option("--write", is_flag=True, help="put the tables into the page")
@click.option("--page", default=PAGE, type=click.Path(path_type=Path, dir_okay=False), help="docs/scaling.md")
def main(check: bool, write: bool, page: Path) -> None:
    if not check and not write:
        for name, make in TABLES.items():
            print(f"{name}\n\n{make()}")
        return
    text = page.read_text(encoding="utf-8")
    now = filled(text)
    if write:
        page.write_text(now, encoding="utf-8")
    elif found := list(differences(text, now)):
        raise click.ClickException(f"{page.name} is not what is computed (--write mends it)\n" + "\n".join(found[:10]))


if __name__ == "__main__":
    main()
