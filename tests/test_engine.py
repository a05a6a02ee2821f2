"""Many requests in one forward, without Ray: batches, versions, back-pressure, hang-ups."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny, random_adapter, survey_cells

from serve.away import Away
from serve.backend import Piece, Reply
from serve.engine import Batcher, _Chat
from serve.warm import Warm
from valuealign.errors import Busy, ModelError, RegistryError
from valuealign.models import cohort as cohort_module
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


def test_a_text_that_cannot_be_told_fails_its_chat_alone(
    world: World, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, gate, first, told = make(), Gate(monkeypatch), world.versions[0], Counter[str]()
    tell = _Chat.tell

    def odd(chat: _Chat, draft: Any) -> bool:
        asked = chat.messages[0].content
        told[asked] += 1
        if (asked, told[asked]) in ((ASKED[1], 1), (ASKED[2], 3)):  # of its first token, and later
            raise ValueError("odd text")
        return tell(chat, draft)

    monkeypatch.setattr(_Chat, "tell", odd)

    async def talk() -> list[Any]:
        asking = [asyncio.create_task(ask(batcher, first, asked)) for asked in ASKED[:4]]
        await until(lambda: gate.blocked and sum(batcher._claims.values()) == 4)
        gate.open.set()
        return list(await asyncio.gather(*asking, return_exceptions=True))

    found = asyncio.run(talk())
    assert [str(found[n]) for n in (1, 2)] == ["odd text"] * 2
    assert [found[n][-1].text for n in (0, 3)] == [world.said(first, ASKED[n]) for n in (0, 3)]
    batcher.check()


@pytest.mark.parametrize("trouble", [torch.OutOfMemoryError("full"), ValueError("odd")], ids=["memory", "else"])
def test_a_join_that_fails_leaves_those_who_are_written_as_they_are(
    world: World, make: Make, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    batcher, gate, first = make(), Gate(monkeypatch), world.versions[0]
    join, pad, joining, tried = Cohort.join, cohort_module.pad, list[int](), list[int]()

    def broken(cohort: Cohort, other: Cohort) -> None:
        joining.append(0)
        tried.append(1)
        try:
            join(cohort, other)
        finally:
            joining.clear()

    def broken_pad(*given: Any, **more: Any) -> Any:
        joining[:] = [n + 1 for n in joining]
        if joining and joining[0] == 7:  # after the first layer, in the midst of the second
            raise trouble
        return pad(*given, **more)

    monkeypatch.setattr(Cohort, "join", broken)
    monkeypatch.setattr(cohort_module, "pad", broken_pad)

    async def talk() -> list[Any]:
        early = asyncio.create_task(ask(batcher, first, ASKED[1]))
        await until(lambda: gate.blocked)
        late = asyncio.create_task(ask(batcher, first, ASKED[0]))
        await until(lambda: batcher.waiting == 1)
        gate.open.set()
        return list(await asyncio.gather(early, late, return_exceptions=True))

    early, late = asyncio.run(talk())
    assert tried and early[-1].text == world.said(first, ASKED[1])
    if isinstance(trouble, ValueError):
        assert late is trouble
    else:
        assert late[-1].text == world.said(first, ASKED[0]), "it is written beside them, by itself"


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


def test_no_more_are_attached_than_there_is_room_for(world: World, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = make(keep=2)
    one, two, three = world.versions

    async def talk() -> None:
        began = [batcher.chat(version, [Message("user", ASKED[0])], Sampling(60, 1.0, 1)) for version in (one, two)]
        for chat in began:
            await anext(chat)
        with pytest.raises(Busy, match="2 versions are attached and needed"):
            await ask(batcher, three, ASKED[0])
        for chat in began:
            await chat.aclose()

    asyncio.run(talk())
    load = Host.load

    wrapped = ModelError("it does not fit")
    wrapped.__cause__ = torch.OutOfMemoryError("full")
    trouble = [torch.OutOfMemoryError("full"), wrapped]

    def full(host: Host, version: str, folder: Path) -> None:
        raise trouble.pop()

    monkeypatch.setattr(Host, "load", full)
    while trouble:
        with pytest.raises(Busy, match="no memory"):
            asyncio.run(ask(batcher, three, ASKED[0]))
    monkeypatch.setattr(Host, "load", load)
    assert asyncio.run(ask(batcher, three, ASKED[0]))[-1].text == world.said(three, ASKED[0])


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


class Family:
    """A family of versions of the world's adapters, whose champion a batcher keeps warm."""

    def __init__(self, home: Path, world: World, batcher: Batcher) -> None:
        self.world, self.batcher = world, batcher
        self.registry = Registry(home / "registry", Store.open(home / "db"))
        self.warm = Warm(batcher, self.registry, "demo")

    def register(self, number: int, base_hash: str = "") -> Version:
        card = {"base_hash": base_hash or self.batcher.base_hash}
        return self.registry.register(self.world.versions[number].path, name="demo", card=card)

    def move(self, to: Version, expected: Version | None, alias: str = "champion") -> None:
        self.registry.move("demo", alias, to, expected=expected, who="test", why="test")
        self.warm.look()

    def ask(self, version: Version) -> str:
        text: str = asyncio.run(ask(self.batcher, version, ASKED[0]))[-1].text
        return text


