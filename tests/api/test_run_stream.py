"""`POST /caller/runs`: its stream of events, the requests that it refuses, and what is left after a disconnect."""

import asyncio
import json
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from caller.run.model import Done, Event, OutageClosed, Started, Tick
from common.problems import Problem
from lab.processes import CALLER, CENTRAL, PRODUCER, Service, running
from tests.support.servers import caller_app, in_process, producing, serving

EVENT: TypeAdapter[Any] = TypeAdapter(Event)
MESSAGE = {"payload": "test"}
LONG = {"message": MESSAGE, "rate": 20, "durationSeconds": 60}


@pytest.fixture(scope="module")
def producer() -> Iterator[Service]:
    with running(PRODUCER, POD_NAME="pod-1", LOG_LEVEL="warning", **CENTRAL) as service:
        yield service


@pytest.fixture(scope="module")
def caller(producer: Service) -> Iterator[Service]:
    """Two concurrent runs, as by default."""
    with running(CALLER, PRODUCER_URL=producer.url, RUN_MAX_SECONDS="300") as service:
        yield service
        assert "Traceback" not in service.output


@contextmanager
def streaming(caller: Service, body: dict[str, Any], **options: Any) -> Iterator[httpx.Response]:
    """The response, when it has begun."""
    with (
        httpx.Client(trust_env=False, timeout=60, **options) as client,
        client.stream("POST", f"{caller.url}/caller/runs", json=body) as response,
    ):
        yield response


def events_of(response: httpx.Response) -> Iterator[Any]:
    """Each event as it comes; its name is its type."""
    assert response.status_code == 200, response.read()
    name = None
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            event = EVENT.validate_json(line.removeprefix("data: "))
            assert event.type == name
            yield event
        else:
            assert line == "" or line.startswith(":"), line


@contextmanager
def started(caller: Service, body: dict[str, Any]) -> Iterator[Iterator[Any]]:
    """The events after the first, while the run goes on."""
    with streaming(caller, body) as response:
        events = events_of(response)
        assert isinstance(next(events), Started)
        yield events


def ran(caller: Service, body: dict[str, Any]) -> list[Any]:
    with streaming(caller, body) as response:
        return list(events_of(response))


def post(caller: Service, body: Any, **options: Any) -> httpx.Response:
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json"} | options
    return httpx.post(f"{caller.url}/caller/runs", content=content, headers=headers, trust_env=False, timeout=60)


def metric(service: Service, pattern: str) -> float:
    text = httpx.get(f"{service.url}/metrics", trust_env=False, timeout=60).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(pattern, line))


def active(caller: Service) -> float:
    return metric(caller, "caller_runs_active ")


def calls_to(producer: Service) -> float:
    return metric(producer, r'http_server_request_duration_seconds_count{.*http_route="/producer/messages"')


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.05)


def wait_until_quiet(producer: Service) -> None:
    """Until no call reaches the producer for half a second."""
    seen = [-1.0]

    def unchanged() -> bool:
        time.sleep(0.5)
        seen.append(calls_to(producer))
        return seen[-1] == seen[-2]

    wait_until(unchanged)


def test_events_come_while_the_run_goes_on_and_the_last_is_done(caller: Service) -> None:
    with streaming(caller, {"message": MESSAGE, "rate": 50, "count": 100}) as response:
        assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        began = time.monotonic()
        events = [(time.monotonic() - began, event) for event in events_of(response)]
    kinds = [type(event) for _, event in events]
    assert kinds[0] is Started
    assert set(kinds[1:-1]) == {Tick}
    assert kinds[-1] is Done
    first_tick = next(at for at, event in events if isinstance(event, Tick))
    assert first_tick < events[-1][0] / 2, "after 0.5 s of 2 s"
    done = events[-1][1]
    assert (done.ended, done.reason) == ("complete", None)
    assert (done.summary.sent, done.summary.outcomes) == (100, {"ok": 100})
    assert done.summary.distribution.pods == {"pod-1": 100}


def test_started_has_the_parameters_of_the_run_with_the_defaults_filled_in(caller: Service, producer: Service) -> None:
    [started, *_] = ran(caller, {"message": {"id": "x", **MESSAGE}, "rate": 40, "durationSeconds": 0.25})
    assert started.run.model_dump(by_alias=True) == {
        "targets": [producer.url],
        "message": {
            "id": "x",
            "payload": "test",
            "delay": 0,
            "responseCode": 200,
            "faultRate": 1,
            "only": None,
        },
        "rate": 40,
        "count": 10,
        "connection": "fresh",
        "timeoutSeconds": 65,
        "maxInFlight": 500,
    }


