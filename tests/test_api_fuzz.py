"""The OpenAPI document against the service: every operation, with data that fits it and data that does not.

No answer is a 5xx, and each one is as the document says: status, media type, schema, headers, keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from serving import Visitor

schemathesis = pytest.importorskip("schemathesis")

from schemathesis.config import (  # noqa: E402
    ChecksConfig,
    GenerationConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)

# What JSON Schema cannot say is refused with 400: texts that are blank, shares that do not add up.
ACCEPTED = ["2xx", "400", "404", "409", "422"]
FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    made = Visitor(tmp_path_factory.mktemp("fuzz"))
    answer = made.chat().json()
    made.judge(answer["id"], correction="kindness")
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def document(visitor: Visitor) -> Any:
    checks = ChecksConfig(positive_data_acceptance=PositiveDataAcceptanceConfig(expected_statuses=ACCEPTED))
    project = ProjectConfig(checks=checks, generation=GenerationConfig(database="none"))
    config = SchemathesisConfig(projects=ProjectsConfig(default=project), seed=0)
    return schemathesis.openapi.from_asgi("/openapi.json", visitor.app, config=config)


operations = schemathesis.pytest.from_fixture("document")


@operations.parametrize()
@FEW
def test_no_request_makes_the_service_fail_or_stray_from_its_document(case: Any, visitor: Visitor) -> None:
    case.call_and_validate(headers={"Authorization": visitor.http.headers["authorization"]})
