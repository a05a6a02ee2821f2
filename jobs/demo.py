"""The whole road on the embedded population, on one cluster: what `make demo` runs.

    python jobs/demo.py            # KEEP=1 leaves the service up until Ctrl-C

Align, sweep, serve, ask, correct, review, update, ask again. Everything it starts it stops.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

import click
import httpx
from _job import keep_lines, open_registry, open_store, say, user_errors
from align import align
from sweep_kto import sweep_kto
from update import learn_from_feedback

from serve import app as service
from valuealign import config as configuration
from valuealign.cluster.session import cluster
from valuealign.errors import ValuealignError

QUESTION = "A new family moves in next door and knows nobody. What should I do?"
CORRECTION = "Knock, say hello, and help them meet the neighbours."
ITEM = {
    "item": "How important is it to you to help the people around you?",
    "options": ["very important", "fairly important", "hardly important", "not important"],
}


def step(number: int, title: str) -> float:
    """Announce a step of the road; returns when it began."""
    say(f"\n== {number}. {title}")
    return time.perf_counter()


def demo() -> None:
    """The road, end to end."""
    began = time.perf_counter()
    # DEMO_SET holds overrides, separated by spaces: how the tests run the demo small.
    config = configuration.load(None, os.environ.get("DEMO_SET", "").split())
    with cluster():
        step(1, "align: survey -> targets -> cells -> two stages -> evaluation -> registry")
        made = align(config)
        step(2, f"sweep: {config.sweep.trials} trials over beta, lambda_d, lambda_u from the stage-1 model")
        sweep_kto(config)
        step(3, "serve")
        url = service.start(config, home=configuration.home())
        say(f"serving {config.name}@champion at {url}")
        keys = open_store().keys
        key, secret = keys.create("demo", ("query", "feedback"), who="demo")
        try:
            with httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {secret}"}) as client:
                talk(client, config)
            took = time.perf_counter() - began
            say(f"\ndone in {took / 60:.1f} minutes\nreport: {made['report']}\nserved at: {url}")
            if os.environ.get("KEEP"):
                say(f"KEEP=1: serving until Ctrl-C, to this key: {secret}")
                with contextlib.suppress(KeyboardInterrupt):
                    threading.Event().wait()
        finally:
            keys.revoke(key.id, who="demo")
            service.stop()
    say(
        "everything that was started is stopped"
        + ("" if os.environ.get("KEEP") else "; KEEP=1 make demo leaves it serving")
    )


def talk(client: httpx.Client, config: Any) -> None:
    """Ask, correct, review, update, ask again."""
    step(4, "ask")
    first = ask(client, config.name)
    shares = post(client, "/v1/distributions", {"model": config.name, **ITEM})["distributions"][0]["shares"]
    say(f"  {ITEM['item']}\n    " + ", ".join(f"{option} {share:.0%}" for option, share in shares.items()))
    step(5, "post a correction, and accept it in review")
    receipt = post(client, "/v1/feedback", {"response_id": first["id"], "correction": CORRECTION})
    say(f"  feedback {receipt['id']} is {receipt['status']}")
    store = open_store()
    store.review([receipt["id"]], "accepted", who="demo", reason="a fair correction")
    say("  accepted")
    step(6, "update: learn from it, pass the gate, promote")
    learn_from_feedback(config)
    step(7, "ask again: the running service answers with the new version")
    second = ask(client, config.name)
    if first["model"] == second["model"]:
        say("  the gate kept the champion; its reasons stand above")
    registry = open_registry()
    for move in registry.history(config.name):
        say(f"  history: {move.from_version or 'nothing'} -> {move.to_version} by {move.who}: {move.why}")


def ask(client: httpx.Client, name: str) -> dict[str, Any]:
    """One chat, printed."""
    answer = post(
        client,
        "/v1/chat/completions",
        {"model": name, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0},
    )
    say(f"  {QUESTION}\n    {answer['model']}: {answer['choices'][0]['message']['content']}")
    return answer


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST and read JSON; a refusal is a clear error."""
    response = client.post(path, json=body, headers={"Idempotency-Key": str(time.time_ns())})
    if response.is_error:
        raise ValuealignError(response.text, where=f"POST {path}", mend="see the service's log")
    found: dict[str, Any] = response.json()
    return found


if __name__ == "__main__":
    with user_errors():
        click.command(help=keep_lines(__doc__))(demo)()
