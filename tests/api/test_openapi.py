"""Both services against their own OpenAPI documents: any request gets a reply that the document describes."""

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from lab.processes import CALLER, PRODUCER, running

CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def producer() -> Iterator[str]:
    with running(PRODUCER, MAX_DELAY_MILLIS="2") as service:
        yield service.url


@pytest.fixture(scope="module")
def caller(producer: str) -> Iterator[str]:
    runs = {"RUN_MAX_RATE": "50", "RUN_MAX_SECONDS": "0.1", "RUN_MAX_ACTIVE": "50"}
    with running(CALLER, MAX_DELAY_MILLIS="2", PRODUCER_URL=producer, **runs) as service:
        yield service.url


@pytest.fixture(scope="module")
def producer_schema(producer: str) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{producer}/openapi.json")


@pytest.fixture(scope="module")
def caller_schema(caller: str) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{caller}/openapi.json")


def fuzz(schema: BaseSchema, path: str, mode: GenerationMode) -> None:
    @FUZZ
    @given(schema[path]["POST"].as_strategy(generation_mode=mode))
    def send(case: Case[Any]) -> None:
        response = case.call()
        case.validate_response(response, checks=CHECKS)
        assert "internal error" not in response.text

    send()


@pytest.mark.parametrize("mode", GenerationMode)
def test_the_producer_conforms_to_its_openapi_document(producer_schema: BaseSchema, mode: GenerationMode) -> None:
    fuzz(producer_schema, "/producer/messages", mode)


@pytest.mark.parametrize("mode", GenerationMode)
def test_the_caller_conforms_to_its_openapi_document(caller_schema: BaseSchema, mode: GenerationMode) -> None:
    fuzz(caller_schema, "/caller/messages", mode)


@pytest.mark.parametrize("mode", GenerationMode)
def test_runs_conform_to_the_openapi_document_of_the_caller(caller_schema: BaseSchema, mode: GenerationMode) -> None:
    fuzz(caller_schema, "/caller/runs", mode)


@pytest.mark.parametrize("service", ["producer", "caller"])
def test_every_get_and_every_other_method_conforms_to_the_document(
    service: str, request: pytest.FixtureRequest
) -> None:
    schema: BaseSchema = request.getfixturevalue(f"{service}_schema")
    paths = [path for path, methods in schema.raw_schema["paths"].items() if "get" in methods]
    assert {"/actuator/health/liveness", "/actuator/health/readiness", "/metrics"} <= set(paths)
    for path in paths:
        case = schema[path]["GET"].Case()
        case.call_and_validate(checks=[*CHECKS, not_a_server_error, unsupported_method])


@pytest.mark.parametrize("service", ["producer", "caller"])
def test_every_field_of_the_document_is_described(service: str, request: pytest.FixtureRequest) -> None:
    document = httpx.get(f"{request.getfixturevalue(service)}/openapi.json", trust_env=False, timeout=60).json()
    message = document["components"]["schemas"]["Message" if service == "producer" else "CallerMessage"]
    assert message["properties"].keys() >= {"id", "payload", "delay", "responseCode", "faultRate", "only"}
    problem = document["paths"][f"/{service}/messages"]["post"]["responses"]["422"]["content"]
    assert problem["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert document["components"]["schemas"]["Problem"]["properties"].keys() >= {"type", "title", "status", "detail"}


@pytest.mark.parametrize("service", ["producer", "caller"])
def test_the_docs_need_no_internet_and_run_one_inline_script_only(service: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(service)
    page = httpx.get(f"{url}/docs", trust_env=False, timeout=60)
    script = page.text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.status_code == 200
    assert f"script-src 'self' 'sha256-{digest}';" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    for file in loaded:
        assert "://" not in file
        assert httpx.get(f"{url}/{file}", trust_env=False, timeout=60).status_code == 200
