"""The service under load, beside a route that does nothing, a direct call of the model, and ``transformers serve``.

    python benchmarks/serve_load.py --quick                # two seconds a figure
    python benchmarks/serve_load.py                        # twenty seconds a figure, about ten minutes
    python benchmarks/serve_load.py --model FOLDER         # another base model than the seed model

Every side has the same model, chats, threads and clients, on this machine; the clients keep their connections and
ask again as soon as they are answered. Progress goes to stderr. See docs/benchmarks.md for what the keys mean. The
last line is JSON.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from machine import hardware, rounded

from valuealign.cluster.env import prepare_environment
from valuealign.errors import ValuealignError

NAME = "load"
TOKENS = 16  # of an answer, at most
CLIENTS = (1, 8, 32)
ASKED = tuple(
    f"{opening} {topic}?"
    for opening in ("What should I do about", "How much do you like", "Who can help me with", "Is it right to want")
    for topic in ("rain", "my neighbours", "more tea", "a garden", "the election", "old songs", "a new job", "fairness")
)
ITEM = {
    "item": "How important is it to you to help the people around you?",
    "options": ["very important", "fairly important", "hardly important", "not important"],
}


@dataclass
class Tally:
    """What clients saw: seconds of each answer, tokens written, ids acknowledged."""

    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    answers: list[str] = field(default_factory=list)
    feedback: list[str] = field(default_factory=list)
    wall: float = 0.0

    def figures(self) -> dict[str, float]:
        """Requests and tokens a second, and the times of answers in milliseconds."""
        ordered = sorted(self.seconds)
        found = {f"p{p}_ms": 1000 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95, 99)}
        return {"rps": len(ordered) / self.wall, "tokens_per_second": self.tokens / self.wall, **found}


def load(port: int, clients: int, seconds: float, ask: Callable[[Client, int], None]) -> Tally:
    """So many clients that ask one question after another for so long. An answer that is no 2xx ends the benchmark."""
    made = [Client(port) for _ in range(clients)]
    failed: list[BaseException] = []
    over = time.perf_counter() + seconds

    def work(number: int) -> None:
        turn = number
        try:
            while time.perf_counter() < over:
                ask(made[number], turn)
                turn += clients
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = Tally(wall=time.perf_counter() - began)
    for client in made:
        client.close()
        whole.seconds += client.tally.seconds
        whole.tokens += client.tally.tokens
        whole.answers += client.tally.answers
        whole.feedback += client.tally.feedback
    if failed:
        raise SystemExit(f"a request failed: {failed[0]}")
    return whole


class Client:
    """One connection, kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.tally = Tally()

    def post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """POST and read JSON, counted. Raises RuntimeError for what is no 2xx."""
        began = time.perf_counter()
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        answer = self._connection.getresponse()
        text = answer.read()
        self.tally.seconds.append(time.perf_counter() - began)
        if answer.status // 100 != 2:
            raise RuntimeError(f"{path} answered {answer.status}: {text[:500].decode(errors='replace')}")
        found: dict[str, Any] = json.loads(text)
        return found

    def close(self) -> None:
        self._connection.close()


@dataclass
class Asker:
    """How one side is asked."""

    model: str
    headers: dict[str, str] = field(default_factory=dict)

    def chat(self, client: Client, turn: int) -> None:
        """One chat, greedy."""
        found = client.post("/v1/chat/completions", self.body(turn), self.headers)
        client.tally.tokens += found["usage"]["completion_tokens"]
        client.tally.answers.append(found["id"])

    def body(self, turn: int) -> dict[str, Any]:
        asked = [{"role": "user", "content": ASKED[turn % len(ASKED)]}]
        return {"model": self.model, "messages": asked, "max_tokens": TOKENS, "temperature": 0}

    def distribution(self, client: Client, turn: int) -> None:
        """The shares of one question's options for one of many groups."""
        body = {"model": self.model, **ITEM, "group": f"a person of {18 + turn % 60} years"}
        found = client.post("/v1/distributions", body, self.headers)
        client.tally.answers += [one["response_id"] for one in found["distributions"]]

    def feedback(self, client: Client, turn: int) -> None:
        """A chat, and a verdict on it."""
        self.chat(client, turn)
        headers = {**self.headers, "Idempotency-Key": uuid.uuid4().hex}
        posted = {"response_id": client.tally.answers[-1], "verdict": "desirable"}
        client.tally.feedback.append(client.post("/v1/feedback", posted, headers)["id"])

    def nothing(self, client: Client, turn: int) -> None:
        """The route that does nothing, with a chat's body."""
        client.post("/noop/", self.body(turn), self.headers)

    def said(self, port: int) -> list[str]:
        """What it answers to the first chats."""
        client = Client(port)
        found = [client.post("/v1/chat/completions", self.body(turn), self.headers) for turn in range(8)]
        client.close()
        return [one["choices"][0]["message"]["content"].strip() for one in found]


