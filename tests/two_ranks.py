"""Run by test_two_processes under two gloo ranks: train a few steps with DeepSpeed, write the weights.

python tests/two_ranks.py RANK WORLD PORT MODEL OUT ZERO
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    rank, world, port, model, out, zero = sys.argv[1:]
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

    from valuealign.cluster.deepspeed_engine import DeepSpeedEngine

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    sys.path.insert(0, str(Path(__file__).parent))
    from steps import run_steps

    run_steps(
        Path(model),
        Path(out),
        lambda m, pad: DeepSpeedEngine(
            m, pad_id=pad, zero=int(zero), clip=1e9, optimizer=lambda ps: torch.optim.SGD(list(ps), lr=0.0)
        ),
        writes=rank == "0",
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
