"""DeepSpeed on one rank for every ZeRO stage: planned and measured bytes as JSON (run by test_planner_measured.py)."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

os.environ |= {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": sys.argv[1],
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
}

import deepspeed
import torch
from planner_memory import make_batch, make_model, sizes

from valuealign.cluster.deepspeed_engine import zero_config
from valuealign.config import load
from valuealign.planner import CPU, Box, Micro, memory, plan
from valuealign.planner.measure import Live

FEW = 300_000  # elements of a bucket: fewer than train, so that the states count
# Gradients are added up and sent in single precision, as the planner takes them to be.
SINGLE = {"communication_data_type": "fp32", "data_types": {"grad_accum_dtype": "fp32"}}


def compare(zero: int, dtype: str, train: str) -> dict[str, Any]:
    """The most bytes of a second step of two micro-batches: before the optimizer steps, and while it does."""
    memory.BUCKET = FEW if zero else memory.BUCKET  # at 0 DeepSpeed does not ask
    run = load(None, (f"train.zero={zero}", f"model.dtype={dtype}", f"model.train={train}"))
    config = sizes("llama", 256, 4, 300)
    model = make_model(config, run, "cpu")
    batch = make_batch(300, rows=1, packed=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    micro = Micro(*batch.input_ids_BT.shape, len(batch.target_S))
    planned = plan(config, run, Box(1, 0.0, CPU), micro=micro, local=False)
    peaks = []
    with Live([*model.parameters(), *model.buffers()]) as live:
        settings = zero_config(stage=zero, clip=0.0, dtype=dtype) | SINGLE
        settings["zero_optimization"]["reduce_bucket_size"] = FEW
        engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(trained), config=settings)
        for _ in range(2):
            live.peak = live.now
            for _ in range(2):
                engine.backward(engine(batch).sum() / 1000, scale_wrt_gas=False)
            peaks.append(live.peak)
            live.peak = live.now
            engine.step()
            peaks.append(live.peak)
    return {"training": (planned.training, peaks[2]), "step": (planned.step, peaks[3])}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    cases = [(0, "float32", "full"), (2, "bfloat16", "lora"), (2, "float32", "full")]
    cases += [(zero, "bfloat16", "full") for zero in (1, 2, 3)]
    found = {" ".join(map(str, case)): compare(*case) for case in cases}
    print(json.dumps(found))
