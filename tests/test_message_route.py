"""The short cut of messages and FastAPI's way, which must say the same to every body."""

from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from common.message_route import MessageRoute
from common.messages import Message
from common.problems import Refused, install
from producer.routes import router
from tests.support.servers import in_process, producer_app

SHORT = {"content-type": "application/json"}
WHOLE = {"content-type": "application/json; charset=utf-8"}

BODIES = (
    b'{"payload": "a"}',
    b'{"payload": "a", "payload": "b"}',
    b'{"payload": "\xc3\xa4\\u00e4\\ud83d\\ude00\\u0000"}',
    b'{"payload": "\\ud800"}',
    b'{"payload": "\xff"}',
    b'\xef\xbb\xbf{"payload": "byte order mark"}',
    '{"payload": "sixteen"}'.encode("utf-16"),
    b'{"payload": "a", "id": 1}',
    b'{"payload": "a", "id": 1.0}',
    b'{"payload": "a", "id": 1e400}',
    b'{"payload": "a", "id": true}',
    b'{"payload": "a", "id": ' + b"9" * 200 + b"}",
    b'{"payload": "a", "id": ' + b"9" * 5000 + b"}",
    b'{"payload": "a", "delay": ' + b"9" * 5000 + b"}",
    b'{"payload": "a", "delay": "1"}',
    b'{"payload": "a", "delay": " 1_0 "}',
    b'{"payload": "a", "delay": 1.0}',
    b'{"payload": "a", "delay": 1e0}',
    b'{"payload": "a", "delay": -0}',
    b'{"payload": "a", "delay": true}',
    b'{"payload": "a", "responseCode": "503"}',
    b'{"payload": "a", "responseCode": 204}',
    b'{"payload": "a", "faultRate": "0.5"}',
    b'{"payload": "a", "faultRate": true}',
    b'{"payload": "a", "faultRate": NaN}',
    b'{"payload": "a", "faultRate": Infinity}',
    b'{"payload": "a", "only": {"zone": "elsewhere"}}',
    b'{"payload": "a", "only": {"zone": 1}}',
    b'{"payload": "a", "dealy": 1}',
    b'{"payload": "a"} ',
    b'{"payload": "a"}x',
    b"[" * 10_000,
    b'{"payload": "a", "only": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b"{}",
    b"null",
    b"[]",
    b'"payload"',
    b"",
)


async def answer(client: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    """Status and body, without what differs from one request to the next."""
    response = await client.post("/producer/messages", content=body, headers=headers | {"x-request-id": "1"})
    answer = response.json() if response.content else {}
    answer.get("headers", {}).pop("content-type", None)
    if len(answer.get("id", "")) == 36:
        del answer["id"]
    return response.status_code, answer


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_both_ways_answer_a_body_alike(body: bytes) -> None:
    async with in_process(producer_app(fault_seed=1)) as client:
        short = await answer(client, body, SHORT)
    async with in_process(producer_app(fault_seed=1)) as client:
        whole = await answer(client, body, WHOLE)
    assert short == whole
    assert short[0] in (200, 204, 413, 422, 503)


async def test_the_usual_request_takes_the_short_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    [route] = router.routes
    assert isinstance(route, MessageRoute)
    whole = route.whole

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        taken.append("whole")
        await whole(scope, receive, send)

    monkeypatch.setattr(route, "whole", noted)
    async with in_process(producer_app()) as client:
        assert (await client.post("/producer/messages", json={"payload": "a"})).status_code == 200
        assert taken == []
        assert (await client.post("/producer/messages?a=b", json={"payload": "a"})).status_code == 200
        assert (await client.post("/producer/messages", content=b'{"payload": "a"}', headers=WHOLE)).status_code == 200
        assert (await client.post("/producer/messages", json={"payload": 1})).status_code == 422
    assert taken == ["whole"] * 3


async def test_a_bug_on_the_short_way_is_a_500_that_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("producer.routes.within_limits", bug)
    async with in_process(producer_app()) as client:
        response = await client.post("/producer/messages", json={"payload": "a"})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-answered-by"] == "sample-producer"


async def test_a_dependency_is_not_passed_by() -> None:
    def forbidden() -> None:
        raise Refused(403, [])

    async def endpoint(message: Message, request: Request) -> Response:
        raise AssertionError

    app = FastAPI()
    install(app)
    app.router.routes.append(MessageRoute("/", endpoint, methods=["POST"], dependencies=[Depends(forbidden)]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/", json={"payload": "a"})).status_code == 403
