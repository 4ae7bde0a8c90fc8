"""The engine of runs, in process, against producers behind real sockets."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple

import pytest
import uvicorn
from hdrh.histogram import HdrHistogram
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from caller.hop.client import ProducerClient
from caller.hop.outcome import Outcome
from caller.run.engine import Run, running
from caller.run.merge import merged
from caller.run.metrics import RunMetrics
from caller.run.model import (
    Done,
    Event,
    Failed,
    Histograms,
    Latency,
    Outage,
    OutageClosed,
    RunSpec,
    Started,
    Summary,
    Tick,
    Who,
)
from caller.run.outages import OutageDetector
from caller.run.stats import (
    MAX_MICROS,
    MAX_NAMES,
    Stats,
    balance,
    chi_squared_tail,
    encoded,
    histogram,
    latency_of,
    record,
)
from common.messages import ClusterMetadata, Message
from common.middleware.draining import Lifecycle
from lab.processes import PRODUCER, free_port
from lab.processes import running as running_process
from tests.support.servers import calling, producer_app, producing, serving

EAST = {"cluster_name": "east", "zone": "us-east1-b", "pod_name": "pod-e"}
NORTH = {"cluster_name": "north", "zone": "us-north1-a", "pod_name": "pod-n"}
SOUTH = {"cluster_name": "south", "zone": "us-south1-c", "pod_name": "pod-s"}
EAST_POD = Who(cluster="east", zone="us-east1-b", pod="pod-e")
NORTH_POD = Who(cluster="north", zone="us-north1-a", pod="pod-n")


class Recording:
    """A producer that notes the id of every message, in the order of arrival."""

    def __init__(self, **settings: Any) -> None:
        self.app: ASGIApp = producer_app(**settings)
        self.ids: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted() -> AsgiMessage:
            message = await receive()
            if message.get("body"):
                self.ids.append(json.loads(message["body"])["id"])
            return message

        await self.app(scope, noted, send)

    @property
    def numbers(self) -> list[int]:
        return [int(name.removeprefix("m-")) for name in self.ids]


class Ran(NamedTuple):
    events: list[Event]

    @property
    def done(self) -> Done:
        last = self.events[-1]
        assert isinstance(last, Done)
        return last

    @property
    def summary(self) -> Summary:
        return self.done.summary

    @property
    def outages(self) -> list[Outage]:
        return [event.outage for event in self.events if isinstance(event, OutageClosed)]

    @property
    def new_pods(self) -> list[str | None]:
        return [who.pod for event in self.events if isinstance(event, Tick) for who in event.new_pods]


def run_of(
    client: ProducerClient,
    *,
    rate: float = 100,
    count: int = 20,
    names: Sequence[str | None] = (None,),
    message: Message | None = None,
    registry: CollectorRegistry | None = None,
    lifecycle: Lifecycle | None = None,
    **options: Any,
) -> Run:
    targets = [client.settings.target(name) for name in names]
    spec = RunSpec(
        targets=[target.name for target in targets],
        message=message or Message(id="m", payload="test"),
        rate=rate,
        count=count,
        **({"connection": "fresh", "timeout_seconds": 5, "max_in_flight": 500} | options),
    )
    return Run(client, spec, targets, RunMetrics(registry or CollectorRegistry()), lifecycle or Lifecycle())


async def ran(run: Run) -> Ran:
    async with running(run) as events:
        return Ran([event async for event in events])


async def ran_into(events: list[Event], run: Run) -> None:
    async with running(run) as stream:
        async for event in stream:
            events.append(event)


class Going:
    """A run in progress, and its events so far."""

    def __init__(self, run: Run, stream: AsyncIterable[Event]) -> None:
        self.run = run
        self.stream = aiter(stream)
        self.events: list[Event] = []

    def elapsed(self) -> float:
        return self.run.elapsed()

    async def until_tick(self, holds: Callable[[Tick], object]) -> Tick:
        """Read events until a tick for which this holds."""
        async for event in self.stream:
            self.events.append(event)
            if isinstance(event, Tick) and holds(event):
                return event
        raise AssertionError("the run has ended")

    async def until_outage(self) -> Outage:
        async for event in self.stream:
            self.events.append(event)
            if isinstance(event, OutageClosed):
                return event.outage
        raise AssertionError("the run has ended")

    async def stopped(self) -> Ran:
        self.run.stop("test")
        self.events += [event async for event in self.stream]
        return Ran(self.events)


@asynccontextmanager
async def going(run: Run) -> AsyncIterator[Going]:
    async with running(run) as stream:
        yield Going(run, stream)


async def after(seconds: float, act: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    act()


@asynccontextmanager
async def producing_at(port: int, **settings: Any) -> AsyncIterator[None]:
    """A producer on this port, for as long as the context is open."""
    server = uvicorn.Server(
        uvicorn.Config(producer_app(**settings), host="127.0.0.1", port=port, log_config=None, lifespan="on")
    )
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await running


async def test_every_call_is_made_once_and_in_order() -> None:
    recording = Recording()
    async with serving(recording) as url, calling(url) as client:
        result = await ran(run_of(client, count=50, rate=200))
    assert sorted(recording.numbers) == list(range(50))
    assert sum(abs(number - place) for place, number in enumerate(recording.numbers)) <= 20
    summary = result.summary
    assert (summary.offered, summary.sent, summary.dropped, summary.done, summary.in_flight) == (50, 50, 0, 50, 0)
    assert (summary.outcomes, summary.failures, summary.outages, summary.longest_outage_millis) == (
        {"ok": 50},
        0,
        [],
        0,
    )
    assert (result.done.ended, result.done.reason) == ("complete", None)


async def test_started_comes_first_and_ticks_every_500_ms_and_at_the_end_and_done_last() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=40, count=72)
        result = await ran(run)
    assert result.events[0] == Started(run=run.spec)
    ticks = [event.progress for event in result.events[1:-1] if isinstance(event, Tick)]
    assert len(ticks) == len(result.events) - 2
    late = (result.summary.scheduling_delay.max_millis or 0) / 1000
    for number, tick in enumerate(ticks[:-1], 1):
        assert 0.5 * number - 0.01 <= tick.elapsed_seconds <= 0.5 * number + 0.1 + late
        assert (tick.elapsed_seconds - late) * 40 - 4 <= tick.sent <= tick.elapsed_seconds * 40 + 1
        assert tick.sent == tick.done + tick.in_flight
        assert tick.rate == pytest.approx(tick.sent / tick.elapsed_seconds, rel=0.01)
    assert len(ticks) >= 4
    assert (ticks[-1].sent, ticks[-1].done) == (72, 72)
    assert 71 / 40 <= ticks[-1].elapsed_seconds <= result.summary.elapsed_seconds


async def test_targets_are_called_in_turn() -> None:
    first, second = Recording(**EAST), Recording(**NORTH)
    async with serving(first) as one, serving(second) as other, calling(one, other) as client:
        summary = (await ran(run_of(client, names=(one, other), count=21))).summary
    assert sorted(first.numbers) == list(range(0, 21, 2))
    assert sorted(second.numbers) == list(range(1, 21, 2))
    assert summary.distribution.clusters == {"east": 11, "north": 10}


@pytest.mark.parametrize("mode", ["fresh", "reuse"])
async def test_connections_are_fresh_or_reused_as_requested(mode: str) -> None:
    peers: set[Any] = set()
    app = producer_app()

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peers.add(tuple(scope["client"]))
        await app(scope, receive, send)

    async with serving(noting) as url, calling(url) as client:
        await ran(run_of(client, count=20, rate=40, connection=mode))
    assert len(peers) == 20 if mode == "fresh" else len(peers) < 20


async def test_a_slow_producer_does_not_slow_the_schedule() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=400)
        summary = (await ran(run_of(client, rate=100, count=60, message=message))).summary
    assert (summary.sent, summary.outcomes) == (60, {"ok": 60})
    assert 0.59 + 0.4 <= summary.elapsed_seconds < 12, "60 calls of 400 ms one after the other would take 24 s"
    [peer] = summary.peers
    assert (peer.service_time.p50_millis or 0) >= 400
    assert (peer.latency.p50_millis or 0) >= 400


async def test_overdue_calls_are_still_made_and_latency_counts_from_the_intended_start() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=100, count=80)
        # The event loop is blocked on purpose, so that the schedule is late.
        blocker = asyncio.create_task(after(0.2, lambda: time.sleep(0.4)))
        summary = (await ran(run)).summary
        await blocker
    assert (summary.offered, summary.sent, summary.dropped) == (80, 80, 0)
    assert (summary.scheduling_delay.max_millis or 0) >= 350
    [peer] = summary.peers
    assert peer.latency.count == peer.service_time.count == summary.scheduling_delay.count == 80
    assert (peer.latency.p90_millis or 0) > (peer.service_time.p90_millis or 0) + 100
    assert (peer.latency.max_millis or 0) >= 350


async def test_a_producer_that_stops_for_two_seconds_shows_in_the_latency_of_every_call_that_waited() -> None:
    """The open loop shows the backlog: all calls that were due in this time waited, not one."""
    with running_process(PRODUCER) as producer:

        async def stop_for_two_seconds() -> None:
            await asyncio.sleep(0.5)
            producer.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2)
            producer.process.send_signal(signal.SIGCONT)

        async with calling(producer.url) as client:
            run = run_of(client, rate=50, count=150, connection="reuse", timeout_seconds=60)
            result, _ = await asyncio.gather(ran(run), stop_for_two_seconds())
    assert result.summary.outcomes == {"ok": 150}
    [peer] = result.summary.peers
    assert (peer.latency.max_millis or 0) >= 1900
    assert (peer.latency.p50_millis or 0) >= 400, "100 of 150 calls waited, evenly from 0 to 2 s"


async def test_calls_over_the_in_flight_limit_are_dropped_and_counted_and_the_schedule_is_kept() -> None:
    recording = Recording()
    async with serving(recording) as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=1500)
        summary = (await ran(run_of(client, rate=100, count=50, message=message, max_in_flight=5))).summary
    assert (summary.offered, summary.sent, summary.dropped, summary.done) == (50, 5, 45, 5)
    assert sorted(recording.numbers) == [0, 1, 2, 3, 4]
    assert summary.elapsed_seconds < 7.5, "50 calls of 1.5 s, five in flight, would take 15 s"
    assert (summary.failures, summary.outages) == (0, [])


async def test_calls_are_sent_again_when_earlier_ones_have_ended() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=200)
        summary = (await ran(run_of(client, rate=50, count=50, message=message, max_in_flight=5))).summary
    assert summary.offered == summary.sent + summary.dropped == 50
    assert 5 < summary.sent <= 5 * summary.elapsed_seconds / 0.2, "at most five in flight, 0.2 s each"


async def test_dropped_calls_are_counted_while_no_call_ends_and_a_stop_does_not_wait_for_one() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=15_000)
        run = run_of(client, rate=100, count=10_000, message=message, timeout_seconds=60, max_in_flight=2)
        result, _ = await asyncio.gather(ran(run), after(1.9, lambda: run.stop("test")))
    dropped = [event.progress.dropped for event in result.events if isinstance(event, Tick)]
    assert 0 < dropped[0] < dropped[2] <= dropped[-1], "more from tick to tick"
    assert dropped[2] >= 75, "150 were due"
    summary = result.summary
    assert summary.outcomes == {"cancelled": 2}
    assert summary.offered == summary.sent + summary.dropped
    assert 150 <= summary.offered <= summary.elapsed_seconds * 100 + 1
    assert summary.elapsed_seconds < 10, "a call takes 15 s"


async def test_dropped_calls_take_next_to_no_cpu_time() -> None:
    """Two in flight, 50 ms each: at most 40 calls a second, whether 40 or 200,000 a second are due."""
    message = Message(id="m", payload="a", delay=50)
    seconds: dict[int, float] = {}
    async with producing() as url, calling(url) as client:
        for rate in (40, 40, 200_000):  # the first one warms up
            begin = time.process_time()
            summary = (await ran(run_of(client, rate=rate, count=rate, message=message, max_in_flight=2))).summary
            seconds[rate] = time.process_time() - begin
            assert summary.offered == summary.sent + summary.dropped == rate
            assert 2 < summary.sent <= 2 * summary.elapsed_seconds / 0.05
    assert seconds[200_000] < 4 * seconds[40], "waking for each call that is due would take several seconds"


async def test_outcomes_are_counted() -> None:
    async with producing(fault_seed=5) as url, calling(url) as client:
        message = Message(id="m", payload="a", response_code=503, fault_rate=0.5)
        summary = (await ran(run_of(client, count=40, message=message))).summary
    assert set(summary.outcomes) == {"ok", "http_error"}
    assert sum(summary.outcomes.values()) == 40
    assert summary.failures == summary.outcomes["http_error"]
    assert summary.distribution.clusters == {"producer-cluster": 40}, "who answers 503 has answered"


async def test_a_call_that_takes_longer_than_its_timeout_is_counted_with_its_outcome() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=5000)
        summary = (await ran(run_of(client, count=5, message=message, timeout_seconds=0.3))).summary
    assert summary.outcomes == {"read_timeout": 5}
    assert [peer.cluster for peer in summary.peers] == ["unknown"]
    assert summary.distribution.pods == {}
    assert summary.balance.verdict == "no answers"
    assert 0.3 < summary.elapsed_seconds < 5, "the reply would come after 5 s"


async def test_the_distribution_is_by_cluster_and_zone_and_pod() -> None:
    async with (
        producing(**EAST) as one,
        producing(**NORTH) as two,
        producing(**SOUTH) as three,
        calling(one, two, three) as client,
    ):
        result = await ran(run_of(client, names=(one, two, three), count=30, rate=30))
    summary = result.summary
    assert summary.distribution.clusters == {"east": 10, "north": 10, "south": 10}
    assert summary.distribution.zones == {"us-east1-b": 10, "us-north1-a": 10, "us-south1-c": 10}
    assert summary.distribution.pods == {"pod-e": 10, "pod-n": 10, "pod-s": 10}
    assert [(peer.cluster, peer.latency.count) for peer in summary.peers] == [
        ("east", 10),
        ("north", 10),
        ("south", 10),
    ]
    assert (summary.balance.verdict, summary.balance.pods, summary.balance.p_value) == ("even", 3, 1.0)
    assert sorted(map(str, result.new_pods)) == ["pod-e", "pod-n", "pod-s"], "each once"


async def test_a_pod_that_first_answers_later_is_named_then() -> None:
    port = free_port()
    async with calling(f"127.0.0.1:{port}") as client, going(run_of(client, rate=40, count=5000)) as run:
        async with producing_at(port, **EAST):
            first = await run.until_tick(lambda tick: tick.new_pods)
        async with producing_at(port, **NORTH):
            second = await run.until_tick(lambda tick: tick.new_pods)
            result = await run.stopped()
    assert (first.new_pods, second.new_pods) == ([EAST_POD], [NORTH_POD])
    assert result.new_pods == ["pod-e", "pod-n"]


async def test_a_pod_that_is_first_seen_after_the_last_tick_is_named_too() -> None:
    async with producing(**EAST) as url, calling(url) as client:
        result = await ran(run_of(client, rate=100, count=5))
    assert result.new_pods == ["pod-e"]


async def test_two_pods_of_one_name_in_two_clusters_are_two() -> None:
    async with (
        producing(**EAST) as one,
        producing(**(NORTH | {"pod_name": "pod-e"})) as two,
        calling(one, two) as client,
    ):
        result = await ran(run_of(client, names=(one, two), count=20, rate=30))
    assert len(result.new_pods) == 2
    assert result.summary.balance.pods == 2


async def test_a_producer_that_is_stopped_and_replaced_is_one_outage() -> None:
    port = free_port()
    async with calling(f"127.0.0.1:{port}") as client, AsyncExitStack() as east:
        await east.enter_async_context(producing_at(port, **EAST))
        async with going(run_of(client, rate=50, count=5000)) as run:
            await run.until_tick(lambda tick: tick.answered)
            stopping = run.elapsed()
            await east.aclose()
            stopped = run.elapsed()
            await run.until_tick(lambda tick: tick.failed)
            starting = run.elapsed()
            async with producing_at(port, **NORTH):
                started = run.elapsed()
                outage = await run.until_outage()
                result = await run.stopped()
    assert result.outages == result.summary.outages == [outage], "sent once, while the run went on"
    slack = 0.1 + max(peer.latency.max_millis or 0 for peer in result.summary.peers) / 1000
    assert stopping - slack <= outage.at_seconds <= stopped + slack
    assert starting - slack <= outage.at_seconds + outage.millis / 1000 <= started + slack
    assert outage.calls_lost == result.summary.failures == sum(outage.outcomes.values())
    assert outage.calls_lost == pytest.approx(outage.millis / 1000 * 50, abs=1), "one for each 20 ms of the outage"
    assert outage.outcomes["refused"] > outage.calls_lost / 2
    assert (outage.before, outage.after) == (EAST_POD, NORTH_POD)
    assert result.summary.longest_outage_millis == outage.millis


async def test_an_outage_that_lasts_until_the_end_has_no_answer_after_it() -> None:
    port = free_port()
    async with calling(f"127.0.0.1:{port}") as client, AsyncExitStack() as east:
        await east.enter_async_context(producing_at(port, **EAST))
        async with going(run_of(client, rate=50, count=5000)) as run:
            await run.until_tick(lambda tick: tick.answered)
            await east.aclose()
            await run.until_tick(lambda tick: tick.failed)
            stopping = run.elapsed()
            result = await run.stopped()
    [outage] = result.summary.outages
    assert result.outages == [outage]
    assert outage.after is None
    assert outage.before == EAST_POD
    assert stopping <= outage.at_seconds + outage.millis / 1000 <= result.summary.elapsed_seconds + 0.001
    assert outage.calls_lost == result.summary.failures > 0


async def test_a_run_without_an_answer_is_one_outage_from_start_to_end() -> None:
    async with calling(f"127.0.0.1:{free_port()}") as client:
        summary = (await ran(run_of(client, rate=50, count=20))).summary
    [outage] = summary.outages
    assert (outage.at_seconds, outage.calls_lost, outage.before, outage.after) == (0, 20, None, None)
    assert 19 / 50 * 1000 <= outage.millis <= summary.elapsed_seconds * 1000 + 1


async def test_outages_of_two_targets_do_not_mix() -> None:
    port = free_port()
    replaced = f"http://127.0.0.1:{port}"
    async with producing(**EAST) as stays, calling(stays, replaced) as client, AsyncExitStack() as north:
        await north.enter_async_context(producing_at(port, **NORTH))
        async with going(run_of(client, names=(replaced, stays), rate=60, count=6000)) as run:
            await run.until_tick(lambda tick: "north" in tick.answered)
            await north.aclose()
            await run.until_tick(lambda tick: tick.failed)
            async with producing_at(port, **NORTH):
                await run.until_outage()
                result = await run.stopped()
    [outage] = result.summary.outages
    assert outage.target == replaced
    assert outage.before == outage.after == NORTH_POD
    assert outage.calls_lost == result.summary.failures > 0
    assert result.summary.distribution.clusters["east"] == result.summary.sent // 2


async def test_a_target_named_twice_has_the_same_outages_as_if_named_once() -> None:
    async with calling(f"127.0.0.1:{free_port()}") as client:
        summary = (await ran(run_of(client, names=(None, None), rate=50, count=20))).summary
    [outage] = summary.outages
    assert (outage.at_seconds, outage.calls_lost) == (0, 20)


A, B = Who(cluster="a", zone=None, pod="1"), Who(cluster="b", zone=None, pod="2")
OK, REFUSED, TIMEOUT = Outcome.OK, Outcome.REFUSED, Outcome.READ_TIMEOUT
Call = tuple[int, Outcome | None, Who | None]
"""Number, outcome (None: dropped), who answered; call N was due at N/10 s."""
Found = tuple[float, float, int, Who | None, Who | None]
"""Start in s, length in ms, calls lost, before, after."""

OUTAGES: dict[str, tuple[list[Call], list[Found]]] = {
    "none": ([(0, OK, A), (1, OK, B)], []),
    "nothing at all": ([], []),
    "one": ([(0, OK, A), (1, REFUSED, None), (2, REFUSED, None), (3, OK, B)], [(0.1, 200, 2, A, B)]),
    "one call": ([(0, OK, A), (1, TIMEOUT, None), (2, OK, A)], [(0.1, 100, 1, A, A)]),
    "from the start": ([(0, REFUSED, None), (1, OK, A)], [(0, 100, 1, None, A)]),
    "until the end": ([(0, OK, A), (1, REFUSED, None)], [(0.1, 900, 1, A, None)]),
    "always": ([(0, REFUSED, None), (1, REFUSED, None)], [(0, 1000, 2, None, None)]),
    "two": (
        [(0, REFUSED, None), (1, OK, A), (2, REFUSED, None), (3, OK, B)],
        [(0, 100, 1, None, A), (0.2, 100, 1, A, B)],
    ),
    "failures that come back before older answers": (
        [(2, REFUSED, None), (3, REFUSED, None), (0, OK, A), (1, OK, A), (4, OK, B)],
        [(0.2, 200, 2, A, B)],
    ),
    "a timeout that completes after younger answers": (
        [(0, OK, A), (2, OK, B), (3, OK, B), (1, TIMEOUT, None)],
        [(0.1, 100, 1, A, B)],
    ),
    "all backwards": ([(3, OK, B), (2, REFUSED, None), (1, REFUSED, None), (0, OK, A)], [(0.1, 200, 2, A, B)]),
    "dropped between answers": ([(0, OK, A), (1, None, None), (2, OK, A)], []),
    "dropped within an outage": (
        [(0, OK, A), (1, REFUSED, None), (2, None, None), (3, REFUSED, None), (4, OK, A)],
        [(0.1, 300, 2, A, A)],
    ),
    "dropped at the start": ([(0, None, None), (1, REFUSED, None), (2, OK, A)], [(0.1, 100, 1, None, A)]),
    "dropped at the end of an outage": ([(0, REFUSED, None), (1, None, None), (2, OK, A)], [(0, 200, 1, None, A)]),
    "dropped last": ([(0, OK, A), (1, REFUSED, None), (2, None, None)], [(0.1, 900, 1, A, None)]),
    "an open call at the end, with answers after it": (
        [(0, OK, A), (1, REFUSED, None), (3, REFUSED, None), (4, OK, B)],
        [(0.1, 300, 2, A, B)],
    ),
    "an open call at the end, with failures after it": ([(0, OK, A), (2, REFUSED, None)], [(0.2, 800, 1, A, None)]),
    "nothing known but what waits": ([(5, REFUSED, None), (6, OK, A)], [(0.5, 100, 1, None, A)]),
}


@pytest.mark.parametrize(("calls", "expected"), OUTAGES.values(), ids=OUTAGES)
def test_outages_are_found_in_the_order_of_the_starts(calls: list[Call], expected: list[Found]) -> None:
    assert found_by(OutageDetector("t"), calls) == expected


@pytest.mark.parametrize(("calls", "expected"), OUTAGES.values(), ids=OUTAGES)
def test_outages_of_one_target_of_three_are_the_same(calls: list[Call], expected: list[Found]) -> None:
    detector = OutageDetector("t")
    every_third = [(2 + 3 * number, outcome, who) for number, outcome, who in calls]
    assert found_by(detector, every_third, first=2, step=3) == expected
    assert not detector.ahead
    assert not detector.pending


def found_by(detector: OutageDetector, calls: list[Call], first: int = 0, step: int = 1) -> list[Found]:
    outages: list[Outage] = []
    dropped = {number for number, outcome, _ in calls if outcome is None}
    for number in range(first, max((number for number, *_ in calls), default=-1) + 1, step):
        if number not in dropped:
            detector.started(number)
    for number, outcome, who in calls:
        if outcome is not None:
            outages += detector.completed(number, (number - first) / step / 10, outcome, who)
    outages += detector.end(1.0)
    assert detector.end(2.0) == [], "returned once"
    return [(outage.at_seconds, outage.millis, outage.calls_lost, outage.before, outage.after) for outage in outages]


def test_the_call_that_closes_an_outage_returns_it_with_the_outcomes() -> None:
    detector = OutageDetector("t")
    for number in range(3):
        detector.started(number)
    assert detector.completed(0, 0, REFUSED, None) == []
    assert detector.completed(2, 0.2, OK, B) == [], "call 1 may be an answer"
    assert detector.completed(1, 0.1, TIMEOUT, None) == [
        Outage(
            target="t",
            at_seconds=0,
            millis=200,
            calls_lost=2,
            outcomes={"refused": 1, "read_timeout": 1},
            before=None,
            after=B,
        )
    ]
    assert detector.ahead == {}


@pytest.mark.parametrize(
    ("pods", "verdict"),
    [
        ({}, "no answers"),
        ({"unknown": 100}, "no answers"),
        ({"other": 100}, "no answers"),
        ({"a": 100}, "one pod"),
        ({"a": 100, "unknown": 3}, "one pod"),
        ({"a": 4, "b": 5}, "too few calls"),
        ({"a": 9, "b": 1, "c": 1}, "too few calls"),
        ({"a": 5, "b": 5}, "even"),
        ({"a": 50, "b": 50}, "even"),
        ({"a": 50, "b": 50, "other": 1000, "unknown": 7}, "even"),
        ({"a": 58, "b": 42}, "even"),
        ({"a": 65, "b": 35}, "uneven"),
        ({"a": 100, "b": 100, "c": 100, "d": 40}, "uneven"),
        ({"a": 1000, "b": 1}, "uneven"),
    ],
)
def test_the_balance_is_judged_over_the_pods_counted_by_name(pods: dict[str, int], verdict: str) -> None:
    assert balance(pods).verdict == verdict
    assert balance(pods).pods == len(set(pods) - {"unknown", "other"})


def test_an_even_distribution_over_more_pods_than_are_counted_by_name_is_even() -> None:
    """The calls of the pods above `MAX_NAMES` are one number, and not those of one pod."""
    stats = Stats(["t"])
    for number in range(10 * (MAX_NAMES + 100)):
        stats.count(Who(cluster="east", zone="east-a", pod=f"pod-{number % (MAX_NAMES + 100)}"))
    judged = stats.summary(1).balance
    assert stats.distribution.pods["other"] == 1000
    assert (judged.verdict, judged.pods, judged.p_value) == ("even", MAX_NAMES, 1.0)


def test_chi_squared_and_the_p_value_of_a_verdict_are_as_in_a_statistics_table() -> None:
    judged = balance({"a": 60, "b": 40})
    assert judged.chi_squared == 4
    assert judged.p_value == pytest.approx(0.0455, abs=0.01)


@pytest.mark.parametrize(
    ("value", "freedom", "tail"),
    [
        (0, 1, 1),
        (0.455, 1, 0.5),
        (2.706, 1, 0.1),
        (3.841, 1, 0.05),
        (6.635, 1, 0.01),
        (10.828, 1, 0.001),
        (1.386, 2, 0.5),
        (5.991, 2, 0.05),
        (9.210, 2, 0.01),
        (11.070, 5, 0.05),
        (18.307, 10, 0.05),
        (23.209, 10, 0.01),
        (124.342, 100, 0.05),
    ],
)
def test_the_tail_of_chi_squared_is_right_within_a_hundredth(value: float, freedom: int, tail: float) -> None:
    assert chi_squared_tail(value, freedom) == pytest.approx(tail, abs=0.01)


def decoded(text: str) -> HdrHistogram:
    return HdrHistogram.decode(text)


async def test_the_histograms_hold_the_numbers_of_the_summary() -> None:
    async with producing(**EAST) as one, producing(**NORTH) as two, calling(one, two) as client:
        message = Message(id="m", payload="a", delay=20, fault_rate=0.5)
        summary = (await ran(run_of(client, names=(one, two), count=60, message=message))).summary
    assert set(summary.histograms.latency) == set(summary.histograms.service_time) == {"east", "north"}
    for peer in summary.peers:
        assert latency_of(decoded(summary.histograms.latency[peer.cluster])) == peer.latency
        assert latency_of(decoded(summary.histograms.service_time[peer.cluster])) == peer.service_time
    assert latency_of(decoded(summary.histograms.scheduling_delay)) == summary.scheduling_delay
    assert summary.scheduling_delay.count == summary.sent == 60
    assert sum(peer.latency.count for peer in summary.peers) == summary.done == 60


def test_a_histogram_keeps_three_digits_from_a_microsecond_to_its_end() -> None:
    for seconds in (0.000_001, 0.000_5, 0.0123, 1.5, 65, 600):
        found = histogram()
        record(found, seconds)
        shown = latency_of(found)
        assert shown == latency_of(decoded(encoded(found)))
        assert shown.count == 1
        assert shown.p50_millis == pytest.approx(seconds * 1000, rel=0.001)
    for seconds, millis in ((-1.0, 0.001), (0.0, 0.001), (1e6, MAX_MICROS / 1000)):
        found = histogram()
        record(found, seconds)
        assert latency_of(found).max_millis == pytest.approx(millis, rel=0.001), "what is out of range is at its edge"
    assert latency_of(histogram()) == Latency(count=0)


async def test_the_sum_of_two_summaries_is_that_of_both_runs() -> None:
    async with producing(**EAST) as one, producing(**NORTH) as two, calling(one, two) as client:
        slow = Message(id="m", payload="a", delay=30)
        runs = (
            run_of(client, names=(one,), count=40),
            run_of(client, names=(one, two), count=30, message=slow),
        )
        first, second = [result.summary for result in await asyncio.gather(*map(ran, runs))]
    both = merged([first, second])
    assert (both.offered, both.sent, both.dropped, both.done, both.failures) == (70, 70, 0, 70, 0)
    assert both.outcomes == {"ok": 70}
    assert both.distribution.clusters == {"east": 55, "north": 15}
    assert both.distribution.pods == {"pod-e": 55, "pod-n": 15}
    assert both.balance == balance(both.distribution.pods)
    assert both.rate == pytest.approx(first.rate + second.rate, abs=0.01)
    assert both.elapsed_seconds == max(first.elapsed_seconds, second.elapsed_seconds)
    for kind in ("latency", "service_time"):
        for peer in both.peers:
            added = histogram()
            for summary in (first, second):
                if text := getattr(summary.histograms, kind).get(peer.cluster):
                    added.add(decoded(text))
            assert getattr(peer, kind) == latency_of(added)
            assert latency_of(decoded(getattr(both.histograms, kind)[peer.cluster])) == latency_of(added)
    assert both.scheduling_delay.count == 70
    assert both.scheduling_delay == latency_of(decoded(both.histograms.scheduling_delay))
    assert merged([merged([first]), second]) == both


async def test_outages_and_failures_add_up_too() -> None:
    async with producing(**EAST) as url, calling(url, f"127.0.0.1:{free_port()}") as client:
        dead = client.settings.targets[1].name
        runs = (run_of(client, count=10), run_of(client, names=(dead,), count=15))
        well, ill = [result.summary for result in await asyncio.gather(*map(ran, runs))]
    both = merged([well, ill])
    assert (both.failures, both.outcomes) == (15, {"ok": 10, "refused": 15})
    assert both.outages == ill.outages
    assert both.longest_outage_millis == ill.longest_outage_millis > 0
    assert [peer.cluster for peer in both.peers] == ["east", "unknown"]


@pytest.mark.parametrize("garbage", ["", "x", "AAAA", "no base64!", "é", encoded(histogram())[:20]])
def test_the_sum_refuses_an_invalid_histogram(garbage: str) -> None:
    summary = Stats(["t"]).summary(1)
    histograms = Histograms(latency={"east": garbage}, service_time={}, scheduling_delay=encoded(histogram()))
    with pytest.raises(ValueError, match="HdrHistogram"):
        merged([summary, summary.model_copy(update={"histograms": histograms})])


def test_a_summary_without_calls_is_complete_and_adds_nothing() -> None:
    nothing = Stats(["t"]).summary(0)
    assert (nothing.sent, nothing.rate, nothing.peers, nothing.scheduling_delay) == (0, 0, [], Latency(count=0))
    assert merged([nothing, nothing]).scheduling_delay == Latency(count=0)


async def test_stop_ends_a_run_early_with_its_reason_and_its_summary() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=50, count=5000)
        stopper = asyncio.create_task(after(0.6, lambda: run.stop("enough")))
        result = await ran(run)
        await stopper
        run.stop("more than enough")
    assert (result.done.ended, result.done.reason) == ("stopped", "enough")
    assert 0.6 - 0.01 <= result.summary.elapsed_seconds < 20, "the whole run would take 100 s"
    assert 0 < result.summary.sent == result.summary.done <= result.summary.elapsed_seconds * 50 + 1
    assert run.stop_reason == "enough", "the first reason is the reason"


async def test_a_stopped_run_waits_a_second_for_the_calls_in_flight_and_reports_those_it_cut_off() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(
            client, rate=20, count=5000, message=Message(id="m", payload="a", delay=20_000), timeout_seconds=60
        )
        stopper = asyncio.create_task(after(0.4, lambda: run.stop("enough")))
        result = await ran(run)
        await stopper
    assert 1.4 - 0.01 <= result.summary.elapsed_seconds < 15, "a call would take 20 s"
    assert result.summary.outcomes == {"cancelled": result.summary.sent}
    assert result.summary.failures == result.summary.sent > 0
    assert [outage.outcomes for outage in result.summary.outages] == [result.summary.outcomes]
    ticks = [event for event in result.events if isinstance(event, Tick)]
    assert ticks[-1].failed == {"cancelled": result.summary.sent}
    assert [tick.failed for tick in ticks[:-1] if tick.failed] == []


async def test_a_stop_while_only_the_last_calls_are_in_flight_waits_no_longer_either() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, count=2, message=Message(id="m", payload="a", delay=20_000), timeout_seconds=60)
        stopper = asyncio.create_task(after(0.4, lambda: run.stop("enough")))
        result = await ran(run)
        await stopper
    assert (result.done.ended, result.done.reason) == ("stopped", "enough")
    assert result.summary.elapsed_seconds < 15, "a call would take 20 s"


async def test_a_caller_that_stops_ends_its_runs() -> None:
    lifecycle = Lifecycle()
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=50, count=5000, lifecycle=lifecycle)
        stopper = asyncio.create_task(after(0.3, lambda: setattr(lifecycle, "draining", True)))
        result = await ran(run)
        await stopper
    assert (result.done.ended, result.done.reason) == ("stopped", "the caller is stopping")
    assert result.summary.elapsed_seconds < 20, "the whole run would take 100 s"


async def test_leaving_a_run_cancels_its_calls_immediately_and_leaves_no_task() -> None:
    recording = Recording()
    registry = CollectorRegistry()
    async with serving(recording) as url, calling(url) as client:
        await client.call(Message(payload="warm"), client.settings.producer_url, connection="fresh")
        await asyncio.sleep(0.1)
        before = len(asyncio.all_tasks())
        message = Message(id="m", payload="a", delay=20_000)
        run = run_of(client, rate=100, count=5000, message=message, registry=registry)
        async with running(run):
            await asyncio.sleep(0.3)
            assert registry.get_sample_value("caller_runs_active") == 1
            leaving = time.perf_counter()
        assert time.perf_counter() - leaving < 10, "a call would take 20 s"
        assert registry.get_sample_value("caller_runs_active") == 0
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.05)
        arrived = len(recording.ids)
        await asyncio.sleep(0.3)
        assert len(recording.ids) == arrived


async def test_a_cancelled_run_is_no_longer_active() -> None:
    registry = CollectorRegistry()
    async with producing() as url, calling(url) as client:
        task = asyncio.create_task(ran(run_of(client, count=5000, registry=registry)))
        await until_active(registry, 1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert registry.get_sample_value("caller_runs_active") == 0


async def until_active(registry: CollectorRegistry, runs: int) -> None:
    async with asyncio.timeout(10):
        while registry.get_sample_value("caller_runs_active") != runs:
            await asyncio.sleep(0.01)


async def test_metrics_count_the_runs_in_progress_and_the_scheduling_delay_of_every_call() -> None:
    registry = CollectorRegistry()
    async with producing() as url, calling(url) as client:
        runs = [run_of(client, count=30, rate=30, registry=registry)]
        runs.append(run_of(client, count=20, rate=20))
        runs[1].metrics = runs[0].metrics
        both = asyncio.gather(*map(ran, runs))
        await until_active(registry, 2)
        await both
    assert registry.get_sample_value("caller_runs_active") == 0
    assert registry.get_sample_value("caller_run_scheduling_delay_seconds_count") == 50
    assert (registry.get_sample_value("caller_run_scheduling_delay_seconds_sum") or 0) > 0


async def test_an_internal_error_is_an_event_and_is_raised() -> None:
    events: list[Event] = []
    registry = CollectorRegistry()
    async with calling(f"127.0.0.1:{free_port()}") as client:
        with pytest.raises(ExceptionGroup):
            await ran_into(events, run_of(client, rate=0, registry=registry))
    assert isinstance(events[-1], Failed)
    assert "ZeroDivisionError" in events[-1].reason
    assert registry.get_sample_value("caller_runs_active") == 0


async def test_a_reader_that_does_not_read_does_not_slow_the_run() -> None:
    """Half of the calls fail, so there are many outages; the numbers are those of the run all the same."""
    async with producing(fault_seed=1) as url, calling(url) as client:
        message = Message(id="m", payload="a", response_code=503, fault_rate=0.5)
        run = run_of(client, rate=200, count=400, message=message)
        async with running(run) as stream:
            async with asyncio.timeout(60):
                while run.stats.done < 400:
                    await asyncio.sleep(0.1)
            result = Ran([event async for event in stream])
    assert result.summary.done == 400
    assert 0 < len(result.outages) < len(result.summary.outages), "those that it missed are in the summary"
    assert all(outage in result.summary.outages for outage in result.outages)


async def test_the_rate_is_that_of_the_starts_however_long_the_last_call_takes() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=1500)
        summary = (await ran(run_of(client, rate=50, count=25, message=message))).summary
    assert 1.5 * summary.sent / summary.elapsed_seconds < summary.rate <= 50, "with the wait in it, it would be 13"


async def test_memory_of_a_run_does_not_grow_with_the_calls() -> None:
    """What is kept is by pod, cluster and call in flight."""
    stats = Stats(["t"])
    async with producing(**EAST) as url, calling(url) as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    for number in range(5000):
        stats.start("t", number, 0.001)
        stats.end("t", number, number / 1000, 0.01, hop)
    detector = stats.detectors["t"]
    assert len(detector.ahead) == len(detector.pending) == len(stats.outages) == 0
    assert (len(stats.latency), len(stats.distribution.pods), len(stats.new_pods)) == (1, 1, 1)
    assert stats.summary(5).peers[0].latency.count == 5000


async def test_a_tick_has_the_latency_of_the_calls_since_the_last_one() -> None:
    """A producer that turns slow half way is slow immediately, not when it has been slow for long."""
    stats = Stats(["t"])
    async with producing() as url, calling(url) as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    for number, latency in enumerate((0.01,) * 90 + (0.5,) * 10):
        if number == 90:
            assert stats.take_recent().p50_millis == pytest.approx(10, rel=0.01)
        stats.start("t", number, 0)
        stats.end("t", number, number / 100, latency, hop)
    assert stats.progress(1).peers[0].latency.p50_millis == pytest.approx(10, rel=0.01)
    recent = stats.take_recent()
    assert recent.count == 10
    assert recent.p50_millis == pytest.approx(500, rel=0.01)
    assert stats.take_recent().count == 0


def test_names_beyond_the_limit_are_counted_as_other() -> None:
    stats = Stats(["t"])
    for number in range(MAX_NAMES + 7):
        stats.count(Who(cluster="east", zone="east-a", pod=f"pod-{number}"))
    assert len(stats.distribution.pods) == MAX_NAMES + 1
    assert stats.distribution.pods["other"] == 7
    assert stats.distribution.clusters == {"east": MAX_NAMES + 7}
    assert len(stats.take_new_pods()) == len(stats.cluster_of) == MAX_NAMES


async def test_the_33rd_cluster_of_a_run_is_counted_as_other() -> None:
    stats = Stats(["t"])
    async with producing() as url, calling(url) as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    for number in range(35):
        there = ClusterMetadata(cluster_name=f"cluster-{number:02}")
        stats.start("t", number, 0)
        stats.end("t", number, number / 100, 0.01, hop.model_copy(update={"producer_metadata": there}))
    counts = {peer.cluster: peer.latency.count for peer in stats.progress(1).peers}
    assert counts == {f"cluster-{number:02}": 1 for number in range(32)} | {"other": 3}
