"""The planner's memory beside a measured run's: LoRA and full, with and without recomputation, in one table.

    python benchmarks/planner_memory.py
    python benchmarks/planner_memory.py --dtype bfloat16 --width 896 --layers 24    # about 0.5B, for a GPU

Trains a Llama and a Qwen3 with random weights for two optimizer steps of two micro-batches each, by
LocalEngine, and takes the most bytes that exist at a time in the second: on a CUDA device
torch.cuda.max_memory_allocated, less what was there before; without one all tensors' bytes as they
come and go, and also what autograd keeps of a forward pass, beside the planner's activations.
Nothing is timed. The defaults are about 0.5B parameters on CUDA and 30M on a CPU. The last line is
JSON; a ratio is measured over planned.
"""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Sequence
from typing import Any

import click
import torch
from machine import hardware
from transformers import AutoConfig, AutoModelForCausalLM

from valuealign.config import RunConfig, load
from valuealign.engine import LocalEngine
from valuealign.models.adapters import add_adapter
from valuealign.models.score import CellModel
from valuealign.packing import Row, collate, visible
from valuealign.planner import CPU, Box, Micro, plan
from valuealign.planner.measure import Live, kept_bytes
from valuealign.types import Batch, Cell, Message, Rendered

KINDS = ("llama", "qwen3")
DEFAULTS = {"cuda": (896, 24, 32_000, "bfloat16"), "cpu": (512, 6, 8_000, "float32")}
PROMPT, COMPLETIONS = 100, (3, 4, 5, 6)  # tokens of a cell
ROWS = 16


def sizes(kind: str, width: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """A config of the kind: heads of 64 (at least four), half as many keys, an MLP of 3 widths."""
    heads = max(4, width // 64)
    more = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": width} if "moe" in kind else {}
    found = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=width // heads,
        tie_word_embeddings=False,
        **more,
    )
    return dict(json.loads(found.to_json_string()))


def make_model(config: dict[str, Any], run: RunConfig, device: str) -> CellModel:
    """Random weights, with what trains of them, all in the run's precision (an adapter too, as under DeepSpeed)."""
    dtype = getattr(torch, run.model.dtype)
    known = AutoConfig.for_model(**config)
    base = AutoModelForCausalLM.from_config(known, dtype=dtype, attn_implementation="sdpa").eval()
    if run.model.train == "full":
        model = CellModel(base.requires_grad_(True))
    else:
        adapted = add_adapter(base.requires_grad_(False), r=run.model.lora_r, alpha=run.model.lora_alpha, seed=0)
        model = CellModel(adapted)
    if run.train.recompute:
        model.recompute()
    return model.to(device=device, dtype=dtype)


def make_batch(vocabulary: int, *, rows: int, packed: bool) -> Batch:
    """Rows of the same length, tokens at random."""
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=draw).tolist())

    k = len(COMPLETIONS)
    cell = Cell((Message("user", "?"),), ("x",) * k, (1.0,) * k, (0.0,) * k)
    rendered = [Rendered(cell, ids(PROMPT), tuple(ids(c) for c in COMPLETIONS)) for _ in range(rows)]
    return collate([Row(one) for one in rendered], pad_id=0, packed=packed)


def measured_peak(model: CellModel, batch: Batch, device: str) -> float:
    """The most bytes that exist at a time in an optimizer step of two micro-batches."""
    made: list[torch.optim.Optimizer] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.AdamW(list(parameters), lr=0.0))
        return made[-1]

    engine = LocalEngine(model, pad_id=0, optimizer=optimizer)

    def step() -> None:
        for _ in range(2):
            engine.backward(-engine.score(batch).sum() / 1000)
        engine.step(1e-4)

    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return float(torch.cuda.max_memory_allocated())
    moments = [v for state in made[0].state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    with Live([*model.parameters(), *model.buffers(), *moments]) as live:
        step()
    return float(live.peak)


def kept(model: CellModel, batch: Batch) -> int:
    """What autograd keeps of the layers' forward pass."""
    mask = visible(batch.branch_BT) if model.packed else (batch.branch_BT >= 0).long()
    where = {"input_ids": batch.input_ids_BT, "position_ids": batch.position_ids_BT, "attention_mask": mask}
    decoder = model.causal.get_decoder()
    return kept_bytes(model, lambda: decoder(**where, use_cache=False).last_hidden_state)


def compare(
    config: dict[str, Any], overrides: Sequence[str], *, device: str = "cpu", rows: int = ROWS
) -> dict[str, Any]:
    """Planned and measured bytes of one way to train; ``kept`` only on the CPU, and not where it recomputes."""
    run = load(None, tuple(overrides))
    torch.manual_seed(0)
    gc.collect()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    model = make_model(config, run, device)
    batch = make_batch(config["vocab_size"], rows=rows, packed=model.packed)
    micro = Micro(*batch.input_ids_BT.shape, len(batch.target_S))
    planned = plan(config, run, Box(1, 0.0, CPU if device == "cpu" else device), micro=micro, local=True)
    found: dict[str, Any] = {
        "planned": max(planned.training, planned.step),
        "measured": measured_peak(model, batch, device) - before,
        "parameters": planned.parameters,
        "trained": planned.trained,
        "real": sum(p.numel() for p in model.parameters()),
    }
    if device == "cpu" and not run.train.recompute:
        found |= {"activations": planned.items["activations"], "kept": kept(model, batch)}
    return found


def table(width: int, layers: int, vocabulary: int, dtype: str, device: str, rows: int) -> dict[str, Any]:
    """Every kind and way."""
    results = []
    print(f"{'':42}{'planned, MB':>12}{'measured':>12}{'ratio':>8}")
    for kind, train, recompute in itertools.product(KINDS, ("lora", "full"), (False, True)):
        overrides = (f"model.train={train}", f"train.recompute={recompute}", f"model.dtype={dtype}")
        one = compare(sizes(kind, width, layers, vocabulary), overrides, device=device, rows=rows)
        name = f"{kind}, {train}{', recomputed' if recompute else ''}"
        pairs = [("", one["planned"], one["measured"])]
        pairs += [(": kept activations", one["activations"], one["kept"])] if "kept" in one else []
        for what, planned, measured in pairs:
            print(f"{name + what:42}{planned / 1e6:12.1f}{measured / 1e6:12.1f}{measured / planned:8.3f}", flush=True)
            results.append({"name": name + what, "planned": planned, "measured": measured})
    ratios = [one["measured"] / one["planned"] for one in results]
    return {
        "least_ratio": round(min(ratios), 4),
        "largest_ratio": round(max(ratios), 4),
        "results": results,
        "dtype": dtype,
        "device": device,
        "measured_by": "torch.cuda.max_memory_allocated" if device == "cuda" else "bytes of all tensors",
        "hardware": torch.cuda.get_device_name() if device == "cuda" else hardware(),
    }


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--width", type=click.IntRange(min=32))
@click.option("--layers", type=click.IntRange(min=1))
@click.option("--vocabulary", type=click.IntRange(min=64))
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]))
@click.option("--rows", default=ROWS, show_default=True, type=click.IntRange(min=1), help="cells of a micro-batch")
def main(
    width: int | None,
    layers: int | None,
    vocabulary: int | None,
    dtype: str | None,
    rows: int,
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = DEFAULTS[device]
    if device == "cpu":
        print("no CUDA device is here: bytes of all tensors on the CPU stand for a GPU's memory")
    size = (width or usual[0], layers or usual[1], vocabulary or usual[2])
    print(json.dumps(table(*size, dtype or usual[3], device, rows)))


if __name__ == "__main__":
    main()
