"""What was acknowledged is there after its process was killed, once, and who tries again changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from storing import address as address
from storing import counts, respond
from storing import store as store

from valuealign.store import Store

POSTS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from valuealign.store import Store

store, response, begin = Store.open(sys.argv[1]), sys.argv[2], int(sys.argv[3])
lock = threading.Lock()

def post(n):
    receipt = store.add_feedback(response, verdict="desirable", principal="k", key=f"key-{n}")
    with lock:
        print(n, receipt.id, receipt.replayed, flush=True)

with ThreadPoolExecutor(4) as pool:
    list(pool.map(post, range(begin, begin + 1000)))
"""


def test_an_acknowledged_post_outlives_its_process(store: Store, address: Path | str, tmp_path: Path) -> None:
    response, acknowledged, begin = respond(store), dict[int, str](), 0
    for _ in range(3):
        # Each begins with posts that the one before may have made without living to say so.
        script = [sys.executable, "-c", POSTS, str(address), response, str(max(0, begin - 6))]
        process = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _, line in zip(range(30), process.stdout, strict=False):
            n, id, _replayed = line.split()
            assert acknowledged.setdefault(int(n), id) == id, "a second answer to the same key is the first"
        process.kill()
        for line in process.stdout:  # what it had said before it was killed
            if len(parts := line.split()) == 3:
                assert acknowledged.setdefault(int(parts[0]), parts[1]) == parts[1]
        process.wait()
        process.stdout.close()
        begin = max(acknowledged) + 1
    kept = {judged.feedback.id for judged in store.list_feedback()}
    assert set(acknowledged.values()) <= kept and len(set(acknowledged.values())) == len(acknowledged) >= 90 - 2 * 6
    rows, keys, events = counts(store, "feedback", "idempotency", "audit")
    assert rows == keys == events == len(kept), "whatever was in flight is there whole or not at all"
