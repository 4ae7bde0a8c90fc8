"""Signals, log lines and metrics of real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from caller.hop.metrics import HopMetrics
from common.messages import ClusterMetadata, Message
from lab.processes import CALLER, CENTRAL, PRODUCER, QUIET, ROOT, Service, free_port, running, start
from tests.support.servers import calling, producing


def post(url: str, service: str, **message: object) -> httpx.Response:
    return httpx.post(f"{url}/{service}/messages", json={"payload": "a", **message}, timeout=100, trust_env=False)


def status(url: str) -> int:
    return httpx.get(f"{url}/actuator/health/readiness", trust_env=False, timeout=60).status_code


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


def wait_in_flight(service: Service) -> None:
    """Wait until the service has a request in flight."""
    url = f"{service.url}/metrics"
    wait_until(
        lambda: "\nhttp_server_active_requests 1.0\n" in httpx.get(url, trust_env=False, timeout=60).text,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_3_s_call_loses_nothing_and_the_status_is_0(number: signal.Signals) -> None:
    with (
        running(PRODUCER) as producer,
        running(CALLER, PRODUCER_URL=producer.url) as caller,
        ThreadPoolExecutor() as pool,
    ):
        call = pool.submit(post, caller.url, "caller", delay=3000)
        wait_in_flight(caller)
        assert caller.stop(number, timeout=60) == 0
        assert call.result().json()["outcome"] == "ok"


def test_while_draining_the_service_is_not_ready_and_still_serves_with_connection_close() -> None:
    with running(PRODUCER, DRAIN_SECONDS="4") as producer:
        client = httpx.Client(base_url=producer.url, trust_env=False, timeout=60)
        assert "connection" not in client.post("/producer/messages", json={"payload": "a"}).headers
        signaled = time.monotonic()
        producer.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status(producer.url) == 503)
        assert httpx.get(f"{producer.url}/actuator/health/liveness", trust_env=False).status_code == 200
        reply = client.post("/producer/messages", json={"payload": "a"})
        assert (reply.status_code, reply.headers["connection"]) == (200, "close")
        assert producer.process.wait(60) == 0
        assert 4 <= time.monotonic() - signaled < 30
        client.close()


def test_the_reply_to_a_call_that_began_before_the_drain_has_connection_close() -> None:
    with running(PRODUCER, DRAIN_SECONDS="1") as producer, ThreadPoolExecutor() as pool:
        call = pool.submit(post, producer.url, "producer", delay=2000)
        wait_in_flight(producer)
        assert producer.stop(timeout=60) == 0
        assert call.result().headers["connection"] == "close"


def test_a_second_signal_ends_the_drain_but_not_the_requests_in_flight() -> None:
    with running(PRODUCER, DRAIN_SECONDS="100") as producer, ThreadPoolExecutor() as pool:
        call = pool.submit(post, producer.url, "producer", delay=3000)
        wait_in_flight(producer)
        producer.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status(producer.url) == 503)
        assert producer.stop(timeout=60) == 0
        assert call.result().status_code == 200


def test_a_request_that_takes_longer_than_shutdown_seconds_is_cut_off_with_a_503() -> None:
    with running(PRODUCER, SHUTDOWN_SECONDS="1") as producer, ThreadPoolExecutor() as pool:
        call = pool.submit(post, producer.url, "producer", delay=60_000)
        wait_in_flight(producer)
        started = time.monotonic()
        assert producer.stop(timeout=60) == 0
        assert time.monotonic() - started < 30
        assert call.result().status_code == 503
        assert "SHUTDOWN_SECONDS" in call.result().json()["detail"]
        assert call.result().headers["x-answered-by"] == "sample-producer"
        assert "Traceback" not in producer.output


@pytest.mark.parametrize("module", [PRODUCER, CALLER], ids=["producer", "caller"])
def test_sigterm_is_handled_from_the_first_moment_of_start_up(module: tuple[str, ...]) -> None:
    """The first process of a container ignores a signal that it does not handle, until the kubelet kills it."""
    for _ in range(20):
        service = start(module, {})
        try:
            wait_until(partial(handles, service, signal.SIGTERM))
            early = "uvloop" not in Path(f"/proc/{service.process.pid}/maps").read_text()
            assert service.stop(timeout=60) == 0
            if early and service.output == "":
                return
        finally:
            service.process.kill()
            service.process.wait(60)
    raise AssertionError("the signal is handled only after everything has been imported")


SLOW_START = """
import asyncio
from common.middleware.draining import Lifecycle
from common.server import serve
from common.settings import ServiceSettings

lifecycle = Lifecycle()

async def app(scope, receive, send):
    await receive()
    print("starting", flush=True)
    while not lifecycle.draining:
        await asyncio.sleep(0.01)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