def prepare(home: Path, model: str) -> tuple[Path, str]:
    """A family of one version over the model, its adapter without any effect, and a key; the base and the key."""
    from peft import get_peft_model_state_dict

    from valuealign.models.adapters import add_adapter, write_adapter
    from valuealign.models.load import fingerprint, load_base
    from valuealign.registry import Registry
    from valuealign.store import Store

    base = load_base(model, progress=lambda line: print(line, file=sys.stderr))
    adapted = add_adapter(base.model, r=8, alpha=16.0, seed=0)
    state = {key: value.detach().contiguous() for key, value in get_peft_model_state_dict(adapted).items()}
    write_adapter(state, adapted.peft_config["default"], home / "adapter", base=base.folder.name)
    store = Store.open(home / "valuealign.db")
    registry = Registry(home / "registry", store)
    card = {"base": str(base.folder), "base_hash": fingerprint(base.folder)}
    version = registry.register(home / "adapter", name=NAME, card=card)
    registry.move(NAME, "champion", version, expected=None, who="benchmark", why="start")
    _, key = store.keys.create("benchmark", ["query", "feedback"], who="benchmark")
    store.close()
    return base.folder, key


def direct(base: Path, adapter: Path, threads: int, seconds: float) -> float:
    """Milliseconds (median) of a chat in this process, without any service."""
    import torch

    from valuealign.models.host import Host
    from valuealign.types import Message

    torch.set_num_threads(threads)
    host = Host(str(base))
    host.load("v1", adapter)
    times: list[float] = []
    over = time.perf_counter() + seconds
    while time.perf_counter() < over or len(times) < 10:
        began = time.perf_counter()
        host.generate("v1", [Message("user", ASKED[len(times) % len(ASKED)])], max_tokens=TOKENS)
        times.append(time.perf_counter() - began)
    return 1000 * sorted(times[2:])[len(times[2:]) // 2]


@contextmanager
def ours(home: Path, threads: int) -> Iterator[int]:
    """The service and the route that does nothing, on a cluster of their own; the port."""
    from fastapi import Body, FastAPI
    from ray import serve

    from serve.app import start, stop
    from valuealign.cluster.session import cluster
    from valuealign.config import load as configure

    port = free_port()
    config = configure(
        None, [f"name={NAME}", f"serve.port={port}", f"serve.max_tokens={TOKENS}", f"serve.cpus={threads}"]
    )

    def noop() -> FastAPI:
        app, whole = FastAPI(), Body()

        @app.post("/")
        async def nothing(body=whole):  # what is pickled loses its annotations
            return {}

        return app

    with cluster(num_cpus=threads + 3):
        start(config, home=home)
        idle = serve.deployment(name="noop", ray_actor_options={"num_cpus": 1}, max_ongoing_requests=128)
        serve.run(idle(serve.ingress(noop)()).bind(), name="noop", route_prefix="/noop")
        try:
            yield port
        finally:
            serve.delete("noop")
            stop()


@contextmanager
def theirs(base: Path, folder: Path, threads: int, *options: str) -> Iterator[tuple[int, str]]:
    """``transformers serve`` with the same model, which ends its answers where ours does; the port and the name."""
    from valuealign.models.load import load_tokenizer
    from valuealign.prompts import turn

    tokenizer = load_tokenizer(base)
    assert tokenizer is not None
    shutil.copytree(base, folder, dirs_exist_ok=True)
    ends = sorted({turn(tokenizer).end_id, tokenizer.eos_token_id})
    ending = {"eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id or ends[0]}
    (folder / "generation_config.json").write_text(json.dumps(ending))
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    command += ["--dtype", "float32", "--port", str(port), "--host", "127.0.0.1", "--log-level", "error", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = folder.with_suffix(".log")
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            for _ in range(240):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    raise SystemExit(f"transformers serve ended:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
            yield port, str(folder)
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measured(port: int, asker: Asker, what: str, seconds: float, levels: Sequence[int] = CLIENTS) -> dict[int, Tally]:
    """One kind of request at each number of clients, after a short warm-up."""
    load(port, 2, min(1.0, seconds), getattr(asker, what))
    found = {}
    for clients in levels:
        found[clients] = load(port, clients, seconds, getattr(asker, what))
        shown = ", ".join(f"{key} {value:.1f}" for key, value in found[clients].figures().items())
        print(f"{asker.model} {what}, {clients} clients: {shown}", file=sys.stderr, flush=True)
    return found


def rows(home: Path, answers: Sequence[str], feedback: Sequence[str]) -> int:
    """How many of these ids the database has."""
    import sqlite3

    found = 0
    with sqlite3.connect(home / "valuealign.db") as connection:
        for table, ids in (("responses", answers), ("feedback", feedback)):
            there = {row[0] for row in connection.execute(f"SELECT id FROM {table}")}
            found += len(there & set(ids))
    return found


def compare(model: str, seconds: float, threads: int) -> dict[str, Any]:
    """All sides, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        base, key = prepare(home, model)
        alone = direct(base, home / "adapter", threads, seconds)
        print(f"direct: {alone:.1f} ms", file=sys.stderr, flush=True)
        mine = Asker(NAME, {"Authorization": f"Bearer {key}"})
        with ours(home, threads) as port:
            noop = measured(port, mine, "nothing", seconds, (1,))[1]
            chat = measured(port, mine, "chat", seconds)
            distribution = measured(port, mine, "distribution", seconds)
            feedback = measured(port, mine, "feedback", seconds, (8,))
            said = mine.said(port)
        peers = {}
        for kind, options in (("transformers_serve", ()), ("transformers_serve_batching", ("--continuous-batching",))):
            with theirs(base, home / kind, threads, *options) as (port, called):
                them = Asker(called)
                if (apart := them.said(port)) != said:
                    raise SystemExit(f"the two sides answer differently:\n{said}\n{apart}")
                peers[kind] = measured(port, them, "chat", seconds)
        tallies = [*chat.values(), *distribution.values(), *feedback.values()]
        answers = [one for tally in tallies for one in tally.answers]
        posted = [one for tally in tallies for one in tally.feedback]
        p50 = chat[1].figures()["p50_ms"]
        idle = noop.figures()["p50_ms"]
        return rounded(
            {
                "overhead_p50_ms": p50 - alone - idle,
                **{f"rps_{clients}": tally.figures()["rps"] for clients, tally in chat.items()},
                **{
                    f"ratio_vs_{kind}_32": chat[32].figures()["rps"] / peer[32].figures()["rps"]
                    for kind, peer in peers.items()
                },
                "acks": len(answers) + len(posted),
                "rows": rows(home, answers, posted),
                "noop_p50_ms": idle,
                "direct_p50_ms": alone,
                "chat": {clients: tally.figures() for clients, tally in chat.items()},
                "distributions": {clients: tally.figures() for clients, tally in distribution.items()},
                "chat_and_feedback": {clients: tally.figures() for clients, tally in feedback.items()},
                **{kind: {clients: tally.figures() for clients, tally in peer.items()} for kind, peer in peers.items()},
                "model": Path(base).name,
                "tokens": TOKENS,
                "threads": threads,
                "seconds": seconds,
                "hardware": hardware(),
            }
        )


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--quick", is_flag=True, help="two seconds a figure instead of twenty")
@click.option("--seconds", type=float, help="of each figure")
@click.option("--model", default="seed", show_default=True, help="the base model: 'seed' or a Hugging Face folder")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="of a model, on every side")
def main(quick: bool, seconds: float | None, model: str, threads: int) -> None:
    prepare_environment()
    try:
        found = compare(model, seconds or (2.0 if quick else 20.0), threads)
    except ValuealignError as error:
        raise click.ClickException(str(error)) from None
    print(json.dumps(found))
    if found["rows"] != found["acks"]:
        raise SystemExit(f"{found['acks']} were acknowledged, the database has {found['rows']}")


if __name__ == "__main__":
    main()