def test_an_outage_of_faults_is_an_event_of_its_own(caller: Service) -> None:
    body = {"message": {**MESSAGE, "responseCode": 503, "faultRate": 0.5}, "rate": 100, "count": 60}
    events = ran(caller, body)
    outages = [event.outage for event in events if isinstance(event, OutageClosed)]
    summary = events[-1].summary
    assert outages == summary.outages
    assert sum(outage.calls_lost for outage in outages) == summary.failures > 5
    assert {outcome for outage in outages for outcome in outage.outcomes} == {"http_error"}


def test_ticks_count_who_answered_and_what_failed_since_the_last_one(caller: Service) -> None:
    message = {**MESSAGE, "responseCode": 503, "faultRate": 0.5}
    events = ran(caller, {"message": message, "rate": 100, "count": 150})
    ticks = [event for event in events if isinstance(event, Tick)]
    summary = events[-1].summary
    assert {name for tick in ticks for name in tick.answered} == {"producer-cluster"}
    assert {name for tick in ticks for name in tick.failed} == {"http_error"}
    assert sum(tick.answered["producer-cluster"] for tick in ticks if tick.answered) == summary.outcomes["ok"]
    assert sum(tick.failed["http_error"] for tick in ticks if tick.failed) == summary.outcomes["http_error"]
    for tick in ticks:
        assert tick.recent.count == sum(tick.answered.values()) + sum(tick.failed.values())


def test_two_concurrent_runs_both_complete(caller: Service) -> None:
    bodies = [{"message": MESSAGE, "rate": 40, "count": 60}, {"message": MESSAGE, "rate": 20, "count": 30}]
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda body: ran(caller, body), bodies))
    assert [(events[-1].ended, events[-1].summary.done) for events in both] == [("complete", 60), ("complete", 30)]


REFUSED: dict[str, tuple[dict[str, Any] | str, str]] = {
    "rate 0": ({"rate": 0}, "rate"),
    "a negative rate": ({"rate": -1}, "rate"),
    "a rate that is not a number": ('{"message": {"payload": "a"}, "rate": NaN, "count": 1}', "rate"),
    "an infinite rate": ('{"message": {"payload": "a"}, "rate": Infinity, "count": 1}', "rate"),
    "a rate in words": ({"rate": "fast"}, "rate"),
    "a rate over the limit": ({"rate": 201}, "RUN_MAX_RATE"),
    "no rate": ({"rate": ...}, "rate"),
    "neither duration nor count": ({"count": ...}, "either durationSeconds or count"),
    "both duration and count": ({"durationSeconds": 1}, "either durationSeconds or count"),
    "no call": ({"count": 0}, "count"),
    "half a call": ({"count": 1.5}, "count"),
    "no time": ({"count": ..., "durationSeconds": 0}, "durationSeconds"),
    "time that is not a number": (
        '{"message": {"payload": "a"}, "rate": 1, "durationSeconds": NaN}',
        "durationSeconds",
    ),
    "too long a time": ({"count": ..., "durationSeconds": 301}, "RUN_MAX_SECONDS"),
    "more calls than there is time for": ({"count": 3001, "rate": 10}, "RUN_MAX_SECONDS"),
    "an unknown field": ({"maxInFlight": 9}, "unknown field"),
    "an unknown field of the message": ({"message": {"payload": "a", "speed": 1}}, "unknown field"),
    "no message": ({"message": ...}, "message"),
    "no payload": ({"message": {}}, "payload"),
    "a target that is not allowed": ({"targets": ["http://evil.example"]}, "expected one of http://"),
    "one of two targets not allowed": ({"targets": ["127.0.0.1", "evil.example"]}, "expected one of http://"),
    "no target": ({"targets": []}, "targets"),
    "too many targets": ({"targets": ["127.0.0.1"] * 11}, "targets"),
    "an id without room for numbers": ({"message": {"payload": "a", "id": "i" * 101}}, "message.id"),
    "an id that is too long": ({"message": {"payload": "a", "id": "i" * 129}}, "message.id"),
    "a delay over the limit": ({"message": {"payload": "a", "delay": 60_001}}, "MAX_DELAY_MILLIS"),
    "a connection of another kind": ({"connection": "slow"}, "connection"),
    "no time for a call": ({"timeoutSeconds": 0}, "timeoutSeconds"),
    "too much time for a call": ({"timeoutSeconds": 601}, "timeoutSeconds"),
    "invalid JSON": ("{", "invalid JSON"),
    "not an object": ("[]", "body"),
    "an empty body": ("", "body"),
}


