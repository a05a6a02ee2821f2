"""Where a training step's time goes, and how much of the machine's matmul rate it reaches.

    python benchmarks/packing.py                  # 29 M parameters, single precision, 4,096 tokens a micro-batch
    python benchmarks/packing.py --device cuda --dtype bfloat16 --width 1024 --layers 24

A Llama with random weights scores and learns cells of a survey's shape (a prompt of 120 tokens, five answers of four)
through valuealign's own path: collate, CellModel, KTO, backward, AdamW. Printed are the shares of attention, MLP, head,
optimizer and our own Python; model FLOPs (2 for each multiplication and addition of the forward pass and 4 of the
backward pass, masked pairs not counted) over a matrix product's rate measured in the same run; and what it would cost
to put several cells into one row, whose dense mask pays for every masked pair. The last line is JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import torch
from machine import hardware
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from valuealign.models.score import CellModel, to_device
from valuealign.objectives import OBJECTIVES
from valuealign.packing import Row, collate, visible
from valuealign.types import Batch, Cell, Message, Rendered

PROMPT, OPTIONS, ANSWER = 120, 5, 4
VOCABULARY = 4096
PARTS = ("attention", "mlp", "head", "rest of the model", "optimizer", "our Python")


def cells(tokens: int, *, jitter: int = 16) -> list[Row]:
    """Rows of random ids whose padded size stays within ``tokens``; prompts differ a little in length."""
    draw = torch.Generator().manual_seed(0)
    rows: list[Row] = []
    longest = PROMPT + jitter + OPTIONS * ANSWER
    for _ in range(tokens // longest):
        length = PROMPT + int(torch.randint(jitter + 1, (1,), generator=draw))
        ids = torch.randint(3, VOCABULARY, (length + OPTIONS * ANSWER,), generator=draw).tolist()
        answers = tuple(tuple(ids[length + k * ANSWER :][:ANSWER]) for k in range(OPTIONS))
        cell = Cell((Message("user", "?"),), tuple("abcde"), (0.2,) * OPTIONS, (0.2,) * OPTIONS, closed=True)
        rows.append(Row(Rendered(cell, tuple(ids[:length]), answers), (-20.0,) * OPTIONS))
    return rows


class Clock:
    """Seconds spent between marks, by name; on a GPU it waits for the work to end."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict.fromkeys(PARTS, 0.0)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = self.now()
        yield
        self.seconds[name] += self.now() - began

    def watch(self, module: nn.Module, name: str) -> None:
        """Count the module's forward and backward passes under ``name`` (its first argument is a tensor)."""
        forward = module.forward
        began = {"backward": 0.0}

        def start() -> None:
            began["backward"] = self.now()

        def stop() -> None:
            self.seconds[name] += self.now() - began["backward"]

        def timed(*given: Any, **named: Any) -> Any:
            with self.part(name):
                if given:
                    given = (_Mark.apply(given[0], stop), *given[1:])
                else:
                    named["hidden_states"] = _Mark.apply(named["hidden_states"], stop)
                out = forward(*given, **named)
            return (_Mark.apply(out[0], start), *out[1:]) if isinstance(out, tuple) else _Mark.apply(out, start)

        module.forward = timed


class _Mark(torch.autograd.Function):
    """The identity, whose backward pass calls what it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Callable[[], None]) -> Tensor:
        ctx.call = call
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.call()
        return gradient, None


def model_flops(model: LlamaForCausalLM, batch: Batch) -> float:
    """Of a forward and a backward pass: 6 a weight and token, the head's at scored tokens, and 12 a pair and width."""
    config = model.config
    layers = sum(p.numel() for name, p in model.named_parameters() if "layers" in name and p.dim() == 2)
    head = config.vocab_size * config.hidden_size
    pairs = int(visible(batch.branch_BT)[:, 0].sum())
    attention = 12 * config.num_hidden_layers * config.hidden_size * pairs
    return 6.0 * (layers * batch.tokens + head * len(batch.target_S)) + attention


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 1536) -> float:
    """FLOP/s of a square matrix product, the best of several."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in "ab")
    clock, best = Clock(device), float("inf")
    for _ in range(8):
        began = clock.now()
        a @ b
        best = min(best, clock.now() - began)
    return 2 * size**3 / best


def step(model: CellModel, rows: list[Row], optimizer: torch.optim.Optimizer, clock: Clock) -> None:
    """One optimizer step of one micro-batch, as the learner takes it."""
    with clock.part("our Python"):
        batch = to_device(collate(rows, pad_id=0), clock.device)
    logp_N = model(batch)
    with clock.part("our Python"):
        terms = OBJECTIVES["kto"].loss(logp_N, batch.wanted, beta=0.1)
        loss = terms.loss.total / terms.loss.count
    loss.backward()
    with clock.part("optimizer"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def joined(batch: Batch, per_row: int) -> tuple[dict[str, Tensor], Tensor]:
    """The batch's rows laid end to end, ``per_row`` in each: what the model is given, and its block-diagonal mask."""
    rows = len(batch.input_ids_BT) // per_row * per_row
    width = batch.input_ids_BT.shape[1]
    ids, positions = (x[:rows].reshape(-1, per_row * width) for x in (batch.input_ids_BT, batch.position_ids_BT))
    inner = visible(batch.branch_BT[:rows])[:, 0].reshape(-1, per_row, width, width)
    mask = torch.zeros(len(ids), per_row * width, per_row * width, dtype=torch.bool, device=ids.device)
    for place in range(per_row):
        where = slice(place * width, (place + 1) * width)
        mask[:, where, where] = inner[:, place]
    return {"input_ids": ids, "position_ids": positions}, mask[:, None]


