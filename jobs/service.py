"""Serve the champion over HTTP until Ctrl-C.

    python jobs/service.py                                   # the family 'demo' on http://127.0.0.1:8000
    python jobs/service.py name=nonvoters serve.port=8080

Joins the cluster of RAY_ADDRESS, or starts one. Promotions and rollbacks are seen at the next
request; nothing needs a restart.
"""

from __future__ import annotations

import contextlib
import signal
import threading

from _job import open_store, run_job, say

from valuealign import config as configuration
from valuealign.cluster.session import cluster
from valuealign.config import RunConfig


def service(config: RunConfig) -> None:
    """Serve until a signal says stop."""
    from serve.app import start, stop

    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with cluster():
        url = start(config, home=configuration.home())
        say(f"serving {config.name} at {url}   (Ctrl-C stops)")
        if config.serve.auth and not any(key.revoked is None for key in open_store().keys.list()):
            say("nobody has a key yet: python jobs/keys.py create --name me --scope admin")
        try:
            over.wait()
        finally:
            with contextlib.suppress(Exception):  # the cluster may be gone already
                stop()


if __name__ == "__main__":
    run_job(__doc__, service)