@pytest.mark.parametrize(("changes", "text"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_run_is_refused_before_the_stream_begins(
    caller: Service, changes: dict[str, Any] | str, text: str
) -> None:
    if isinstance(changes, dict):
        whole = {"message": MESSAGE, "rate": 10, "count": 1} | changes
        changes = json.dumps({name: value for name, value in whole.items() if value is not ...})
    response = post(caller, changes)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.text)
    assert text in problem.detail
    assert "Value error" not in problem.detail
    assert len(problem.errors) == 1


async def test_a_count_of_400_digits_is_refused() -> None:
    async with in_process(caller_app("localhost")) as client:
        response = await client.post("/caller/runs", json={"message": MESSAGE, "rate": 10, "count": 10**400})
    assert response.status_code == 422


def test_the_error_contains_the_value_that_was_sent(caller: Service) -> None:
    problem = post(caller, {"message": MESSAGE, "rate": 10, "count": 4000}).json()
    assert problem["errors"][0]["value"] == "4000"


def test_a_run_at_its_limits_is_accepted(producer: Service) -> None:
    with running(CALLER, PRODUCER_URL=producer.url, RUN_MAX_RATE="40", RUN_MAX_SECONDS="0.5") as caller:
        for last in ({"durationSeconds": 0.5}, {"count": 20}):
            done = ran(caller, {"message": {**MESSAGE, "id": "i" * 100}, "rate": 40, **last})[-1]
            assert (done.ended, done.summary.done) == ("complete", 20)


def test_a_payload_over_the_limit_is_413(caller: Service) -> None:
    response = post(caller, {"message": {"payload": "a" * 65_537}, "rate": 1, "count": 1})
    assert response.status_code == 413
    assert "MAX_PAYLOAD_BYTES" in response.json()["detail"]


def test_a_body_that_is_not_declared_as_json_is_415(caller: Service) -> None:
    body = {"message": MESSAGE, "rate": 1, "count": 1}
    assert post(caller, body, **{"content-type": "text/plain"}).status_code == 415


def test_get_is_405_so_that_no_link_starts_a_run(caller: Service) -> None:
    response = httpx.get(f"{caller.url}/caller/runs", trust_env=False)
    assert (response.status_code, response.headers.get("allow")) == (405, "POST")


def test_a_run_over_the_limit_is_429_and_is_admitted_when_another_has_ended(caller: Service) -> None:
    wait_until(lambda: active(caller) == 0)
    short = {"message": MESSAGE, "rate": 10, "count": 1}
    with started(caller, LONG):
        with started(caller, LONG):
            assert active(caller) == 2
            refused = post(caller, short)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            assert refused.headers["content-type"] == "application/problem+json"
            problem = refused.json()
            assert "RUN_MAX_ACTIVE" in problem["detail"]
            assert problem["errors"][0]["limit"] == 2
            assert post(caller, {**short, "rate": 0}).status_code == 422, "an invalid request is invalid at any time"
        wait_until(lambda: active(caller) == 1)
        assert ran(caller, short)[-1].ended == "complete"
        assert ran(caller, short)[-1].ended == "complete", "a run that is complete is no longer active"


def test_a_refused_run_does_not_count_as_active(caller: Service) -> None:
    wait_until(lambda: active(caller) == 0)
    for _ in range(5):
        assert post(caller, {"message": MESSAGE, "rate": 0, "count": 1}).status_code == 422
    assert ran(caller, {"message": MESSAGE, "rate": 10, "count": 1})[-1].ended == "complete"


def test_a_disconnect_stops_the_run(caller: Service, producer: Service) -> None:
    with started(caller, {**LONG, "rate": 100}) as events:
        assert isinstance(next(events), Tick)
    wait_until(lambda: active(caller) == 0)
    wait_until_quiet(producer)


def test_a_disconnect_cancels_the_calls_in_flight(caller: Service) -> None:
    wait_until(lambda: active(caller) == 0)
    before = caller.open_files()
    message = {**MESSAGE, "delay": 60_000}
    with started(caller, {**LONG, "message": message, "timeoutSeconds": 60}):
        wait_until(lambda: caller.open_files() >= before + 8)
    wait_until(lambda: active(caller) == 0)
    wait_until(lambda: caller.open_files() <= before + 1)


def test_a_thousand_disconnects_leave_nothing_behind(producer: Service) -> None:
    with running(CALLER, PRODUCER_URL=producer.url, RUN_MAX_ACTIVE="50", LOG_FORMAT="json") as caller:
        ran(caller, {"message": MESSAGE, "rate": 50, "count": 10})
        before = caller.open_files()
        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(lambda number: disconnect(caller, number), range(1000))) == 1000
        wait_until(lambda: active(caller) == 0)
        wait_until(lambda: caller.open_files() <= before)
        wait_until_quiet(producer)
        assert ran(caller, {"message": MESSAGE, "rate": 50, "count": 10})[-1].summary.outcomes == {"ok": 10}
        assert caller.stop() == 0
        logged = [json.loads(line) for line in caller.output.splitlines()]
    assert "Traceback" not in caller.output
    assert {line["severity"] for line in logged} == {"INFO"}