def row_seconds(model: LlamaForCausalLM, batch: Batch, per_row: int, clock: Clock, runs: int) -> float:
    """Seconds a cell of forward and backward through the layers, with ``per_row`` cells in a row."""
    given, mask = joined(batch, per_row)
    best = float("inf")
    for _ in range(runs + 1):
        began = clock.now()
        model.get_decoder()(**given, attention_mask=mask, use_cache=False).last_hidden_state.square().mean().backward()
        best = min(best, clock.now() - began)
        model.zero_grad(set_to_none=True)
    return best / (len(given["input_ids"]) * per_row)


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--tokens", default=4096, show_default=True, type=click.IntRange(min=512), help="of a micro-batch")
@click.option("--width", default=512, show_default=True, type=click.IntRange(min=64))
@click.option("--layers", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1), help="the fastest counts")
def main(tokens: int, width: int, layers: int, device: str, dtype: str, runs: int) -> None:
    torch.manual_seed(0)
    place, kind = torch.device(device), getattr(torch, dtype)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=8192,
    )  # fmt: skip
    llama = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").to(place, kind)
    model, rows, clock = CellModel(llama), cells(tokens), Clock(place)
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-4)
    step(model, rows, optimizer, clock)  # a first one warms up
    best = float("inf")
    for _ in range(runs):
        began = clock.now()
        step(model, rows, optimizer, clock)
        best = min(best, clock.now() - began)
    batch = to_device(collate(rows, pad_id=0), place)
    rate, flops = matmul_rate(place, kind), model_flops(llama, batch)
    for layer in llama.get_decoder().layers:
        clock.watch(layer.self_attn, "attention")
        clock.watch(layer.mlp, "mlp")
    clock.watch(llama.get_output_embeddings(), "head")
    clock.seconds = dict.fromkeys(PARTS, 0.0)
    began = clock.now()
    step(model, rows, optimizer, clock)
    whole = clock.now() - began
    clock.seconds["rest of the model"] = whole - sum(clock.seconds.values())
    shares = {name: round(seconds / whole, 3) for name, seconds in clock.seconds.items()}
    for name, share in shares.items():
        print(f"{name:18} {share:6.1%}")
    passes = best * (1 - shares["optimizer"] - shares["our Python"])
    plain = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").to(place, kind)
    per_row = {n: row_seconds(plain, batch, n, clock, 1) for n in (1, 2, 4, 8, len(rows)) if n <= len(rows)}
    for n, seconds in per_row.items():
        print(f"{n:3} cells a row: {1000 * seconds:.1f} ms a cell")
    figures: dict[str, Any] = {
        "parameters": sum(p.numel() for p in llama.parameters()),
        "tokens": batch.tokens,
        "cells": len(rows),
        "seconds": round(best, 4),
        "tokens_per_second": round(batch.tokens / best),
        "fraction_of_matmul_rate": round(flops / passes / rate, 3),
        "fraction_of_matmul_rate_whole_step": round(flops / best / rate, 3),
        "matmul_gflops": round(rate / 1e9, 1),
        "shares": shares,
        "milliseconds_a_cell_by_cells_a_row": {n: round(1000 * s, 2) for n, s in per_row.items()},
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "hardware": torch.cuda.get_device_name(place) if place.type == "cuda" else hardware(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
