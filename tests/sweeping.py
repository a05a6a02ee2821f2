"""Run by test_survive in a process of its own, that can be killed: a sweep of trials of the tiny model.

python tests/sweeping.py MODEL START OUT [SECTION.KEY=VALUE]...

It joins the cluster that RAY_ADDRESS names, else it starts one. Its last line is the trials that it ended with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from valuealign.cluster.env import prepare_environment


def main() -> None:
    model, start, out = map(Path, sys.argv[1:4])
    prepare_environment()
    import ray
    import test_sweep

    from valuealign.cluster.session import cluster
    from valuealign.cluster.sweep import sweep

    ray.cloudpickle.register_pickle_by_value(test_sweep)  # workers need not load pytest
    plan = test_sweep.plan_of(model, start, out, *sys.argv[4:])
    small = {"num_cpus": 2, "object_store_memory": 256 * 2**20}
    with cluster(**small, include_dashboard=True, dashboard_host="127.0.0.1"):
        trials = sweep(plan, name="kto", progress=lambda line: print(line, flush=True))
    told = [
        {"id": t.id, "setting": dict(t.setting), "figures": dict(t.figures), "whole": t.whole, "error": t.error}
        for t in trials
    ]
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
