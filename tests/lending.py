"""Run by test_lending in a process of its own: a service on one of four GPUs that are only said to be there.

python tests/lending.py HOME KEY

Clients ask without a pause while training borrows first three of the GPUs and then all, while a second training joins
it, and while a third is killed. The last line is JSON: what
they were answered, and what was seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import ray

import serve.app as service
from valuealign.cluster.session import cluster
from valuealign.config import load

DEPLOYED: list[bool] = []  # by this process, and whether without models
DYING = """
import sys, time
import serve.app as service
from valuealign.cluster.session import cluster
with cluster(), service.lent(4):
    print("lent", flush=True)
    time.sleep(600)
"""


def on_cpu(facts: dict[str, Any], *, lent: bool = False, deploy: Any = service._deploy) -> None:
    """The GPUs are counted, but there are none."""
    deploy({**facts, "device": "cpu"}, lent=lent)
    DEPLOYED.append(lent)


class Clients:
    def __init__(self, url: str, key: str) -> None:
        self.headers, self.url, self.phase = {"Authorization": f"Bearer {key}"}, url, "before"
        self.seen: dict[str, Counter[str]] = {}
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.work) for _ in range(3)]
        for thread in self.threads:
            thread.start()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=120, trust_env=False)

    def chat(self, client: httpx.Client) -> httpx.Response:
        asked = [{"role": "user", "content": "Who sings?"}]
        return client.post("/v1/chat/completions", json={"model": "demo", "messages": asked, "max_tokens": 8})

    def work(self) -> None:
        with self.client() as client:
            while not self.over.is_set():
                phase = self.phase
                try:
                    answer = self.chat(client)
                    said = f"{answer.status_code} {answer.headers.get('Retry-After', '')}".strip()
                    if answer.status_code not in (200, 503):
                        said += f" {answer.text}"
                except httpx.HTTPError as error:
                    said = repr(error)
                self.seen.setdefault(phase, Counter())[said] += 1
                time.sleep(0.05)

    def until(self, status: int) -> httpx.Response:
        with self.client() as client:
            for _ in range(1200):
                answer = self.chat(client)
                if answer.status_code == status:
                    return answer
                time.sleep(0.1)
        raise SystemExit(f"never {status}")


@ray.remote
def train(name: str) -> str:
    return name


def main(home: Path, key: str) -> None:
    service._deploy = on_cpu
    config = load(None, ["name=demo", f"serve.port={port()}", "serve.gpus=1", "serve.max_tokens=8"])
    with cluster(num_cpus=4, num_gpus=4, object_store_memory=128 * 2**20):
        clients = Clients(service.start(config, home=home), key)
        first = clients.until(200).json()["id"]
        found: dict[str, Any] = {}
        clients.phase = "three"
        with service.lent(3) as found["moved_for_three"]:
            found["three"] = ray.get(train.options(num_gpus=3).remote("three"), timeout=60)
        clients.phase = "leaving"
        with service.lent(4) as found["moved_for_four"]:
            clients.until(503)
            clients.phase = "away"
            found["four"] = ray.get(train.options(num_gpus=4).remote("four"), timeout=60)
            with clients.client() as client:
                body = {"response_id": first, "verdict": "desirable"}
                posted = client.post("/v1/feedback", json=body, headers={"Idempotency-Key": uuid.uuid4().hex})
                found["feedback"] = posted.status_code
                found["ready_away"] = client.get("/readyz").status_code
            with service.lent(4) as found["moved_for_another"]:
                clients.until(503)
            time.sleep(1)
            clients.until(503)  # the first still trains
            clients.phase = "returning"
        clients.until(200)
        found["deployed"] = list(DEPLOYED)
        clients.phase = "dying"
        address = ray.get_runtime_context().gcs_address
        environment = {**os.environ, "RAY_ADDRESS": address}
        with subprocess.Popen([sys.executable, "-c", DYING], env=environment, stdout=subprocess.PIPE) as lender:
            assert lender.stdout is not None and lender.stdout.readline() == b"lent\n"
            clients.until(503)
            lender.kill()
        clients.until(200)
        clients.phase = "back"
        with clients.client() as client:
            found["ready_back"] = client.get("/readyz").status_code
        time.sleep(1)
        clients.over.set()
        for thread in clients.threads:
            thread.join()
        service.stop()
    print(json.dumps(found | {"seen": clients.seen}))


def port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
