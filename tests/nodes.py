"""Run by test_survive in a process of its own: a Ray cluster of several nodes, simulated on this machine.

python tests/nodes.py CPUS...   (of each node; those of the head are the first)

It prints the cluster's address, then takes a line for every node to be lost: the process id of its raylet. Where
its input ends, so does the cluster.
"""

from __future__ import annotations

import socket
import sys

from valuealign.cluster.env import prepare_environment


def main() -> None:
    prepare_environment()
    from ray.cluster_utils import Cluster

    head, *others = map(int, sys.argv[1:])
    common = {"object_store_memory": 128 * 2**20}
    cluster = Cluster()
    # Another cluster may have the usual port.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cluster.add_node(num_cpus=head, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port, **common)
    for cpus in others:
        cluster.add_node(wait=False, num_cpus=cpus, **common)
    cluster.wait_for_nodes(timeout=120)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        lost = next(node for node in cluster.worker_nodes if raylet(node) == int(line))
        cluster.remove_node(lost, allow_graceful=False)
        print("lost", flush=True)
    cluster.shutdown()


def raylet(node: object) -> int:
    from ray._private.ray_constants import PROCESS_TYPE_RAYLET

    (found,) = node.all_processes[PROCESS_TYPE_RAYLET]  # type: ignore[attr-defined]
    return int(found.process.pid)


if __name__ == "__main__":
    main()
