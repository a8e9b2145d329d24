"""The OpenAPI document is true: whatever is sent, no 5xx, and every answer is one it describes."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.serving.harness import Running, running

from mochi.serving.app import describe, make_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data"), requests_per_minute=0) as server:
        yield server


def try_everything(server: Running, examples: int) -> list[str]:
    """So many calls of every operation; returns the operations."""
    document = describe(make_app(server.services))
    schema = schemathesis.openapi.from_dict(document)
    token = server.services.tokens.create(["admin"], "alice")
    headers = {"Authorization": f"Bearer {token}"}
    tried: list[str] = []
    wrong: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy())
        def call(case: Any) -> None:
            response = case.call(base_url=server.url, headers=headers, timeout=600)
            case.validate_response(response, checks=CHECKS)

        try:
            call()
        except Exception as error:
            found = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
            wrong += [f"{operation.label}: {it}" for it in found]
        tried.append(operation.label)
    assert wrong == []
    return tried


def test_every_operation_answers_as_described(server: Running) -> None:
    tried = try_everything(server, examples=1)
    assert len(tried) > 40
    assert "POST /v1/predictions" in tried


@pytest.mark.long
def test_every_operation_answers_as_described_at_length(server: Running) -> None:
    assert try_everything(server, examples=100)
