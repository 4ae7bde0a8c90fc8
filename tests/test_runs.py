"""The engine of runs, in process, against producers behind real sockets."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import pytest
import uvicorn
from hdrh.histogram import HdrHistogram
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from caller.hop.client import ProducerClient
from caller.hop.metrics import RunMetrics
from caller.hop.outcome import Outcome
from caller.run.engine import (
    LONGEST_MICROS,
    MOST_NAMES,
    Done,
    Event,
    Failed,
    Gap,
    GapClosed,
    GapWatch,
    Histograms,
    Latency,
    Run,
    RunSpec,
    Started,
    Stats,
    Summary,
    Tick,
    Who,
    chi_squared_tail,
    encoded,
    evenness,
    histogram,
    latency_of,
    record,
    running,
)
from caller.run.merge import merged
from common.lifecycle import Lifecycle
from common.messages import Message
from lab.processes import PRODUCER, free_port
from lab.processes import running as running_process
from tests.support.servers import calling, producer_app, producing, serving

EAST = {"cluster_name": "east", "zone": "us-east1-b", "pod_name": "pod-e"}
NORTH = {"cluster_name": "north", "zone": "us-north1-a", "pod_name": "pod-n"}
SOUTH = {"cluster_name": "south", "zone": "us-south1-c", "pod_name": "pod-s"}


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
    def gaps(self) -> list[Gap]:
        return [event.gap for event in self.events if isinstance(event, GapClosed)]

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
    assert (summary.offered, summary.sent, summary.left_out, summary.done, summary.in_flight) == (50, 50, 0, 50, 0)
    assert (summary.outcomes, summary.failures, summary.gaps, summary.longest_gap_millis) == ({"ok": 50}, 0, [], 0)
    assert (result.done.ended, result.done.reason) == ("complete", None)


async def test_started_comes_first_and_ticks_every_500_ms_and_at_the_end_and_done_last() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=40, count=72)
        result = await ran(run)
    assert result.events[0] == Started(run=run.spec)
    assert [type(event) for event in result.events[1:]] == [Tick, Tick, Tick, Tick, Done]
    ticks = [event.progress for event in result.events if isinstance(event, Tick)]
    assert [tick.elapsed_seconds for tick in ticks] == pytest.approx([0.5, 1, 1.5, 1.8], abs=0.15)
    for tick in ticks:
        assert tick.sent == pytest.approx(tick.elapsed_seconds * 40, abs=4)
        assert tick.rate == pytest.approx(40, abs=6)
        assert tick.sent == tick.done + tick.in_flight


async def test_targets_are_called_in_turn() -> None:
    first, second = Recording(**EAST), Recording(**NORTH)
    async with serving(first) as one, serving(second) as other, calling(one, other) as client:
        summary = (await ran(run_of(client, names=(one, other), count=21))).summary
    assert sorted(first.numbers) == list(range(0, 21, 2))
    assert sorted(second.numbers) == list(range(1, 21, 2))
    assert summary.spread.clusters == {"east": 11, "north": 10}


@pytest.mark.parametrize("mode", ["fresh", "reuse"])
async def test_connections_are_fresh_or_kept_as_asked(mode: str) -> None:
    peers: set[Any] = set()
    app = producer_app()

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peers.add(tuple(scope["client"]))
        await app(scope, receive, send)

    async with serving(noting) as url, calling(url) as client:
        await ran(run_of(client, count=20, rate=40, connection=mode))
    assert len(peers) == 20 if mode == "fresh" else len(peers) < 10


async def test_a_slow_producer_does_not_slow_the_schedule() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=400)
        summary = (await ran(run_of(client, rate=100, count=60, message=message))).summary
    assert (summary.sent, summary.outcomes) == (60, {"ok": 60})
    assert 0.59 + 0.4 <= summary.elapsed_seconds < 2, "60 calls of 400 ms one after the other would take 24 s"
    [peer] = summary.peers
    assert (peer.service_time.p50_millis or 0) >= 400
    assert (peer.latency.p50_millis or 0) >= 400


async def test_an_overdue_schedule_is_made_up_for_and_latency_counts_from_the_intended_start() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=100, count=80)
        # On purpose: the schedule is late because the event loop is held up.
        blocker = asyncio.create_task(after(0.2, lambda: time.sleep(0.4)))
        summary = (await ran(run)).summary
        await blocker
    assert (summary.offered, summary.sent, summary.left_out) == (80, 80, 0)
    assert 350 <= (summary.lateness.max_millis or 0) < 900
    [peer] = summary.peers
    assert peer.latency.count == peer.service_time.count == summary.lateness.count == 80
    assert (peer.latency.p90_millis or 0) > (peer.service_time.p90_millis or 0) + 100
    assert (peer.latency.max_millis or 0) >= 350


async def test_a_producer_that_stands_still_shows_in_the_latency_as_long_as_it_stood() -> None:
    """The open loop shows the backlog: all calls that were due meanwhile waited, not one."""
    with running_process(PRODUCER) as producer:
        async with calling(producer.url) as client:
            run = run_of(client, rate=50, count=150, connection="reuse", timeout_seconds=20)
            stop = asyncio.create_task(after(0.5, lambda: producer.process.send_signal(signal.SIGSTOP)))
            go_on = asyncio.create_task(after(2.5, lambda: producer.process.send_signal(signal.SIGCONT)))
            summary = (await ran(run)).summary
            await asyncio.gather(stop, go_on)
    assert summary.outcomes == {"ok": 150}
    [peer] = summary.peers
    assert (peer.latency.max_millis or 0) >= 1900
    assert (peer.latency.p50_millis or 0) >= 400, "100 of 150 calls waited, evenly from 0 to 2 s"


async def test_calls_over_the_bound_in_flight_are_left_out_and_counted_and_the_schedule_is_kept() -> None:
    recording = Recording()
    async with serving(recording) as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=600)
        summary = (await ran(run_of(client, rate=100, count=50, message=message, max_in_flight=5))).summary
    assert (summary.offered, summary.sent, summary.left_out, summary.done) == (50, 5, 45, 5)
    assert sorted(recording.numbers) == [0, 1, 2, 3, 4]
    assert summary.elapsed_seconds < 1.4
    assert (summary.failures, summary.gaps) == (0, [])


async def test_a_bound_that_is_free_again_is_used_again() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=200)
        summary = (await ran(run_of(client, rate=50, count=50, message=message, max_in_flight=5))).summary
    assert summary.offered == summary.sent + summary.left_out == 50
    assert 10 < summary.sent < 35, "five at once, 0.2 s each, for one second"


async def test_calls_that_are_left_out_are_counted_while_no_call_ends_and_a_stop_does_not_wait_for_one() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=100, count=1000, message=Message(id="m", payload="a", delay=9000), max_in_flight=2)
        result, _ = await asyncio.gather(ran(run), after(1.9, lambda: run.stop("test")))
    left_out = [event.progress.left_out for event in result.events if isinstance(event, Tick)]
    assert left_out[0] < left_out[1] < left_out[2], "more at every tick"
    assert left_out[2] >= 100, "at most one tick late"
    assert result.summary.outcomes == {"cancelled": 2}
    assert result.summary.offered == result.summary.sent + result.summary.left_out
    assert 180 <= result.summary.offered <= 250
    assert result.summary.elapsed_seconds < 3.9


async def test_calls_that_are_left_out_cost_those_that_are_made_next_to_nothing() -> None:
    """Two at once, 50 ms each: 40 calls a second, with 200,000 a second offered."""
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=50)
        begin = time.process_time()
        summary = (await ran(run_of(client, rate=200_000, count=200_000, message=message, max_in_flight=2))).summary
        cpu = time.process_time() - begin
    assert summary.offered == summary.sent + summary.left_out == 200_000
    assert 10 < summary.sent <= 50
    assert cpu < 0.5, "to wake for each call that is due takes several seconds"


async def test_outcomes_are_counted() -> None:
    async with producing(fault_seed=5) as url, calling(url) as client:
        message = Message(id="m", payload="a", response_code=503, fault_rate=0.5)
        summary = (await ran(run_of(client, count=40, message=message))).summary
    assert set(summary.outcomes) == {"ok", "http_error"}
    assert sum(summary.outcomes.values()) == 40
    assert summary.failures == summary.outcomes["http_error"]
    assert summary.spread.clusters == {"producer-cluster": 40}, "who answers 503 has answered"


async def test_a_call_that_takes_longer_than_its_time_out_is_one_outcome_more() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=5000)
        summary = (await ran(run_of(client, count=5, message=message, timeout_seconds=0.3))).summary
    assert summary.outcomes == {"read_timeout": 5}
    assert [peer.cluster for peer in summary.peers] == ["unknown"]
    assert summary.spread.pods == {}
    assert summary.evenness.verdict == "nobody answered"
    assert 0.3 < summary.elapsed_seconds < 1


async def test_the_spread_is_by_cluster_and_zone_and_pod() -> None:
    async with (
        producing(**EAST) as one,
        producing(**NORTH) as two,
        producing(**SOUTH) as three,
        calling(one, two, three) as client,
    ):
        result = await ran(run_of(client, names=(one, two, three), count=30, rate=30))
    summary = result.summary
    assert summary.spread.clusters == {"east": 10, "north": 10, "south": 10}
    assert summary.spread.zones == {"us-east1-b": 10, "us-north1-a": 10, "us-south1-c": 10}
    assert summary.spread.pods == {"pod-e": 10, "pod-n": 10, "pod-s": 10}
    assert [(peer.cluster, peer.latency.count) for peer in summary.peers] == [
        ("east", 10),
        ("north", 10),
        ("south", 10),
    ]
    assert (summary.evenness.verdict, summary.evenness.pods, summary.evenness.p_value) == ("even", 3, 1.0)
    assert sorted(map(str, result.new_pods)) == ["pod-e", "pod-n", "pod-s"], "each once"


async def test_a_pod_that_first_answers_later_is_named_then() -> None:
    port = free_port()
    async with calling(f"127.0.0.1:{port}") as client:
        run = run_of(client, rate=40, count=100)
        going = asyncio.create_task(ran(run))
        async with producing_at(port, **EAST):
            await asyncio.sleep(0.7)
        async with producing_at(port, **NORTH):
            result = await going
    assert result.new_pods == ["pod-e", "pod-n"]
    first = next(event for event in result.events if isinstance(event, Tick) and event.new_pods)
    assert [who.model_dump() for who in first.new_pods] == [{"cluster": "east", "zone": "us-east1-b", "pod": "pod-e"}]


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
    assert result.summary.evenness.pods == 2


async def test_a_producer_that_is_gone_for_a_while_is_one_gap() -> None:
    port = free_port()
    async with calling(f"127.0.0.1:{port}") as client:
        run = run_of(client, rate=50, count=130)
        async with producing_at(port, **EAST):
            going = asyncio.create_task(ran(run))
            await asyncio.sleep(0.6)
        stopped = time.perf_counter()
        await asyncio.sleep(0.7)
        async with producing_at(port, **NORTH):
            back = time.perf_counter()
            result = await going
    [gap] = result.summary.gaps
    assert result.gaps == [gap], "told once, while the run went on"
    assert any(isinstance(event, Tick) for event in result.events[result.events.index(GapClosed(gap=gap)) :])
    assert gap.millis / 1000 == pytest.approx(back - stopped, abs=0.3)
    assert gap.at_seconds == pytest.approx(stopped - run.started, abs=0.3)
    assert gap.calls_lost == result.summary.failures == sum(gap.outcomes.values())
    assert gap.calls_lost == pytest.approx(gap.millis / 1000 * 50, abs=1), "one each 20 ms of the gap"
    assert gap.outcomes["refused"] >= gap.calls_lost - 3
    assert (gap.before, gap.after) == (
        Who(cluster="east", zone="us-east1-b", pod="pod-e"),
        Who(cluster="north", zone="us-north1-a", pod="pod-n"),
    )
    assert result.summary.longest_gap_millis == gap.millis


async def test_a_gap_that_lasts_until_the_end_has_nobody_after_it() -> None:
    port = free_port()
    async with calling(f"127.0.0.1:{port}") as client:
        run = run_of(client, rate=50, count=50)
        async with producing_at(port, **EAST):
            going = asyncio.create_task(ran(run))
            await asyncio.sleep(0.5)
        result = await going
    [gap] = result.summary.gaps
    assert result.gaps == [gap]
    assert gap.after is None
    assert gap.before is not None
    assert gap.before.pod == "pod-e"
    assert gap.at_seconds + gap.millis / 1000 == pytest.approx(result.summary.elapsed_seconds, abs=0.05)
    assert gap.calls_lost == result.summary.failures > 10


async def test_a_run_that_nobody_answers_is_one_gap_from_start_to_end() -> None:
    async with calling(f"127.0.0.1:{free_port()}") as client:
        summary = (await ran(run_of(client, rate=50, count=20))).summary
    [gap] = summary.gaps
    assert (gap.at_seconds, gap.calls_lost, gap.before, gap.after) == (0, 20, None, None)
    assert gap.millis == pytest.approx(summary.elapsed_seconds * 1000, abs=20)


async def test_gaps_of_two_targets_do_not_mix() -> None:
    port = free_port()
    gone = f"http://127.0.0.1:{port}"
    async with producing(**EAST) as stays, calling(stays, gone) as client:
        run = run_of(client, names=(gone, stays), rate=60, count=120)
        async with producing_at(port, **NORTH):
            going = asyncio.create_task(ran(run))
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.5)
        async with producing_at(port, **NORTH):
            result = await going
    [gap] = result.summary.gaps
    assert gap.target == gone
    assert gap.before == gap.after == Who(cluster="north", zone="us-north1-a", pod="pod-n")
    assert gap.calls_lost == result.summary.failures < 60
    assert result.summary.spread.clusters["east"] == 60


async def test_one_target_named_twice_has_its_gaps_as_if_it_were_named_once() -> None:
    async with calling(f"127.0.0.1:{free_port()}") as client:
        summary = (await ran(run_of(client, names=(None, None), rate=50, count=20))).summary
    [gap] = summary.gaps
    assert (gap.at_seconds, gap.calls_lost) == (0, 20)


A, B = Who(cluster="a", zone=None, pod="1"), Who(cluster="b", zone=None, pod="2")
OK, REFUSED, TIMEOUT = Outcome.OK, Outcome.REFUSED, Outcome.READ_TIMEOUT
Call = tuple[int, Outcome | None, Who | None]
"""Number, outcome (None: left out), who answered; call N was due at N/10 s."""
Found = tuple[float, float, int, Who | None, Who | None]
"""Start in s, length in ms, calls lost, before, after."""

GAPS: dict[str, tuple[list[Call], list[Found]]] = {
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
    "a time-out that comes back after younger answers": (
        [(0, OK, A), (2, OK, B), (3, OK, B), (1, TIMEOUT, None)],
        [(0.1, 100, 1, A, B)],
    ),
    "all backwards": ([(3, OK, B), (2, REFUSED, None), (1, REFUSED, None), (0, OK, A)], [(0.1, 200, 2, A, B)]),
    "left out between answers": ([(0, OK, A), (1, None, None), (2, OK, A)], []),
    "left out within a gap": (
        [(0, OK, A), (1, REFUSED, None), (2, None, None), (3, REFUSED, None), (4, OK, A)],
        [(0.1, 300, 2, A, A)],
    ),
    "left out at the start": ([(0, None, None), (1, REFUSED, None), (2, OK, A)], [(0.1, 100, 1, None, A)]),
    "left out at the end of a gap": ([(0, REFUSED, None), (1, None, None), (2, OK, A)], [(0, 200, 1, None, A)]),
    "left out last": ([(0, OK, A), (1, REFUSED, None), (2, None, None)], [(0.1, 900, 1, A, None)]),
    "an open call at the end, with answers after it": (
        [(0, OK, A), (1, REFUSED, None), (3, REFUSED, None), (4, OK, B)],
        [(0.1, 300, 2, A, B)],
    ),
    "an open call at the end, with failures after it": ([(0, OK, A), (2, REFUSED, None)], [(0.2, 800, 1, A, None)]),
    "nothing known but what waits": ([(5, REFUSED, None), (6, OK, A)], [(0.5, 100, 1, None, A)]),
}


@pytest.mark.parametrize(("calls", "expected"), GAPS.values(), ids=GAPS)
def test_gaps_are_found_in_the_order_of_the_starts(calls: list[Call], expected: list[Found]) -> None:
    assert found_by(GapWatch("t"), calls) == expected


@pytest.mark.parametrize(("calls", "expected"), GAPS.values(), ids=GAPS)
def test_gaps_of_one_target_of_three_are_found_the_same(calls: list[Call], expected: list[Found]) -> None:
    watch = GapWatch("t")
    assert (
        found_by(watch, [(2 + 3 * number, outcome, who) for number, outcome, who in calls], first=2, step=3) == expected
    )
    assert not watch.back
    assert not watch.expected


def found_by(watch: GapWatch, calls: list[Call], first: int = 0, step: int = 1) -> list[Found]:
    gaps: list[Gap] = []
    left_out = {number for number, outcome, _ in calls if outcome is None}
    for number in range(first, max((number for number, *_ in calls), default=-1) + 1, step):
        if number not in left_out:
            watch.expect(number)
    for number, outcome, who in calls:
        if outcome is not None:
            gaps += watch.saw(number, (number - first) / step / 10, outcome, who)
    gaps += watch.end(1.0)
    assert watch.end(2.0) == [], "told once"
    return [(gap.at_seconds, gap.millis, gap.calls_lost, gap.before, gap.after) for gap in gaps]


def test_a_gap_is_told_by_the_call_that_closes_it_and_names_the_outcomes() -> None:
    watch = GapWatch("t")
    for number in range(3):
        watch.expect(number)
    assert watch.saw(0, 0, REFUSED, None) == []
    assert watch.saw(2, 0.2, OK, B) == [], "call 1 may be an answer"
    assert watch.saw(1, 0.1, TIMEOUT, None) == [
        Gap(
            target="t",
            at_seconds=0,
            millis=200,
            calls_lost=2,
            outcomes={"refused": 1, "read_timeout": 1},
            before=None,
            after=B,
        )
    ]
    assert watch.back == {}


@pytest.mark.parametrize(
    ("pods", "verdict"),
    [
        ({}, "nobody answered"),
        ({"unknown": 100}, "nobody answered"),
        ({"a": 100}, "one pod"),
        ({"a": 100, "unknown": 3}, "one pod"),
        ({"a": 4, "b": 5}, "too few calls"),
        ({"a": 9, "b": 1, "c": 1}, "too few calls"),
        ({"a": 5, "b": 5}, "even"),
        ({"a": 50, "b": 50}, "even"),
        ({"a": 58, "b": 42}, "even"),
        ({"a": 65, "b": 35}, "uneven"),
        ({"a": 100, "b": 100, "c": 100, "d": 40}, "uneven"),
        ({"a": 1000, "b": 1}, "uneven"),
    ],
)
def test_a_spread_is_judged(pods: dict[str, int], verdict: str) -> None:
    assert evenness(pods).verdict == verdict
    assert evenness(pods).pods == len(set(pods) - {"unknown"})


def test_the_numbers_behind_a_verdict_are_those_of_the_book() -> None:
    judged = evenness({"a": 60, "b": 40})
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


async def test_the_histograms_hold_the_numbers_that_are_shown() -> None:
    async with producing(**EAST) as one, producing(**NORTH) as two, calling(one, two) as client:
        message = Message(id="m", payload="a", delay=20, fault_rate=0.5)
        summary = (await ran(run_of(client, names=(one, two), count=60, message=message))).summary
    assert set(summary.histograms.latency) == set(summary.histograms.service_time) == {"east", "north"}
    for peer in summary.peers:
        assert latency_of(decoded(summary.histograms.latency[peer.cluster])) == peer.latency
        assert latency_of(decoded(summary.histograms.service_time[peer.cluster])) == peer.service_time
    assert latency_of(decoded(summary.histograms.lateness)) == summary.lateness
    assert summary.lateness.count == summary.sent == 60
    assert sum(peer.latency.count for peer in summary.peers) == summary.done == 60


def test_a_histogram_keeps_three_digits_from_a_microsecond_to_its_end() -> None:
    for seconds in (0.000_001, 0.000_5, 0.0123, 1.5, 65, 600):
        found = histogram()
        record(found, seconds)
        shown = latency_of(found)
        assert shown == latency_of(decoded(encoded(found)))
        assert shown.count == 1
        assert shown.p50_millis == pytest.approx(seconds * 1000, rel=0.001)
    for seconds, millis in ((-1.0, 0.001), (0.0, 0.001), (1e6, LONGEST_MICROS / 1000)):
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
    assert (both.offered, both.sent, both.left_out, both.done, both.failures) == (70, 70, 0, 70, 0)
    assert both.outcomes == {"ok": 70}
    assert both.spread.clusters == {"east": 55, "north": 15}
    assert both.spread.pods == {"pod-e": 55, "pod-n": 15}
    assert both.evenness == evenness(both.spread.pods)
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
    assert both.lateness.count == 70
    assert both.lateness == latency_of(decoded(both.histograms.lateness))
    assert merged([merged([first]), second]) == both


async def test_gaps_and_failures_add_up_too() -> None:
    async with producing(**EAST) as url, calling(url, f"127.0.0.1:{free_port()}") as client:
        dead = client.settings.targets[1].name
        runs = (run_of(client, count=10), run_of(client, names=(dead,), count=15))
        well, ill = [result.summary for result in await asyncio.gather(*map(ran, runs))]
    both = merged([well, ill])
    assert (both.failures, both.outcomes) == (15, {"ok": 10, "refused": 15})
    assert both.gaps == ill.gaps
    assert both.longest_gap_millis == ill.longest_gap_millis > 0
    assert [peer.cluster for peer in both.peers] == ["east", "unknown"]


@pytest.mark.parametrize("garbage", ["", "x", "AAAA", "no base64!", "é", encoded(histogram())[:20]])
def test_the_sum_refuses_what_is_no_histogram(garbage: str) -> None:
    summary = Stats(["t"]).summary(1)
    histograms = Histograms(latency={"east": garbage}, service_time={}, lateness=encoded(histogram()))
    with pytest.raises(ValueError, match="HdrHistogram"):
        merged([summary, summary.model_copy(update={"histograms": histograms})])


def test_a_summary_of_nothing_is_complete_and_adds_nothing() -> None:
    nothing = Stats(["t"]).summary(0)
    assert (nothing.sent, nothing.rate, nothing.peers, nothing.lateness) == (0, 0, [], Latency(count=0))
    assert merged([nothing, nothing]).lateness == Latency(count=0)


async def test_stop_ends_a_run_early_with_its_reason_and_its_summary() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=50, count=5000)
        stopper = asyncio.create_task(after(0.6, lambda: run.stop("enough")))
        result = await ran(run)
        await stopper
        run.stop("more than enough")
    assert (result.done.ended, result.done.reason) == ("stopped", "enough")
    assert result.summary.elapsed_seconds == pytest.approx(0.6, abs=0.25)
    assert result.summary.sent == result.summary.done == pytest.approx(30, abs=12)
    assert run.stop_reason == "enough", "the first reason is the reason"


async def test_a_stopped_run_waits_a_second_for_open_calls_and_no_longer() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(
            client, rate=20, count=5000, message=Message(id="m", payload="a", delay=20_000), timeout_seconds=60
        )
        stopper = asyncio.create_task(after(0.4, lambda: run.stop("enough")))
        result = await ran(run)
        await stopper
    assert 1.3 <= result.summary.elapsed_seconds < 2.2
    assert result.summary.outcomes == {"cancelled": result.summary.sent}
    assert result.summary.failures == result.summary.sent > 4
    assert [gap.outcomes for gap in result.summary.gaps] == [result.summary.outcomes]


async def test_a_stop_while_only_the_last_calls_are_open_waits_no_longer_either() -> None:
    async with producing() as url, calling(url) as client:
        run = run_of(client, count=2, message=Message(id="m", payload="a", delay=3000), timeout_seconds=60)
        stopper = asyncio.create_task(after(0.4, lambda: run.stop("enough")))
        result = await ran(run)
        await stopper
    assert (result.done.ended, result.done.reason) == ("stopped", "enough")
    assert result.summary.elapsed_seconds < 2.2


async def test_a_caller_that_stops_ends_its_runs() -> None:
    lifecycle = Lifecycle()
    async with producing() as url, calling(url) as client:
        run = run_of(client, rate=50, count=5000, lifecycle=lifecycle)
        stopper = asyncio.create_task(after(0.3, lambda: setattr(lifecycle, "draining", True)))
        result = await ran(run)
        await stopper
    assert (result.done.ended, result.done.reason) == ("stopped", "the caller is stopping")
    assert result.summary.elapsed_seconds < 1.5


async def test_leaving_a_run_cancels_its_calls_at_once_and_leaves_no_task() -> None:
    recording = Recording()
    registry = CollectorRegistry()
    async with serving(recording) as url, calling(url) as client:
        await client.call(Message(payload="warm"), client.settings.producer_url, connection="fresh")
        await asyncio.sleep(0.1)
        before = len(asyncio.all_tasks())
        run = run_of(client, rate=100, count=5000, message=Message(id="m", payload="a", delay=3000), registry=registry)
        started = time.perf_counter()
        async with running(run):
            await asyncio.sleep(0.3)
            assert registry.get_sample_value("caller_runs_active") == 1
        assert time.perf_counter() - started < 0.6
        assert registry.get_sample_value("caller_runs_active") == 0
        await asyncio.sleep(0.3)
        arrived = len(recording.ids)
        assert len(asyncio.all_tasks()) <= before
        await asyncio.sleep(0.3)
        assert len(recording.ids) == arrived


async def test_a_cancelled_run_is_no_longer_active() -> None:
    registry = CollectorRegistry()
    async with producing() as url, calling(url) as client:
        task = asyncio.create_task(ran(run_of(client, count=5000, registry=registry)))
        await asyncio.sleep(0.2)
        assert registry.get_sample_value("caller_runs_active") == 1
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert registry.get_sample_value("caller_runs_active") == 0


async def test_metrics_count_runs_while_they_go_on_and_the_lateness_of_every_call() -> None:
    registry = CollectorRegistry()
    async with producing() as url, calling(url) as client:
        runs = [run_of(client, count=30, registry=registry)]
        runs.append(run_of(client, count=20))
        runs[1].metrics = runs[0].metrics
        both = asyncio.gather(*map(ran, runs))
        await asyncio.sleep(0.1)
        assert registry.get_sample_value("caller_runs_active") == 2
        await both
    assert registry.get_sample_value("caller_runs_active") == 0
    assert registry.get_sample_value("caller_run_lateness_seconds_count") == 50
    assert (registry.get_sample_value("caller_run_lateness_seconds_sum") or 0) > 0


async def test_a_bug_of_the_caller_is_an_event_and_an_error() -> None:
    events: list[Event] = []
    registry = CollectorRegistry()
    async with calling(f"127.0.0.1:{free_port()}") as client:
        with pytest.raises(ExceptionGroup):
            await ran_into(events, run_of(client, rate=0, registry=registry))
    assert isinstance(events[-1], Failed)
    assert "ZeroDivisionError" in events[-1].reason
    assert registry.get_sample_value("caller_runs_active") == 0


async def test_a_reader_that_does_not_read_does_not_slow_the_run() -> None:
    """Half of the calls fail, so that there are many gaps to tell; the numbers are those of the run all the same."""
    async with producing(fault_seed=1) as url, calling(url) as client:
        message = Message(id="m", payload="a", response_code=503, fault_rate=0.5)
        run = run_of(client, rate=200, count=400, message=message)
        async with running(run) as stream:
            await asyncio.sleep(3.5)
            result = Ran([event async for event in stream])
    assert result.summary.done == 400
    assert result.summary.elapsed_seconds < 2.5
    assert 0 < len(result.gaps) < len(result.summary.gaps), "those that it missed are in the summary"
    assert all(gap in result.summary.gaps for gap in result.gaps)


async def test_the_rate_is_that_of_the_starts_however_long_the_last_call_takes() -> None:
    async with producing() as url, calling(url) as client:
        message = Message(id="m", payload="a", delay=1500)
        summary = (await ran(run_of(client, rate=50, count=25, message=message))).summary
    assert summary.rate == pytest.approx(50, rel=0.4), "with the wait in it, it would be 13"


async def test_memory_of_a_run_does_not_grow_with_the_calls() -> None:
    """What is kept is by pod, cluster and call in flight."""
    stats = Stats(["t"])
    async with producing(**EAST) as url, calling(url) as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    for number in range(5000):
        stats.start("t", number, 0.001)
        stats.end("t", number, number / 1000, 0.01, hop)
    assert len(stats.watches["t"].back) == len(stats.watches["t"].expected) == len(stats.gaps) == 0
    assert (len(stats.latency), len(stats.spread.pods), len(stats.new_pods)) == (1, 1, 1)
    assert stats.summary(5).peers[0].latency.count == 5000


async def test_a_tick_tells_the_latency_of_the_calls_since_the_last_one() -> None:
    """A producer that turns slow half way is slow at once, not when it has been slow for long."""
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


def test_names_beyond_a_bound_are_counted_as_one() -> None:
    stats = Stats(["t"])
    for number in range(MOST_NAMES + 7):
        stats.count(Who(cluster="east", zone="east-a", pod=f"pod-{number}"))
    assert len(stats.spread.pods) == MOST_NAMES + 1
    assert stats.spread.pods["other"] == 7
    assert stats.spread.clusters == {"east": MOST_NAMES + 7}
    assert len(stats.take_new_pods()) == len(stats.cluster_of) == MOST_NAMES
