"""Many requests in one forward, without Ray: batches, versions, back-pressure, hang-ups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny, random_adapter, survey_cells

from serve.backend import Piece, Reply
from serve.engine import Away, Batcher
from serve.warm import Warm
from valuealign.errors import Busy, ModelError, RegistryError
from valuealign.models.cohort import Cohort
from valuealign.models.host import Host
from valuealign.models.load import fingerprint
from valuealign.registry import Registry, Version
from valuealign.store import Store
from valuealign.types import Message, Sampling

GREEDY = Sampling(12)
ASKED = ("Who sings?", "Is rain good? Say it slowly.", "No?", "How far is far?", "Why?", "Do you trust maps?")


class World:
    def __init__(self, home: Path) -> None:
        self.base = make_tiny(home / "base")
        registry = Registry(home / "registry", Store.open(home / "db"))
        card = {"base": str(self.base), "base_hash": fingerprint(self.base)}
        self.versions = [
            registry.register(random_adapter(self.base, home / f"a{seed}", seed=seed), name="demo", card=card)
            for seed in (1, 2, 3)
        ]
        self.plain = Host(str(self.base))
        for version in self.versions:
            self.plain.load(version.id, version.path)

    def said(self, version: Version, asked: str, sampling: Sampling = GREEDY) -> str:
        """What a version answers when it is asked alone."""
        how = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "seed": sampling.seed}
        return self.plain.generate(version.id, [Message("user", asked)], **how).text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("engine"))


Make = Callable[..., Batcher]


@pytest.fixture
def make(world: World) -> Iterator[Make]:
    made: list[Batcher] = []

    def batcher(**more: Any) -> Batcher:
        made.append(Batcher(Host(str(world.base)), base_hash=fingerprint(world.base), **more))
        return made[-1]

    yield batcher
    for one in made:
        one.close()


class Gate:
    """Lets forwards of a cohort through one at a time, and counts their rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.rows, self.blocked = threading.Event(), list[int](), False
        forward = Cohort._forward

        def watched(cohort: Cohort, *given: Any) -> None:
            if not self.open.is_set():
                self.blocked = True
                self.open.wait(30)
                self.blocked = False
            self.rows.append(len(cohort._rows))
            forward(cohort, *given)

        monkeypatch.setattr(Cohort, "_forward", watched)


async def ask(batcher: Batcher, version: Version, asked: str, sampling: Sampling = GREEDY, **more: Any) -> list[Any]:
    async with aclosing(batcher.chat(version, [Message("user", asked)], sampling, **more)) as pieces:
        return [piece async for piece in pieces]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