def disconnect(caller: Service, number: int) -> bool:
    """Start a run and close the connection: before the first byte, after the first event, or with a reset."""
    host, port = caller.url.removeprefix("http://").split(":")
    body = json.dumps({"message": MESSAGE, "rate": 20, "durationSeconds": 60})
    request = f"POST /caller/runs HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{request}content-length: {len(body)}\r\n\r\n{body}".encode())
        if number % 4:
            received = b""
            while b"event: started" not in received:
                chunk = connection.recv(4096)
                assert chunk, received
                received += chunk
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


async def test_disconnects_leave_no_task() -> None:
    async with producing() as url, serving(caller_app(url, run_max_active=100)) as caller:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            await client.get(f"{caller}/metrics")

        async def start_and_leave() -> None:
            async with (
                httpx.AsyncClient(trust_env=False, timeout=60) as client,
                client.stream("POST", f"{caller}/caller/runs", json=LONG) as response,
            ):
                async for line in response.aiter_lines():
                    if line == "event: started":
                        break

        await asyncio.sleep(0.3)
        before = len(asyncio.all_tasks())
        for _ in range(4):
            await asyncio.gather(*(start_and_leave() for _ in range(25)))
        async with asyncio.timeout(20):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.05)


FLAPPING = {"message": {**MESSAGE, "responseCode": 503, "faultRate": 0.5}, "rate": 200, "durationSeconds": 2}
"""About fifty outages a second: the most events that a run can have."""


@contextmanager
def unread(caller: Service, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A run whose reader does not read, with receive buffers as small as the kernel allows."""
    host, port = caller.url.removeprefix("http://").split(":")
    text = json.dumps(body)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(60)
        connection.connect((host, int(port)))
        head = f"POST /caller/runs HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}content-length: {len(text)}\r\n\r\n{text}".encode())
        yield connection


def test_a_reader_that_does_not_read_does_not_slow_the_run(caller: Service, producer: Service) -> None:
    wait_until(lambda: active(caller) == 0)
    wait_until_quiet(producer)
    before, calls = caller.memory() // 1024, calls_to(producer)
    with unread(caller, FLAPPING) as connection:
        wait_until(lambda: calls_to(producer) == calls + 400, 60)
        grown = caller.memory() // 1024 - before
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    data = [line.strip() for line in received.decode().split("\r\n") if line.startswith("event: ")]
    events = [EVENT.validate_json(part.partition("data: ")[2]) for part in data]
    summary = events[-1].summary
    assert events[-1].ended == "complete"
    assert (summary.offered, summary.done) == (400, 400)
    assert [event.outage for event in events if isinstance(event, OutageClosed)] == summary.outages
    assert grown < 20_000


def test_sigterm_ends_a_run_with_its_summary(producer: Service) -> None:
    with (
        running(CALLER, PRODUCER_URL=producer.url) as caller,
        started(caller, LONG) as events,
    ):
        assert isinstance(next(events), Tick)
        caller.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        *_, done = events
        assert time.monotonic() - began < 20, "the whole run would take 60 s"
        assert (done.ended, done.reason) == ("stopped", "the caller is stopping")
        assert done.summary.done == done.summary.sent > 0
        assert caller.process.wait(20) == 0
        assert "Traceback" not in caller.output


def test_sigterm_waits_a_second_for_the_calls_in_flight(producer: Service) -> None:
    message = {**MESSAGE, "delay": 60_000}
    with (
        running(CALLER, PRODUCER_URL=producer.url) as caller,
        started(caller, {**LONG, "message": message}) as events,
    ):
        assert isinstance(next(events), Tick)
        began = time.monotonic()
        caller.process.send_signal(signal.SIGTERM)
        *_, done = events
        assert 1 <= time.monotonic() - began < 20, "a call would take 60 s"
        assert (done.ended, done.summary.outcomes) == ("stopped", {"cancelled": done.summary.sent})
        assert caller.process.wait(20) == 0


def test_while_draining_a_new_run_is_stopped_early(producer: Service) -> None:
    with running(CALLER, PRODUCER_URL=producer.url, DRAIN_SECONDS="20") as caller:
        caller.process.send_signal(signal.SIGTERM)
        wait_until(lambda: metric(caller, "service_draining ") == 1)
        done = ran(caller, LONG)[-1]
        assert (done.ended, done.reason) == ("stopped", "the caller is stopping")
        assert done.summary.elapsed_seconds < 20, "the whole run would take 60 s"