serve(app, ServiceSettings(), lifecycle)
"""
"""A server whose app completes its start-up only after the signal."""


def test_sigterm_before_start_up_is_complete_ends_the_process_without_a_drain() -> None:
    environment = {"PATH": os.environ["PATH"], **QUIET, "PORT": "0", "DRAIN_SECONDS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_START], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            while process.stdout.readline() != "starting\n":
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "and not after 100 s"
        finally:
            process.kill()


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
    """A client that keeps its connection gets `Connection: close` before the listener closes, so no call is lost."""
    with running(PRODUCER, DRAIN_SECONDS="4") as producer:
        ended = threading.Event()
        statuses: list[int] = []

        def call_on() -> None:
            with httpx.Client(base_url=producer.url, trust_env=False, timeout=60) as client:
                while not ended.is_set():
                    reply = client.post("/producer/messages", json={"payload": "a"})
                    statuses.append(reply.status_code)
                    if reply.headers.get("connection") == "close":
                        break

        with ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(call_on) for _ in range(8)]
            while len(statuses) < 40:
                time.sleep(0.05)
            assert producer.stop(timeout=60) == 0
            ended.set()
            for stream in streams:
                stream.result()
    assert set(statuses) == {200}


def test_an_address_in_use_is_an_error_with_its_reason() -> None:
    with running(PRODUCER) as producer:
        second = start(PRODUCER, {"PORT": producer.url.rpartition(":")[2]})
        assert second.process.wait(60) != 0
        assert "address already in use" in second.output.lower()


def test_arguments_of_the_producer_are_refused() -> None:
    service = start((*PRODUCER, "--port", "1"), {})
    assert service.process.wait(60) == 2
    assert "takes no arguments, got '--port'" in service.output


def test_a_request_is_one_log_line_with_its_outcome_and_duration() -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with running(PRODUCER, **CENTRAL) as producer, running(CALLER, PRODUCER_URL=producer.url) as caller:
        headers = {"x-request-id": "abc", "traceparent": traceparent, "authorization": "Bearer hidden"}
        slow = {"payload": "a", "delay": 50}
        httpx.post(f"{caller.url}/caller/messages", json=slow, headers=headers, trust_env=False, timeout=60)
        httpx.post(f"{caller.url}/caller/messages", json={"payload": 1}, trust_env=False, timeout=60)
        httpx.get(f"{caller.url}/metrics", trust_env=False, timeout=60)
        assert caller.stop(timeout=60) == producer.stop(timeout=60) == 0
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
        assert ok["httpRequest"].keys() == {"requestMethod", "requestUrl", "status", "latency"}
        assert ok["httpRequest"]["requestMethod"] == "POST"
        assert re.fullmatch(r"\d+\.\d{6}s", ok["httpRequest"]["latency"])
        assert float(ok["httpRequest"]["latency"].removesuffix("s")) * 1000 == pytest.approx(
            ok["durationMillis"], abs=0.001
        )
        assert ok["durationMillis"] >= 50
        assert bad["status"] == 422
        assert [json.loads(line)["requestId"] for line in producer.output.splitlines() if '"request"' in line] == [
            "abc"
        ]
        assert "hidden" not in caller.output + producer.output


def test_metrics_have_the_names_of_the_conventions_and_bounded_labels() -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with (
        running(PRODUCER, **CENTRAL) as producer,
        running(CALLER, PRODUCER_URL=producer.url, COMPARE_URLS=closed) as caller,
    ):
        post(caller.url, "caller", responseCode=503)
        post(caller.url, "caller", target=closed)
        httpx.get(f"{caller.url}/one/of/many", trust_env=False, timeout=60)
        text = httpx.get(f"{caller.url}/metrics", trust_env=False, timeout=60).text
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


async def test_the_33rd_cluster_and_zone_have_the_label_other() -> None:
    registry = CollectorRegistry()
    metrics = HopMetrics(registry)
    async with producing() as url, calling(url) as client:
        target = client.settings.producer_url
        hop = await client.call(Message(payload="a"), target)
    for number in [*range(32), 32, 33, 0]:
        there = ClusterMetadata(cluster_name=f"cluster-{number}", zone=f"zone-{number}")
        metrics.observe(target, hop.model_copy(update={"producer_metadata": there}), 200)
    counts = {
        (sample.labels["peer_cluster"], sample.labels["peer_zone"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "caller_hop_duration_seconds_count"
    }
    named = {(f"cluster-{number}", f"zone-{number}"): 1 for number in range(32)}
    assert counts == named | {("cluster-0", "zone-0"): 2, ("other", "other"): 2}
    assert ("caller_hop_phase_duration_seconds_count", "other") in {
        (sample.name, sample.labels.get("peer_cluster")) for family in registry.collect() for sample in family.samples
    }
