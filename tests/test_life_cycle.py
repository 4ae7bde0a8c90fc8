"""Signals, with real processes."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lab.processes import CALLER, CENTRAL, PRODUCER, Service, free_port, running, start


def post(url: str, service: str, **message: object) -> httpx.Response:
    return httpx.post(f"{url}/{service}/messages", json={"payload": "a", **message}, timeout=20, trust_env=False)


def status(url: str) -> int:
    return httpx.get(f"{url}/actuator/health/readiness", trust_env=False).status_code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_3_s_call_loses_nothing_and_the_status_is_0(number: signal.Signals) -> None:
    with (
        running(PRODUCER) as producer,
        running(CALLER, PRODUCER_URL=producer.url) as caller,
        ThreadPoolExecutor() as pool,
    ):
        call = pool.submit(post, caller.url, "caller", delay=3000)
        time.sleep(0.5)
        assert caller.stop(number) == 0
        assert call.result().json()["outcome"] == "ok"


def test_while_draining_the_service_is_not_ready_and_still_serves_and_asks_to_close() -> None:
    with running(PRODUCER, DRAIN_SECONDS="1.5") as producer:
        client = httpx.Client(base_url=producer.url, trust_env=False)
        assert "connection" not in client.post("/producer/messages", json={"payload": "a"}).headers
        producer.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert status(producer.url) == 503
        assert httpx.get(f"{producer.url}/actuator/health/liveness", trust_env=False).status_code == 200
        reply = client.post("/producer/messages", json={"payload": "a"})
        assert (reply.status_code, reply.headers["connection"]) == (200, "close")
        started = time.monotonic()
        assert producer.process.wait(10) == 0
        assert time.monotonic() - started < 2.5
        client.close()


def test_a_call_that_began_before_the_drain_is_asked_to_close_when_it_ends() -> None:
    with running(PRODUCER, DRAIN_SECONDS="1") as producer, ThreadPoolExecutor() as pool:
        call = pool.submit(post, producer.url, "producer", delay=800)
        time.sleep(0.3)
        assert producer.stop() == 0
        assert call.result().headers["connection"] == "close"


def test_a_second_signal_ends_the_drain_but_not_what_is_in_flight() -> None:
    with running(PRODUCER, DRAIN_SECONDS="30") as producer, ThreadPoolExecutor() as pool:
        call = pool.submit(post, producer.url, "producer", delay=1500)
        time.sleep(0.3)
        producer.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert producer.stop() == 0
        assert call.result().status_code == 200


def test_what_takes_longer_than_the_bound_is_cut() -> None:
    with running(PRODUCER, SHUTDOWN_SECONDS="1") as producer, ThreadPoolExecutor() as pool:
        call = pool.submit(post, producer.url, "producer", delay=15_000)
        time.sleep(0.3)
        started = time.monotonic()
        assert producer.stop() == 0
        assert time.monotonic() - started < 4
        assert call.result().status_code == 503
        assert "SHUTDOWN_SECONDS" in call.result().json()["detail"]
        assert call.result().headers["x-answered-by"] == "sample-producer"
        assert "Traceback" not in producer.output


@pytest.mark.parametrize("module", [PRODUCER, CALLER], ids=["producer", "caller"])
def test_a_signal_is_obeyed_from_the_first_moment_of_a_start_up(module: tuple[str, ...]) -> None:
    """The first process of a container ignores a signal that it does not handle, and is killed when patience ends."""
    service = start(module, {})
    try:
        deadline = time.monotonic() + 20
        while not handles(service, signal.SIGTERM):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert "uvloop" not in Path(f"/proc/{service.process.pid}/maps").read_text(), "all is imported by now"
        assert service.stop() == 0
        assert service.output == ""
    finally:
        service.process.kill()
        service.process.wait(10)


def handles(service: Service, number: signal.Signals) -> bool:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_the_caller_is_ready_without_a_producer() -> None:
    with running(CALLER, PRODUCER_URL=f"http://127.0.0.1:{free_port()}") as caller:
        assert status(caller.url) == 200
        assert post(caller.url, "caller").json()["outcome"] == "refused"


def test_a_stopped_producer_is_refused_and_a_restarted_one_is_ok_again() -> None:
    port = str(free_port())
    with running(CALLER, PRODUCER_URL=f"127.0.0.1:{port}") as caller:
        for _ in range(2):
            with running(PRODUCER, PORT=port, **CENTRAL) as producer:
                hop = post(caller.url, "caller").json()
                assert hop["outcome"] == "ok", hop["error"]
                assert hop["producerMetadata"]["clusterName"] == "producer-cluster"
                producer.stop()
            assert post(caller.url, "caller").json()["outcome"] == "refused"


def test_a_stream_of_calls_survives_the_drain_of_a_producer() -> None:
    """A client that keeps its connection is told to leave before the listener closes, so none of its calls is lost."""
    with running(PRODUCER, DRAIN_SECONDS="1") as producer:
        ended = threading.Event()
        statuses: list[int] = []

        def call_on() -> None:
            with httpx.Client(base_url=producer.url, trust_env=False) as client:
                while not ended.is_set():
                    reply = client.post("/producer/messages", json={"payload": "a"})
                    statuses.append(reply.status_code)
                    if reply.headers.get("connection") == "close":
                        break

        with ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(call_on) for _ in range(8)]
            while len(statuses) < 40:
                time.sleep(0.05)
            assert producer.stop() == 0
            ended.set()
            for stream in streams:
                stream.result()
    assert set(statuses) == {200}


def test_an_address_in_use_is_an_error_with_its_reason() -> None:
    with running(PRODUCER) as producer:
        second = start(PRODUCER, {"PORT": producer.url.rpartition(":")[2]})
        assert second.process.wait(10) != 0
        assert "address already in use" in second.output.lower()


def test_arguments_of_the_producer_are_refused() -> None:
    service = start((*PRODUCER, "--port", "1"), {})
    assert service.process.wait(10) == 2
    assert "takes no arguments, got '--port'" in service.output


def test_one_line_a_request_with_what_an_operator_needs() -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with running(PRODUCER, **CENTRAL) as producer, running(CALLER, PRODUCER_URL=producer.url) as caller:
        headers = {"x-request-id": "abc", "traceparent": traceparent, "authorization": "Bearer hidden"}
        httpx.post(f"{caller.url}/caller/messages", json={"payload": "a"}, headers=headers, trust_env=False)
        httpx.post(f"{caller.url}/caller/messages", json={"payload": 1}, trust_env=False)
        httpx.get(f"{caller.url}/metrics", trust_env=False)
        assert caller.stop() == producer.stop() == 0
        lines = [json.loads(line) for line in caller.output.splitlines()]
        requests = [line for line in lines if line["logger"] == "request"]
        ok, bad = requests  # probes and scrapes are not among them
        assert (
            ok.items()
            >= {
                "severity": "INFO",
                "requestId": "abc",
                "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
                "route": "/caller/messages",
                "status": 200,
                "outcome": "ok",
                "peerCluster": "producer-cluster",
            }.items()
        )
        assert ok["httpRequest"]["requestMethod"] == "POST"
        assert ok["durationMillis"] > 0
        assert bad["status"] == 422
        assert [json.loads(line)["requestId"] for line in producer.output.splitlines() if '"request"' in line] == [
            "abc"
        ]
        assert "hidden" not in caller.output + producer.output


def test_metrics_carry_the_names_of_the_conventions_and_bounded_labels() -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with (
        running(PRODUCER, **CENTRAL) as producer,
        running(CALLER, PRODUCER_URL=producer.url, COMPARE_URLS=closed) as caller,
    ):
        post(caller.url, "caller", responseCode=503)
        post(caller.url, "caller", target=closed)
        httpx.get(f"{caller.url}/one/of/many", trust_env=False)
        text = httpx.get(f"{caller.url}/metrics", trust_env=False).text
    assert (
        'caller_hop_duration_seconds_count{crossing="unknown",outcome="http_error",peer_cluster="producer-cluster",'
        f'peer_zone="us-central1-b",target="{producer.url}"}} 1.0' in text
    )
    assert 'error_type="refused",http_request_method="POST",http_response_status_code=""' in text
    assert 'http_server_request_duration_seconds_count{http_request_method="POST"' in text
    assert 'http_route="unmatched"' in text
    assert "one/of/many" not in text
    assert "process_resident_memory_bytes" in text
    labels = {
        pair.split("=")[0]
        for line in text.splitlines()
        if "{" in line
        for pair in line[line.find("{") + 1 :].split(",")
    }
    assert not labels & {"cluster", "location", "namespace", "job", "instance", "project_id"}
