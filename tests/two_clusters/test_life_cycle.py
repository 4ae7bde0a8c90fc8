"""Pods that come and go under a run of 100 calls a second: what is lost, and whether the run says so.

The kubelet sends SIGTERM when a pod is to end, and its endpoint goes at about the same time; the other cluster learns
of that later. The backend service of a multi-cluster Service drains for 0 s, so that between the two only the pod's own
drain keeps its callers from being refused.
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
LEARNT_SECONDS = 1.0
"""Until the other cluster has learnt that an endpoint is gone."""
MODES = ["fresh", "reuse"]

pytestmark = pytest.mark.timeout(180)


def run(lab: Lab, seconds: float, mode: str = "fresh", **more: Any) -> Future[dict[str, Any]]:
    """A run that has begun."""
    running = lab.running(RATE, int(RATE * seconds), connection=mode, **more)
    time.sleep(0.7)
    return running


@contextmanager
def pods(lab: Lab, *addresses: str, **settings: str) -> Iterator[list[Service]]:
    """Producers that are ready, and no endpoints yet."""
    with ExitStack() as stack:
        yield [stack.enter_context(lab.producer(address, **settings)) for address in addresses]


def all_of(summary: dict[str, Any]) -> int:
    """The calls of the run; none was left out."""
    assert summary["leftOut"] == 0
    assert summary["offered"] == summary["done"]
    return int(summary["offered"])


# As Kubernetes replaces pods


@pytest.mark.parametrize("mode", MODES)
def test_a_rolling_restart_of_all_producers_loses_no_call(lab: Lab, mode: str) -> None:
    with pods(lab, *OLD, DRAIN_SECONDS="2") as old, pods(lab, *NEW), lab.endpoints(*OLD):
        running = run(lab, 6, mode)
        endpoints = list(OLD)
        for service, leaving, coming in zip(old, OLD, NEW, strict=True):
            endpoints.append(coming)
            lab.set_endpoints(*endpoints)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(LEARNT_SECONDS)
            endpoints.remove(leaving)
            lab.set_endpoints(*endpoints)
        assert [service.process.wait(15) for service in old] == [0, 0]
        summary = running.result()
    assert summary["outcomes"] == {"ok": all_of(summary)}
    assert summary["gapCount"] == 0
    answered = set(summary["spread"]["pods"])
    assert answered >= {pod_name(NEW[0])}
    assert answered <= set(map(pod_name, OLD + NEW))
    if mode == "fresh":
        assert answered == set(map(pod_name, OLD + NEW))


def test_without_a_drain_of_its_own_a_pod_is_missed_until_the_other_cluster_has_learnt(lab: Lab) -> None:
    """So much for the drain that a multi-cluster Service gives: half of the calls meet the pod that is gone."""
    with pods(lab, OLD[0], DRAIN_SECONDS="0") as [old], pods(lab, NEW[0]), lab.endpoints(OLD[0], NEW[0]):
        running = run(lab, 4)
        stopped = time.monotonic()
        assert old.stop() == 0
        time.sleep(LEARNT_SECONDS)
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
            assert old.process.wait(15) == 0
            time.sleep(0.5)
    assert ingress.failures == []
    assert set(ingress.answers) == {(old.url, "ok"), (new.url, "ok")}
    assert min(ingress.answers.values()) > 20


class Ingress:
    """Ten clients at once that go to the callers in turn, to those that are ready only."""

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
        """As a load balancer asks, every now and then."""
        while not self.over.wait(0.2):
            self.ready = [caller for caller in self.known if self.is_ready(caller)] or self.ready

    def is_ready(self, caller: Service) -> bool:
        try:
            return httpx.get(f"{caller.url}/actuator/health/readiness", trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def client(self, number: int) -> None:
        limits = httpx.Limits(max_keepalive_connections=0 if self.mode == "fresh" else 20)
        with httpx.Client(trust_env=False, timeout=10, limits=limits, headers={"x-client": str(number)}) as http:
            while not self.over.wait(0.05):
                backends = self.ready
                caller = backends[self.answers.total() % len(backends)]
                try:
                    reply = http.post(f"{caller.url}/caller/messages", json={"payload": "a", "connection": self.mode})
                    self.answers[caller.url, reply.json()["outcome"]] += 1
                except (httpx.TransportError, KeyError) as error:
                    self.failures.append(f"{caller.url}: {error!r}")


# Without a warning


@pytest.mark.parametrize("mode", MODES)
def test_a_pod_that_is_killed_takes_only_its_calls_in_flight_with_it(lab: Lab, mode: str) -> None:
    """Each call takes a second, so that of the two pods each has about fifty in flight."""
    with pods(lab, *OLD) as [victim, _], lab.endpoints(*OLD):
        message = {"payload": "ping", "delay": 1000}
        running = run(lab, 4, mode, message=message)
        time.sleep(0.8)
        lab.set_endpoints(OLD[1])
        victim.stop(signal.SIGKILL)
        summary = running.result()
    whole, ok = all_of(summary), summary["outcomes"]["ok"]
    assert set(summary["outcomes"]) <= {"ok", "closed", "reset"}
    assert 25 < whole - ok < 75, summary["outcomes"]
    assert sum(summary["spread"]["pods"].values()) == ok
    assert all(gap["after"]["pod"] == pod_name(OLD[1]) for gap in summary["gaps"])


@pytest.mark.parametrize("mode", MODES)
def test_the_gap_that_a_run_reports_is_as_long_as_the_pod_was_gone(lab: Lab, mode: str) -> None:
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
    killed, dead, still_gone, back = times
    gap = max(summary["gaps"], key=lambda gap: gap["millis"])
    doubt = 100 + summary["lateness"]["maxMillis"]
    assert (still_gone - dead) * 1000 - doubt < gap["millis"] < (back - killed) * 1000 + doubt
    assert gap["millis"] == summary["longestGapMillis"]
    assert gap["callsLost"] == pytest.approx(gap["millis"] / 1000 * RATE, abs=1.01)
    assert summary["failures"] - gap["callsLost"] < RATE / 2, "those in flight when it was killed"
    assert gap["after"]["pod"] == pod_name(NEW[0])
    assert (gap["before"] or {}).get("pod") == pod_name(OLD[0])
    assert set(gap["outcomes"]) <= {"refused", "closed", "reset"}
    assert gap["outcomes"]["refused"] > 10


def test_a_pod_that_hangs_fails_its_own_calls_by_their_time_out_and_serves_again(lab: Lab) -> None:
    with pods(lab, *OLD) as [hung, _], lab.endpoints(*OLD):
        running = run(lab, 5, timeoutSeconds=1)
        hung.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        hung.process.send_signal(signal.SIGCONT)
        summary = running.result()
        after = {lab.call({"payload": "a", "connection": "fresh"})["producerMetadata"]["podName"] for _ in OLD}
    assert set(summary["outcomes"]) == {"ok", "read_timeout"}
    assert 5 < summary["outcomes"]["read_timeout"] < 3 * RATE
    assert summary["gaps"][-1]["after"] is not None, "the run ended well"
    assert after == set(map(pod_name, OLD))


def test_a_pod_that_is_an_endpoint_before_it_listens_refuses_and_answers_as_soon_as_it_does(lab: Lab) -> None:
    """As without a readiness probe. Nothing remembers that it refused."""
    with lab._producer(OLD[0]) as starting, lab.endpoints(OLD[0]):
        running = lab.running(RATE, 5 * RATE, connection="fresh")
        lab.cluster_of(OLD[0]).inside(starting.wait_ready)
        summary = running.result()
    assert set(summary["outcomes"]) == {"refused", "ok"}
    [gap] = summary["gaps"]
    assert (gap["before"], gap["after"]["pod"]) == (None, pod_name(OLD[0]))