def test_what_may_be_asked_for_next_is_attached_before(tmp_path: Path, world: World, make: Make) -> None:
    batcher = make()
    family = Family(tmp_path, world, batcher)
    one = family.register(0)
    family.move(one, None)
    assert batcher.attached() == ("v1",)
    two = family.register(1)
    family.warm.look()
    assert set(batcher.attached()) == {"v1", "v2"}, "before it is promoted"
    family.move(two, one)
    three = family.register(2)
    family.warm.look()
    assert set(batcher.attached()) == {"v1", "v2", "v3"}, "a rollback must find its version"
    family.move(three, two)
    family.move(one, None, alias="canary")
    others = [family.register(number) for number in (0, 1)]
    for other in others * 2:
        family.ask(other)
        assert set(batcher.attached()) == {"v1", "v2", "v3", other.id}, "champion, canary and predecessor stay"
    family.register(0, "0" * 32)
    family.warm.look()  # logs, and serves on
    assert family.ask(three) == world.said(world.versions[2], ASKED[0])


def test_of_full_fine_tunes_no_third_is_attached(
    tmp_path: Path, world: World, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("serve.warm.is_whole", "serve.engine.is_whole"):
        monkeypatch.setattr(place, lambda folder: True)
    batcher, most = make(), 0
    load = Host.load

    def counted(host: Host, version: str, folder: Path) -> None:
        nonlocal most
        load(host, version, folder)
        most = max(most, len(host.loaded()))

    monkeypatch.setattr(Host, "load", counted)
    family = Family(tmp_path, world, batcher)
    one, two, three = (family.register(number) for number in range(3))
    family.move(one, None)
    assert set(batcher.attached()) == {"v1", "v3"}, "the newest has the second place"
    family.move(two, one)
    assert set(batcher.attached()) == {"v1", "v2"}, "and leaves it to the predecessor"
    family.move(three, None, alias="canary")
    assert set(batcher.attached()) == {"v2", "v3"}, "which leaves it to a canary"
    family.ask(one)
    assert set(batcher.attached()) == {"v1", "v2"}, "what is asked for finds a place, and the champion stays"
    assert most == 2


def test_a_predecessor_whose_folder_is_gone_keeps_nobody_from_serving(tmp_path: Path, world: World, make: Make) -> None:
    batcher = make()
    family = Family(tmp_path, world, batcher)
    one, two = family.register(0), family.register(1)
    family.move(one, None)
    family.move(two, one)
    shutil.rmtree(one.path)
    later = Family(tmp_path, world, make())
    later.warm.look()
    assert later.batcher.attached() == ("v2",) and later.ask(two) == world.said(world.versions[1], ASKED[0])


def test_a_look_that_fails_is_taken_again(
    tmp_path: Path, world: World, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = make()
    family = Family(tmp_path, world, batcher)
    family.registry.move("demo", "champion", family.register(0), expected=None, who="test", why="test")
    get = family.registry.get

    def broken(ref: str, **more: Any) -> Version:
        raise OSError("the disk is away")

    monkeypatch.setattr(family.registry, "get", broken)
    with pytest.raises(OSError, match="away"):
        family.warm.look()
    monkeypatch.setattr(family.registry, "get", get)
    family.warm.look()
    assert batcher.attached() == ("v1",)


def test_health_does_not_wait_for_versions_that_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.app import Replica
    from valuealign.config import load
    from valuealign.prompts import train_templates

    for part in ("Lenders", "log_to"):
        monkeypatch.setattr(f"serve.app.{part}", lambda given: None)
    config = load(None, ["name=demo"])
    facts: dict[str, Any] = dict.fromkeys(("base", "dtype", "quantize", "device"), "")
    replica = Replica(
        **facts, name="demo", database=str(tmp_path / "db"), root=str(tmp_path / "registry"), place=config.serve,
        template=train_templates(config.prompts)[0], canary=0.0, lent=True,
    )  # fmt: skip

    async def look() -> None:
        loop, over = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loading = loop.run_in_executor(None, over.wait, 30)
        try:
            async with asyncio.timeout(10):
                await replica.check_health()
        finally:
            over.set()
            await loading

    asyncio.run(look())


def test_the_models_come_back_after_the_last_lender(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.app import Lenders

    back = threading.Event()
    lenders = Lenders(back.set)
    for lender in ("one", "two", "two"):
        lenders.heard(lender)
    assert [lenders.ended(lender) for lender in ("one", "two")] == [False, True]
    assert not back.is_set(), "who ended last does it"
    monkeypatch.setattr("serve.app.LEASE", 0.3)
    dead = Lenders(back.set)
    dead.heard("killed")
    assert back.wait(30), "nobody else does it for the dead"
