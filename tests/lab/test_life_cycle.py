"""Pods that start and end during a run of 100 calls per second: the lost calls, and the outages that the run reports.

The kubelet sends SIGTERM at the end of a pod, and its endpoint is removed at about the same time; the other cluster
receives that change later. The backend service of a multi-cluster Service drains for 0 s, so until then only the pod's
own drain keeps calls from being refused.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from lab.lab import Lab, pod_name
from lab.processes import Service

RATE = 100
OLD = ("10.8.2.13", "10.8.2.14")
NEW = ("10.8.2.15", "10.8.2.16")
SYNC_SECONDS = 1.0
"""Until the other cluster has received the removal of an endpoint."""
MODES = ["fresh", "reuse"]

pytestmark = pytest.mark.timeout(180)


def run(lab: Lab, seconds: float, mode: str = "fresh", **more: Any) -> Future[dict[str, Any]]:
    """A run that has started."""
    running = lab.running(RATE, int(RATE * seconds), connection=mode, **more)
    time.sleep(0.7)
    return running


@contextmanager
def pods(lab: Lab, *addresses: str, **settings: str) -> Iterator[list[Service]]:
    """Producers that are ready, but not endpoints."""
    with ExitStack() as stack:
        yield [stack.enter_context(lab.producer(address, **settings)) for address in addresses]


def calls_of(summary: dict[str, Any]) -> int:
    """Number of calls of the run; none was dropped."""
    assert summary["dropped"] == 0
    assert summary["offered"] == summary["done"]
    return int(summary["offered"])


# Rolling restarts


@pytest.mark.parametrize("mode", MODES)
def test_a_rolling_restart_of_all_producers_loses_no_call(lab: Lab, mode: str) -> None:
    with pods(lab, *OLD, DRAIN_SECONDS="2") as old, pods(lab, *NEW), lab.endpoints(*OLD):
        running = run(lab, 6, mode)
        endpoints = list(OLD)
        for service, leaving, coming in zip(old, OLD, NEW, strict=True):
            endpoints.append(coming)
            lab.set_endpoints(*endpoints)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(SYNC_SECONDS)
            endpoints.remove(leaving)
            lab.set_endpoints(*endpoints)
        assert [service.process.wait(60) for service in old] == [0, 0]
        summary = running.result()
    assert summary["outcomes"] == {"ok": calls_of(summary)}
    assert summary["outageCount"] == 0
    answered = set(summary["distribution"]["pods"])
    assert answered >= {pod_name(NEW[0])}
    assert answered <= set(map(pod_name, OLD + NEW))
    if mode == "fresh":
        assert answered == set(map(pod_name, OLD + NEW))


def test_without_a_drain_calls_fail_until_the_other_cluster_has_removed_the_endpoint(lab: Lab) -> None:
    """A multi-cluster Service does not drain: half of the calls reach the pod that has ended."""
    with pods(lab, OLD[0], DRAIN_SECONDS="0") as [old], pods(lab, NEW[0]), lab.endpoints(OLD[0], NEW[0]):
        running = run(lab, 4)
        stopped = time.monotonic()
        assert old.stop() == 0
        time.sleep(SYNC_SECONDS)
        lab.set_endpoints(NEW[0])
        seconds = time.monotonic() - stopped
        summary = running.result()
    assert set(summary["outcomes"]) <= {"ok", "refused", "reset", "closed"}
    assert 20 < summary["failures"] < (seconds + 0.5) * RATE, summary["outcomes"]


@pytest.mark.parametrize("mode", MODES)
def test_a_rolling_restart_of_the_caller_loses_no_call_of_an_ingress(lab: Lab, mode: str) -> None:
    with lab.caller(DRAIN_SECONDS="2") as old, lab.caller() as new:
        ingress = Ingress(lab, mode, [old])
        with ingress.serving():
            time.sleep(0.7)
            ingress.add(new)
            time.sleep(0.3)
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(60) == 0
            time.sleep(0.5)
    assert ingress.failures == []
    assert set(ingress.answers) == {(old.url, "ok"), (new.url, "ok")}
    assert min(ingress.answers.values()) > 20


class Ingress:
    """Ten concurrent clients that send requests to the ready callers in turn."""

    def __init__(self, lab: Lab, mode: str, callers: list[Service]) -> None:
        self.cluster = lab.caller_cluster
        self.mode = mode
        self.known = list(callers)
        self.ready = list(callers)
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.over = threading.Event()

    def add(self, caller: Service) -> None:
        self.known = [*self.known, caller]

    @contextmanager
    def serving(self) -> Iterator[None]:
        tasks = [self.cluster.threads.submit(self.check)]
        tasks += [self.cluster.threads.submit(self.client, number) for number in range(10)]
        try:
            yield
        finally:
            self.over.set()
            for task in tasks:
                task.result()

    def check(self) -> None:
        """Check readiness periodically, as a load balancer."""
        while not self.over.wait(0.2):
            self.ready = [caller for caller in self.known if self.is_ready(caller)] or self.ready

    def is_ready(self, caller: Service) -> bool:
        try:
            return httpx.get(f"{caller.url}/actuator/health/readiness", trust_env=False, timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def client(self, number: int) -> None:
        limits = httpx.Limits(max_keepalive_connections=0 if self.mode == "fresh" else 20)
        with httpx.Client(trust_env=False, timeout=30, limits=limits, headers={"x-client": str(number)}) as http:
            while not self.over.wait(0.05):
                backends = self.ready
                caller = backends[self.answers.total() % len(backends)]
                try:
                    reply = http.post(f"{caller.url}/caller/messages", json={"payload": "a", "connection": self.mode})
                    self.answers[caller.url, reply.json()["outcome"]] += 1
                except (httpx.TransportError, KeyError) as error:
                    self.failures.append(f"{caller.url}: {error!r}")


# Pods that end without SIGTERM


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_pod_loses_only_its_calls_in_flight(lab: Lab, mode: str) -> None:
    """Each call takes a second, so each of the two pods has about fifty in flight; fewer, if the kill is late."""
    with pods(lab, *OLD) as [victim, _], lab.endpoints(*OLD):
        message = {"payload": "ping", "delay": 1000}
        running = run(lab, 4, mode, message=message)
        time.sleep(0.8)
        lab.set_endpoints(OLD[1])
        victim.stop(signal.SIGKILL)
        summary = running.result()
    calls, ok = calls_of(summary), summary["outcomes"]["ok"]
    assert set(summary["outcomes"]) <= {"ok", "closed", "reset"}
    assert 0 < calls - ok < 75, summary["outcomes"]
    assert sum(summary["distribution"]["pods"].values()) == ok
    assert summary["outages"][-1]["after"]["pod"] == pod_name(OLD[1])


@pytest.mark.parametrize("mode", MODES)
def test_the_outage_of_a_run_is_the_time_without_the_pod(lab: Lab, mode: str) -> None:
    with pods(lab, OLD[0]) as [old], pods(lab, NEW[0]), lab.endpoints(OLD[0]):
        running = run(lab, 4.5, mode)
        times = [time.monotonic()]
        old.stop(signal.SIGKILL)
        times.append(time.monotonic())
        time.sleep(1.5)
        times.append(time.monotonic())
        lab.set_endpoints(NEW[0])
        times.append(time.monotonic())
        summary = running.result()
    killing, dead, still_dead, back = times
    outage = max(summary["outages"], key=lambda outage: outage["millis"])
    doubt = 250 + summary["schedulingDelay"]["maxMillis"]
    assert (still_dead - dead) * 1000 - doubt < outage["millis"] < (back - killing) * 1000 + doubt
    assert outage["millis"] == summary["longestOutageMillis"]
    assert outage["callsLost"] == pytest.approx(outage["millis"] / 1000 * RATE, abs=1.01)
    assert summary["failures"] - outage["callsLost"] < RATE / 2, "the calls in flight when it was killed"
    assert outage["after"]["pod"] == pod_name(NEW[0])
    assert (outage["before"] or {}).get("pod") == pod_name(OLD[0])
    assert set(outage["outcomes"]) <= {"refused", "closed", "reset"}
    assert outage["outcomes"]["refused"] > 10


def test_a_hanging_pod_fails_its_own_calls_by_their_timeout_and_serves_again(lab: Lab) -> None:
    with pods(lab, *OLD) as [hanging, _], lab.endpoints(*OLD):
        running = run(lab, 5, timeoutSeconds=1)
        hanging.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        hanging.process.send_signal(signal.SIGCONT)
        summary = running.result()
        after = {lab.call({"payload": "a", "connection": "fresh"})["producerMetadata"]["podName"] for _ in OLD}
    assert set(summary["outcomes"]) == {"ok", "read_timeout"}
    assert 5 < summary["outcomes"]["read_timeout"] < 3 * RATE
    assert summary["outages"][-1]["after"] is not None, "the last outage ended before the run"
    assert after == set(map(pod_name, OLD))


def test_a_pod_that_is_an_endpoint_before_it_listens_refuses_and_then_answers(lab: Lab) -> None:
    """The same as without a readiness probe. No layer remembers the refusal."""
    with lab._producer(OLD[0]) as starting, lab.endpoints(OLD[0]):
        running = lab.running(RATE, 12 * RATE, connection="fresh")
        lab.cluster_of(OLD[0]).inside(starting.wait_ready)
        summary = running.result()
    assert set(summary["outcomes"]) == {"refused", "ok"}
    [outage] = summary["outages"]
    assert (outage["before"], outage["after"]["pod"]) == (None, pod_name(OLD[0]))
