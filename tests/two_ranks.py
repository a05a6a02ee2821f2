"""Run by test_two_processes under two gloo ranks: a few steps with DeepSpeed in each of several settings.

python tests/two_ranks.py RANK WORLD PORT MODEL OUT SETTINGS   (SETTINGS: a JSON list of mappings)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    rank, world, port, model, out, settings = sys.argv[1:]
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "DS_ACCELERATOR": "cpu",
    }
    import torch
    import torch.distributed as dist

    from valuealign.cluster import deepspeed_engine
    from valuealign.cluster.deepspeed_engine import DeepSpeedEngine
    from valuealign.models import score

    torch.set_num_threads(1)
    score.HEAD_CHUNK = 8  # so that ranks have other numbers of chunks
    plain = deepspeed_engine.zero_config

    def strict(**how: object) -> dict[str, object]:
        """Nothing stays gathered, as in a model of ordinary size: ranks that gather unequally would hang."""
        config = plain(**how)
        if strict_now:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    deepspeed_engine.zero_config = strict
    strict_now = False
    dist.init_process_group("gloo")
    sys.path.insert(0, str(Path(__file__).parent))
    from steps import Setting, run_steps

    def make(m: object, pad: int, s: Setting) -> DeepSpeedEngine:
        return DeepSpeedEngine(
            m, pad_id=pad, zero=s.zero, clip=s.clip, dtype=s.dtype, offload=s.offload, optimizer=s.optimizer
        )

    for setting in json.loads(settings):
        strict_now = "zero3" in setting["name"]
        s, how = Setting(**setting), {}
        if s.zero == 3 and "loaded-whole" not in s.name:
            how["shard"] = deepspeed_engine.zero_config(stage=3, clip=s.clip, dtype=s.dtype, offload=s.offload)
        run_steps(Path(model), Path(out), make, s, **how)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
