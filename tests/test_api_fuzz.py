"""The OpenAPI document against the service: every operation, with data that fits it and data that does not.

No answer is a 5xx, and each one is as the document says: status, media type, schema, headers, keys.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from serving import Visitor

schemathesis = pytest.importorskip("schemathesis")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.config import (  # noqa: E402
    ChecksConfig,
    GenerationConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)

# What JSON Schema cannot say is refused: texts that are blank, shares that do not add up, tokens that are not ours.
ACCEPTED = ["2xx", "400", "401", "404", "409", "422"]
EXAMPLES = 12  # drawn for each operation and kind of data
FEW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
KINDS = {"fits": GenerationMode.POSITIVE, "does not fit": GenerationMode.NEGATIVE}


def load(app: Any, *modes: GenerationMode) -> Any:
    """The document of a service; with ``modes``, only such data is drawn from it."""
    checks = ChecksConfig(positive_data_acceptance=PositiveDataAcceptanceConfig(expected_statuses=ACCEPTED))
    project = ProjectConfig(checks=checks, generation=GenerationConfig(modes=list(modes) or None, database="none"))
    config = SchemathesisConfig(projects=ProjectsConfig(default=project), seed=0)
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


class World:
    """A service with an answer and feedback in it, and its document."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.answer = visitor.chat().json()["id"]
        self.feedback = visitor.judge(self.answer, correction="kindness").json()["id"]
        self.key = {"Authorization": visitor.http.headers["authorization"]}
        self.document = load(visitor.app)
        self.seen: Counter[tuple[str, int]] = Counter()

    def operations(self) -> list[Any]:
        return [found.ok() for found in self.document.get_all_operations()]

    def ask(self, case: Any) -> None:
        """Send a case and hold the answer to the document."""
        answer = case.call_and_validate(headers=self.key)
        self.seen[(case.operation.label, answer.status_code // 100)] += 1


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ray)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        database = ""
        if request.param == "postgresql":  # which takes fewer texts than SQLite
            database = stack.enter_context(request.getfixturevalue("postgres").database())
        visitor = Visitor(tmp_path_factory.mktemp("fuzz"), database=database)
        yield World(visitor)
        visitor.store.close()


def moving(world: World, case: Any, *, expected: bool = True) -> None:
    """Where the case is a move, make it one of the champion, from where it is to the other version; without
    ``expected``, a rollback says itself where it thinks that it is."""
    if "name" not in case.path_parameters or not isinstance(case.body, dict):
        return
    now = world.visitor.registry.get("demo").id
    case.path_parameters["name"] = "demo"
    case.body.pop("alias", None)  # the champion
    if "version" in case.body:
        case.body["version"] = {"v1": "v2", "v2": "v1"}[now]
    if "version" in case.body or expected:
        case.body["expected"] = now


def known(world: World, case: Any) -> Any:
    """The case, about things that there are."""
    if "feedback_id" in case.path_parameters:
        case.path_parameters["feedback_id"] = world.feedback
    if "model" in case.path_parameters:
        case.path_parameters["model"] = "demo"
    moving(world, case)
    if isinstance(case.body, dict):
        if "model" in case.body:
            case.body["model"] = "demo"
        if "response_id" in case.body:
            case.body["response_id"] = world.answer
            case.body.pop("token", None)
    return case


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_requests_neither_break_the_service_nor_its_document(world: World, kind: str) -> None:
    for operation in world.operations():

        @FEW
        @given(case=operation.as_strategy(generation_mode=KINDS[kind]))
        def holds(case: Any) -> None:
            world.ask(case)

        with suppress(Unsatisfiable) if kind == "does not fit" else nullcontext():  # it takes nothing
            holds()


def test_the_edges_of_every_field_neither_break_the_service_nor_its_document(world: World) -> None:
    generation = world.document.config.generation
    for operation in world.operations():
        cases = world.document.iter_coverage_cases(
            operation, generation_modes=list(GenerationMode), generation_config=generation
        )
        for case in cases:
            world.ask(case)


def test_requests_about_what_there_is_are_answered(world: World) -> None:
    """Else the tests above might only ever have seen refusals."""
    for operation in world.operations():

        @FEW
        @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        def holds(case: Any) -> None:
            world.ask(known(world, case))

        holds()
    answered = {label for label, kind in world.seen if kind == 2}
    assert {operation.label for operation in world.operations()} == answered


@pytest.mark.ray  # it starts no cluster, but takes as long
def test_what_follows_from_answers_neither_breaks_the_service_nor_its_document(tmp_path: Path) -> None:
    """Walks along the document's links: answers are judged, feedback is asked after and reviewed, moves taken back."""
    walked: Counter[tuple[str, int]] = Counter()
    homes = (tmp_path / f"home{i}" for i in itertools.count())
    keys = itertools.count()
    worlds = [World(Visitor(next(homes)))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await worlds[-1].visitor.app(scope, receive, send)

    class Walk(load(app, GenerationMode.POSITIVE).as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            worlds[-1].visitor.store.close()
            worlds.append(World(Visitor(next(homes))))  # each walk begins in the same place

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": {**worlds[-1].key, "Idempotency-Key": f"k{next(keys)}"}}

        def before_call(self, case: Any) -> None:
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "demo"
            if isinstance(case.body, dict) and "verdict" in case.body:  # one way to judge is enough
                for other in ("correction", "shares", "n", "token"):
                    case.body.pop(other, None)
            moving(worlds[-1], case, expected=False)

        def step(self, input: Any) -> Any:
            output = super().step(input)
            if input.transition is not None:
                walked[(input.transition.id, output.response.status_code)] += 1
            return output

    Walk.run(settings=settings(FEW, max_examples=20, stateful_step_count=12))
    worlds[-1].visitor.store.close()
    followed = {step.split(" -> ")[1] for step, status in walked if status < 300}
    assert {"[200] judge", "[201] progress", "[201] review", "[200] rollback"} <= followed, walked