def test_chats_share_forwards_and_each_has_its_own_answer(
    world: World, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, gate, first = make(), Gate(monkeypatch), world.versions[0]

    async def talk() -> list[list[Any]]:
        asking = [asyncio.create_task(ask(batcher, first, asked)) for asked in ASKED]
        await until(lambda: gate.blocked and sum(batcher._claims.values()) == len(ASKED))
        gate.open.set()
        return list(await asyncio.gather(*asking))

    answers = asyncio.run(talk())
    assert [answer[-1].text for answer in answers] == [world.said(first, asked) for asked in ASKED]
    for *pieces, reply in answers:
        assert "".join(piece.text for piece in pieces) == reply.text and isinstance(reply, Reply)
    assert max(gate.rows) == len(ASKED), "they were written side by side"


def test_sampled_answers_are_those_of_their_seeds(world: World, make: Make) -> None:
    batcher, first = make(), world.versions[0]
    how = [Sampling(10, 0.5 + n / 4, seed=n) for n in range(6)]

    async def talk() -> list[list[Any]]:
        return list(await asyncio.gather(*(ask(batcher, first, a, s) for a, s in zip(ASKED, how, strict=True))))

    answers = asyncio.run(talk())
    assert [a[-1].text for a in answers] == [world.said(first, a, s) for a, s in zip(ASKED, how, strict=True)]


def test_without_a_stream_only_the_reply_comes(world: World, make: Make) -> None:
    (reply,) = asyncio.run(ask(make(), world.versions[0], ASKED[0], stream=False))
    assert reply.text == world.said(world.versions[0], ASKED[0]) and reply.completion_tokens > 0
    assert reply.prompt_tokens > len(ASKED[0])


def test_pieces_come_while_others_are_still_written(world: World, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late short chat overtakes a long one that was begun before it."""
    batcher, first, order = make(), world.versions[0], list[str]()

    async def one(name: str, most: int) -> None:
        async with aclosing(batcher.chat(first, [Message("user", ASKED[0])], Sampling(most, 1.0, 3))) as pieces:
            async for _ in pieces:
                order.append(name)

    async def talk() -> None:
        long = asyncio.create_task(one("long", 200))
        await until(lambda: len(order) > 2)
        await one("short", 2)
        order.append("over")
        await long

    asyncio.run(talk())
    over = order.index("over")
    assert "short" in order[:over] and "long" in order[over:], "neither waited for the other"


def test_versions_are_answered_side_by_side_and_never_mixed(world: World, make: Make) -> None:
    batcher = make()

    async def talk() -> list[list[Any]]:
        return list(
            await asyncio.gather(
                *(ask(batcher, world.versions[n // 3 % 2], asked) for n, asked in enumerate(ASKED[:5] * 4))
            )
        )

    answers = asyncio.run(talk())
    want = [world.said(world.versions[n // 3 % 2], asked) for n, asked in enumerate(ASKED[:5] * 4)]
    assert [answer[-1].text for answer in answers] == want and len(set(want)) > 6


def test_distributions_of_many_requests_are_scored_together(
    world: World, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, cells, sizes = make(), survey_cells(6), list[int]()
    scored = Host.score_rendered

    def counted(host: Host, version: str | None, rendered: Any) -> Any:
        sizes.append(len(rendered))
        return scored(host, version, rendered)

    monkeypatch.setattr(Host, "score_rendered", counted)

    async def talk() -> list[Any]:
        asked = [batcher.score(world.versions[n % 2], cells[n : n + 2]) for n in range(5)]
        return list(await asyncio.gather(ask(batcher, world.versions[0], ASKED[0]), *asked))

    reply, *found = asyncio.run(talk())
    batched = list(sizes)
    for n, logp in enumerate(found):
        want = world.plain.score(world.versions[n % 2].id, cells[n : n + 2])
        assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(logp, want, strict=True))
    assert reply[-1].text == world.said(world.versions[0], ASKED[0])
    assert sum(batched) == 10 and len(batched) < 5


def test_more_cells_than_a_forward_reads_are_scored_in_turns(
    world: World, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.engine.BUDGET", 300)
    cells = survey_cells(6)
    found = asyncio.run(make().score(world.versions[0], cells))
    want = world.plain.score(world.versions[0].id, cells)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(found, want, strict=True))


def test_a_full_queue_refuses_and_then_takes_again(world: World, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher, gate, first = make(queue=2, max_batch=1), Gate(monkeypatch), world.versions[0]

    async def talk() -> None:
        begun = asyncio.create_task(ask(batcher, first, ASKED[0]))
        await until(lambda: gate.blocked)
        wait = [asyncio.create_task(ask(batcher, first, asked)) for asked in ASKED[1:3]]
        await until(lambda: batcher.waiting == 2)
        with pytest.raises(Busy, match="2 requests wait"):
            await ask(batcher, first, ASKED[3])
        with pytest.raises(Busy):
            await batcher.score(first, survey_cells(1))
        gate.open.set()
        await asyncio.gather(begun, *wait)
        assert (await ask(batcher, first, ASKED[3]))[-1].text == world.said(first, ASKED[3])

    asyncio.run(talk())
    assert set(gate.rows) == {1}, "never more than max_batch at once"


def test_who_hangs_up_stops_costing(world: World, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher, gate, first = make(max_batch=2), Gate(monkeypatch), world.versions[0]
    gate.open.set()

    async def talk() -> None:
        streamed = batcher.chat(first, [Message("user", ASKED[0])], Sampling(400, 1.0, 1))
        assert isinstance(await anext(streamed), Piece)
        await streamed.aclose()
        whole = asyncio.create_task(ask(batcher, first, ASKED[1], Sampling(400, 1.0, 1), stream=False))
        await until(lambda: batcher.running > 0)
        gate.open.clear()
        await until(lambda: gate.blocked)
        waits = asyncio.create_task(ask(batcher, first, ASKED[2], Sampling(400), stream=False))
        await until(lambda: batcher.waiting == 1)
        for task in (whole, waits):
            task.cancel()
        await asyncio.gather(whole, waits, return_exceptions=True)
        gate.open.set()
        await until(lambda: batcher.running == 0 and batcher.waiting == 0)

    asyncio.run(talk())
    assert len(gate.rows) < 200, "nobody wrote the 400 tokens"


def test_what_does_not_fit_is_refused_alone(world: World, make: Make) -> None:
    batcher, first = make(), world.versions[0]

    async def talk() -> list[Any]:
        asked = [ask(batcher, first, text) for text in (ASKED[0], "x" * 600, ASKED[1])]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    good, bad, other = asyncio.run(talk())
    assert isinstance(bad, ModelError) and bad.where == "messages"
    assert [good[-1].text, other[-1].text] == [world.said(first, asked) for asked in ASKED[:2]]
    long = survey_cells(1)[0]
    long = type(long)((Message("user", "y" * 600),), long.completions, long.desirable, long.undesirable, closed=True)
    with pytest.raises(ModelError, match="the model reads 512"):
        asyncio.run(batcher.score(first, [long]))


def test_a_forward_that_fails_fails_only_its_own(world: World, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher, first = make(), world.versions[0]
    step = Cohort.step
    trouble: list[Exception] = [torch.OutOfMemoryError("full"), ValueError("odd")]

    def broken(cohort: Cohort, model: Any) -> None:
        if trouble:
            raise trouble.pop(0)
        step(cohort, model)

    monkeypatch.setattr(Cohort, "step", broken)
    with pytest.raises(Busy, match="memory"):
        asyncio.run(ask(batcher, first, ASKED[0]))
    with pytest.raises(ValueError, match="odd"):
        asyncio.run(ask(batcher, first, ASKED[0]))
    assert asyncio.run(ask(batcher, first, ASKED[0]))[-1].text == world.said(first, ASKED[0])
    batcher.check()


def test_few_versions_are_kept_and_none_that_answers_is_detached(world: World, make: Make) -> None:
    batcher = make(keep=2)
    one, two, three = world.versions

    async def talk() -> None:
        first = batcher.chat(one, [Message("user", ASKED[0])], Sampling(60, 1.0, 1))
        began = await anext(first)
        # One is in the middle of its answer, for whoever reads it.
        for version in (two, three):
            await asyncio.to_thread(batcher.attach, version)
        assert set(batcher.attached()) == {"v1", "v3"} == set(batcher._host.loaded())
        rest = [piece async for piece in first]
        assert rest[-1].text == world.said(one, ASKED[0], Sampling(60, 1.0, 1)) and began.text in rest[-1].text
        batcher.pin(["v1"])
        await asyncio.to_thread(batcher.attach, two)
        assert set(batcher.attached()) == {"v1", "v2"}

    asyncio.run(talk())


def test_a_version_over_another_base_is_refused(world: World, make: Make) -> None:
    one = world.versions[0]
    other = Version("demo", 9, one.path, None, {"base_hash": "0" * 32})
    broken = Version("demo", 8, one.path.parent, None, one.card)
    unsaid = Version("demo", 7, one.path, None, {})
    for version, why in ((other, "another base"), (broken, "the adapter has no"), (unsaid, "does not say which base")):
        with pytest.raises(RegistryError, match=why):
            asyncio.run(ask(make(), version, ASKED[0]))


def test_who_waits_when_it_ends_is_told(world: World, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher, gate, first = make(max_batch=1), Gate(monkeypatch), world.versions[0]

    async def talk() -> list[Any]:
        asking: list[Awaitable[Any]] = [asyncio.create_task(ask(batcher, first, asked)) for asked in ASKED[:3]]
        await until(lambda: gate.blocked and batcher.waiting == 2)
        ending = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        gate.open.set()
        await ending
        return list(await asyncio.gather(*asking, return_exceptions=True))

    assert all(isinstance(found, Busy) for found in asyncio.run(talk()))
    with pytest.raises(Busy):
        asyncio.run(ask(batcher, first, ASKED[0]))
    with pytest.raises(RuntimeError, match="has ended"):
        batcher.check()


def test_it_is_ready_while_its_forwards_run(world: World, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no turn ends well")

    batcher = make()
    asyncio.run(ask(batcher, world.versions[0], ASKED[0]))
    assert batcher.ready and not Away().ready
    monkeypatch.setattr(batcher, "_turn", fail)
    with pytest.raises(Busy):
        asyncio.run(ask(batcher, world.versions[0], ASKED[0]))
    batcher._thread.join(30)
    assert not batcher.ready


def test_what_may_be_asked_for_next_is_attached_before(tmp_path: Path, world: World, make: Make) -> None:
    batcher, registry = make(keep=2), Registry(tmp_path / "registry", Store.open(tmp_path / "db"))
    warm = Warm(batcher, registry, "demo")

    def register(number: int, base_hash: str = batcher.base_hash or "") -> Version:
        return registry.register(world.versions[number].path, name="demo", card={"base_hash": base_hash})

    def move(to: Version, expected: Version | None) -> None:
        registry.move("demo", "champion", to, expected=expected, who="test", why="test")
        warm.look()

    one = register(0)
    move(one, None)
    assert batcher.attached() == ("v1",)
    two = register(1)
    warm.look()
    assert set(batcher.attached()) == {"v1", "v2"}, "before it is promoted"
    move(two, one)
    three = register(2)
    warm.look()
    assert set(batcher.attached()) == {"v1", "v2", "v3"}, "a rollback must find its version"
    move(three, two)
    assert set(batcher.attached()) >= {"v2", "v3"}
    asyncio.run(ask(batcher, one, ASKED[0]))
    asyncio.run(ask(batcher, one, ASKED[0]))
    assert set(batcher.attached()) >= {"v2", "v3"}, "whatever else is asked for"
    registry.move("demo", "canary", one, expected=None, who="test", why="test")
    warm.look()
    asyncio.run(ask(batcher, two, ASKED[0]))
    assert set(batcher.attached()) >= {"v1", "v2", "v3"}, "a canary too"
    register(0, "0" * 32)
    warm.look()  # logs, and serves on
    assert asyncio.run(ask(batcher, three, ASKED[0]))[-1].text == world.said(world.versions[2], ASKED[0])
