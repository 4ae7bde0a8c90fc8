"""Many calls at a rate: who answered, how long it took, how long the gap was.

The loop is open: a call starts at its intended time whether or not earlier ones came back, and latency counts from the
intended start, so that a slow producer does not hide its slowness by slowing the caller (coordinated omission). How
late the schedule itself was is reported. A call that is due while `RUN_MAX_IN_FLIGHT` are open is left out.

The shape is the one that survives a client hanging up: a context manager owns the tasks, events go through a bounded
stream, and a run ends with an event of its own.
"""

import asyncio
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Literal

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from hdrh.histogram import HdrHistogram
from pydantic import Field

from caller.hop.client import ProducerClient
from caller.hop.metrics import MOST_PEERS, RunMetrics
from caller.hop.outcome import Hop, Outcome
from caller.hop.wire import ConnectionMode
from caller.target import Target
from common.lifecycle import Lifecycle
from common.messages import LOCAL, Message, Wire

TICK_SECONDS = 0.5
LAST_CALLS_SECONDS = 1.0
"""How long a run that is stopped waits for the calls that are open."""
BUFFERED_EVENTS = 64
"""Events that wait for a slow reader; while it is full, ticks and gaps are left out, the last event waits."""
LONGEST_MICROS = 700_000_000
"""The highest latency a histogram tells apart, above the longest time-out of a call; 3 digits are kept."""
MOST_NAMES = 500
"""Clusters, zones or pods that are counted by name; more are `other`."""
MOST_GAPS = 1000
"""Gaps that a summary lists; more are counted."""
FEWEST_PER_POD = 5
"""Calls that each pod should have got before a spread is judged (the usual rule for a chi-squared test)."""


class RunSpec(Wire):
    """What is run."""

    targets: list[str] = Field(description="called in turn")
    message: Message
    rate: float = Field(description="calls a second")
    count: int = Field(description="calls in all")
    connection: ConnectionMode
    timeout_seconds: float = Field(description="for one call")
    max_in_flight: int


class Latency(Wire):
    """Of some calls, in ms."""

    count: int
    p50_millis: float | None = None
    p90_millis: float | None = None
    p99_millis: float | None = None
    max_millis: float | None = None


class PeerStats(Wire):
    """The calls that one cluster answered; `unknown` are those that nobody answered, or without a name."""

    cluster: str
    latency: Latency = Field(description="from the intended start of a call")
    service_time: Latency = Field(description="from its real start")


class Spread(Wire):
    """How many calls each answered."""

    clusters: dict[str, int]
    zones: dict[str, int]
    pods: dict[str, int]


class Progress(Wire):
    """How far a run is."""

    elapsed_seconds: float
    offered: int = Field(description="calls that were due")
    sent: int = Field(description="calls that were started")
    left_out: int = Field(description="calls that were due while `maxInFlight` were open")
    done: int
    in_flight: int
    rate: float = Field(description="calls started a second, while they were being started")
    outcomes: dict[str, int]
    peers: list[PeerStats]
    spread: Spread
    lateness: Latency = Field(description="how late calls were started: the caller's own doing")


class Who(Wire):
    """Who answered a call."""

    cluster: str | None
    zone: str | None
    pod: str | None


class Gap(Wire):
    """Calls to one target that failed in a row: from the start of the first to the start of the next that did not.

    Starts are the intended ones, so a gap is as much too short or too long as the schedule was late at its ends.
    """

    target: str
    at_seconds: float = Field(description="since the start of the run")
    millis: float
    calls_lost: int
    outcomes: dict[str, int]
    before: Who | None = Field(description="who answered the last call before; null: none did")
    after: Who | None = Field(description="who answered the first call after; null: the run ended in the gap")


class Evenness(Wire):
    """Whether the pods that answered got equal shares."""

    verdict: Literal["even", "uneven", "one pod", "too few calls", "nobody answered"]
    pods: int
    chi_squared: float | None = None
    p_value: float | None = Field(default=None, description="how likely so uneven a spread is by chance")


class Histograms(Wire):
    """HdrHistograms of µs in their encoded form (V2, compressed, base64), which add up."""

    latency: dict[str, str] = Field(description="by cluster")
    service_time: dict[str, str] = Field(description="by cluster")
    lateness: str


class Summary(Progress):
    """The whole run."""

    gaps: list[Gap] = Field(description="at most 1,000 of them")
    gap_count: int
    longest_gap_millis: float
    failures: int = Field(description="calls whose outcome was not `ok`")
    evenness: Evenness
    histograms: Histograms


class Started(Wire):
    type: Literal["started"] = "started"
    run: RunSpec


class Tick(Wire):
    type: Literal["tick"] = "tick"
    progress: Progress
    recent: Latency = Field(description="from the intended start, of the calls that came back since the last tick")
    answered: dict[str, int] = Field(description="of those, the `ok` ones by cluster")
    failed: dict[str, int] = Field(description="of those, the others by outcome")
    new_pods: list[Who] = Field(description="seen for the first time since the last tick")


class GapClosed(Wire):
    type: Literal["gap"] = "gap"
    gap: Gap


class Done(Wire):
    type: Literal["done"] = "done"
    ended: Literal["complete", "stopped"] = Field(description="stopped: before all calls were made")
    reason: str | None = None
    summary: Summary


class Failed(Wire):
    type: Literal["failed"] = "failed"
    reason: str


Event = Annotated[Started | Tick | GapClosed | Done | Failed, Field(discriminator="type")]
EVENT_KINDS = (Started, Tick, GapClosed, Done, Failed)


class Run:
    """One run. `stop` ends it early, with its summary."""

    def __init__(
        self,
        client: ProducerClient,
        spec: RunSpec,
        targets: Sequence[Target],
        metrics: RunMetrics,
        lifecycle: Lifecycle,
    ) -> None:
        self.client = client
        self.spec = spec
        self.targets = targets
        self.metrics = metrics
        self.lifecycle = lifecycle
        self.stopped = asyncio.Event()
        self.room = asyncio.Event()
        """Set when a call ends; cleared by whoever waits for it."""
        self.stop_reason: str | None = None
        self.started = 0.0
        self.stats = Stats([target.name for target in targets])

    def stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason
        self.stopped.set()
        self.room.set()

    async def go(self, events: MemoryObjectSendStream[Event]) -> None:
        """Make all calls, with events on the way; the last is `done`, or `failed` if the caller has a bug."""
        async with events:
            await events.send(Started(run=self.spec))
            self.started = time.perf_counter()
            try:
                async with anyio.create_task_group() as around:
                    around.start_soon(self.tick, events)
                    with anyio.CancelScope() as open_calls:
                        around.start_soon(self.cut_off, open_calls)
                        async with asyncio.TaskGroup() as calls:  # anyio's takes four times as long to start a task
                            await self.start_calls(calls, events)
                            self.stats.starting_seconds = max(self.elapsed(), self.stats.offered / self.spec.rate)
                    around.cancel_scope.cancel()
                self.tell(events, self.stats.end_gaps(self.elapsed()))
                self.tell_progress(events)
                ended: Literal["complete", "stopped"] = "stopped" if self.stop_reason else "complete"
                summary = self.stats.summary(self.elapsed())
                await events.send(Done(ended=ended, reason=self.stop_reason, summary=summary))
            except Exception as bug:
                await events.send(Failed(reason=f"a bug of the caller: {bug!r}"))
                raise

    async def cut_off(self, open_calls: anyio.CancelScope) -> None:
        """Give the calls that are open when the run is stopped a moment, and then no more."""
        await self.stopped.wait()
        open_calls.deadline = anyio.current_time() + LAST_CALLS_SECONDS

    def tell(self, events: MemoryObjectSendStream[Event], gaps: Sequence[Gap]) -> None:
        """A reader that does not keep up misses gaps here and finds them in the summary; no call waits for it."""
        for gap in gaps:
            with suppress(anyio.WouldBlock):
                events.send_nowait(GapClosed(gap=gap))

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    async def start_calls(self, calls: asyncio.TaskGroup, events: MemoryObjectSendStream[Event]) -> None:
        """Start each call at its intended time; those that are overdue at once, one after the other."""
        number = 0
        while number < self.spec.count:
            intended = number / self.spec.rate
            # Again, because uvloop's timers go off up to a millisecond early.
            while (wait := intended - self.elapsed()) > 0 and not self.stopped.is_set():
                await self.pause(wait)
            if self.stopped.is_set():
                return
            if self.stats.in_flight >= self.spec.max_in_flight:
                await self.call_ended()
                due = max(number, int(self.elapsed() * self.spec.rate)) + 1
                due = min(due, self.spec.count)
                self.stats.leave_out(due - number)
                number = due
                continue
            lateness = self.elapsed() - intended
            self.stats.start(self.targets[number % len(self.targets)].name, number, lateness)
            self.metrics.lateness.observe(lateness)
            calls.create_task(self.call(number, intended, events))
            number += 1
            # Lets the call begin before the next is counted as started, and replies be read while calls are overdue.
            await asyncio.sleep(0)

    async def pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopped.wait()
        except TimeoutError:
            pass

    async def call_ended(self) -> None:
        """Wait for an open call to end: waking for each call that is due meanwhile would take time from those open.

        For a fifth of a tick at most, since ticks tell how many calls are left out.
        """
        self.room.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_SECONDS / 5):
                await self.room.wait()

    async def call(self, number: int, intended: float, events: MemoryObjectSendStream[Event]) -> None:
        target = self.targets[number % len(self.targets)]
        message = self.spec.message.model_copy(update={"id": f"{self.spec.message.id}-{number}"})
        try:
            hop = await self.client.call(
                message, target, connection=self.spec.connection, timeout_seconds=self.spec.timeout_seconds
            )
        except asyncio.CancelledError:
            self.tell(events, self.stats.give_up(target.name, number, intended))
            raise
        finally:
            self.room.set()
        self.tell(events, self.stats.end(target.name, number, intended, self.elapsed() - intended, hop))

    async def tick(self, events: MemoryObjectSendStream[Event]) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(max(self.started + number * TICK_SECONDS - time.perf_counter(), 0))
            if self.lifecycle.draining:
                self.stop("the caller is stopping")
            self.tell_progress(events)

    def tell_progress(self, events: MemoryObjectSendStream[Event]) -> None:
        event = Tick(
            progress=self.stats.progress(self.elapsed()),
            recent=self.stats.take_recent(),
            answered=self.stats.take(self.stats.recently_answered),
            failed=self.stats.take(self.stats.recently_failed),
            new_pods=self.stats.take_new_pods(),
        )
        try:
            events.send_nowait(event)
        except anyio.WouldBlock:
            self.stats.new_pods = event.new_pods + self.stats.new_pods
            self.stats.recently_answered.update(event.answered)
            self.stats.recently_failed.update(event.failed)


@asynccontextmanager
async def running(run: Run) -> AsyncIterator[MemoryObjectReceiveStream[Event]]:
    """The events of a run, which goes on for as long as the context is open: leaving it cancels every call at once."""
    sender, receiver = anyio.create_memory_object_stream[Event](BUFFERED_EVENTS)
    with run.metrics.runs_active.track_inprogress():
        async with receiver, anyio.create_task_group() as tasks:
            tasks.start_soon(run.go, sender)
            try:
                yield receiver
            finally:
                tasks.cancel_scope.cancel()


class Stats:
    """What is counted while a run goes on. What grows with calls is kept only until those before them came back."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.offered = self.sent = self.left_out = self.done = 0
        self.outcomes: Counter[str] = Counter()
        self.latency: dict[str, HdrHistogram] = {}
        self.service_time: dict[str, HdrHistogram] = {}
        self.lateness = histogram()
        self.recent = histogram()
        self.recently_answered: Counter[str] = Counter()
        self.recently_failed: Counter[str] = Counter()
        self.spread = Spread(clusters={}, zones={}, pods={})
        self.cluster_of: dict[str, str | None] = {}
        self.new_pods: list[Who] = []
        self.gaps: list[Gap] = []
        self.gap_count = 0
        self.longest_gap = 0.0
        self.starting_seconds: float | None = None
        self.watches = {name: GapWatch(name) for name in targets}

    @property
    def in_flight(self) -> int:
        return self.sent - self.done

    def leave_out(self, calls: int) -> None:
        self.offered += calls
        self.left_out += calls

    def start(self, target: str, number: int, lateness: float) -> None:
        self.offered += 1
        self.sent += 1
        self.watches[target].expect(number)
        record(self.lateness, lateness)

    def end(self, target: str, number: int, intended: float, latency: float, hop: Hop) -> list[Gap]:
        """Count one call that came back; the gaps that are closed by it."""
        self.done += 1
        self.outcomes[hop.outcome] += 1
        who = who_answered(hop)
        cluster = who.cluster if who and who.cluster else "unknown"
        if cluster not in self.latency:
            cluster = cluster if len(self.latency) < MOST_PEERS else "other"
            self.latency.setdefault(cluster, histogram())
            self.service_time.setdefault(cluster, histogram())
        record(self.latency[cluster], latency)
        record(self.recent, latency)
        record(self.service_time[cluster], hop.round_trip_time_millis / 1000)
        if hop.outcome is Outcome.OK:
            self.recently_answered[cluster] += 1
        else:
            self.recently_failed[hop.outcome] += 1
        if who is not None:
            self.count(who)
        return self.keep(self.watches[target].saw(number, intended, hop.outcome, who))

    def give_up(self, target: str, number: int, intended: float) -> list[Gap]:
        """Count one call that was cut off when the run was stopped."""
        self.done += 1
        self.outcomes[Outcome.CANCELLED] += 1
        self.recently_failed[Outcome.CANCELLED] += 1
        return self.keep(self.watches[target].saw(number, intended, Outcome.CANCELLED, None))

    def keep(self, gaps: list[Gap]) -> list[Gap]:
        self.gap_count += len(gaps)
        self.longest_gap = max([self.longest_gap, *(gap.millis for gap in gaps)])
        self.gaps += gaps[: MOST_GAPS - len(self.gaps)]
        return gaps

    def count(self, who: Who) -> None:
        pod = who.pod
        if pod is not None:
            # A StatefulSet has pods of the same names in every cluster.
            if self.cluster_of.get(pod, who.cluster) != who.cluster:
                pod = f"{pod} in {who.cluster}"
            if pod not in self.spread.pods and len(self.spread.pods) < MOST_NAMES:
                self.cluster_of[pod] = who.cluster
                self.new_pods.append(who)
        for names, name in (
            (self.spread.clusters, who.cluster or "unknown"),
            (self.spread.zones, who.zone or "unknown"),
            (self.spread.pods, pod or "unknown"),
        ):
            known = name if name in names or len(names) < MOST_NAMES else "other"
            names[known] = names.get(known, 0) + 1

    def take_recent(self) -> Latency:
        recent, self.recent = self.recent, histogram()
        return latency_of(recent)

    def take(self, counter: Counter[str]) -> dict[str, int]:
        taken = dict(counter)
        counter.clear()
        return taken

    def take_new_pods(self) -> list[Who]:
        pods, self.new_pods = self.new_pods, []
        return pods

    def end_gaps(self, elapsed: float) -> list[Gap]:
        """The gaps that the end of the run leaves open."""
        return self.keep([gap for watch in self.watches.values() for gap in watch.end(elapsed)])

    def progress(self, elapsed: float) -> Progress:
        return Progress(
            elapsed_seconds=round(elapsed, 3),
            offered=self.offered,
            sent=self.sent,
            left_out=self.left_out,
            done=self.done,
            in_flight=self.in_flight,
            rate=round(self.sent / (self.starting_seconds or elapsed), 3) if elapsed else 0,
            outcomes=dict(self.outcomes),
            peers=[
                PeerStats(
                    cluster=cluster, latency=latency_of(latency), service_time=latency_of(self.service_time[cluster])
                )
                for cluster, latency in sorted(self.latency.items())
            ],
            spread=self.spread.model_copy(deep=True),
            lateness=latency_of(self.lateness),
        )

    def summary(self, elapsed: float) -> Summary:
        return Summary(
            **dict(self.progress(elapsed)),
            gaps=self.gaps,
            gap_count=self.gap_count,
            longest_gap_millis=self.longest_gap,
            failures=self.done - self.outcomes[Outcome.OK],
            evenness=evenness(self.spread.pods),
            histograms=Histograms(
                latency={cluster: encoded(found) for cluster, found in self.latency.items()},
                service_time={cluster: encoded(found) for cluster, found in self.service_time.items()},
                lateness=encoded(self.lateness),
            ),
        )


class GapWatch:
    """Finds gaps in the calls to one target. Calls count in the order of their start; they come back in another."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.expected: deque[int] = deque()
        self.back: dict[int, tuple[float, Outcome, Who | None]] = {}
        self.last_answer: Who | None = None
        self.since: float | None = None
        self.outcomes: Counter[str] = Counter()

    def expect(self, number: int) -> None:
        """The call was started."""
        self.expected.append(number)

    def saw(self, number: int, intended: float, outcome: Outcome, who: Who | None) -> list[Gap]:
        """The call came back; the gaps that are known to be closed by now."""
        self.back[number] = (intended, outcome, who)
        gaps = []
        while self.expected and self.expected[0] in self.back:
            if gap := self.follow(*self.back.pop(self.expected.popleft())):
                gaps.append(gap)
        return gaps

    def follow(self, intended: float, outcome: Outcome, who: Who | None) -> Gap | None:
        if outcome is not Outcome.OK:
            if self.since is None:
                self.since = intended
            self.outcomes[outcome] += 1
            return None
        gap = self.close(intended, who) if self.since is not None else None
        self.last_answer = who
        return gap

    def close(self, until: float, after: Who | None) -> Gap:
        since = self.since or 0.0
        gap = Gap(
            target=self.target,
            at_seconds=round(since, 3),
            millis=round((until - since) * 1000, 3),
            calls_lost=self.outcomes.total(),
            outcomes=dict(self.outcomes),
            before=self.last_answer,
            after=after,
        )
        self.since = None
        self.outcomes.clear()
        return gap

    def end(self, elapsed: float) -> list[Gap]:
        """Count what came back after a call that never did, and close the gap that is open."""
        gaps = []
        for number in sorted(self.back):
            if gap := self.follow(*self.back[number]):
                gaps.append(gap)
        self.back.clear()
        self.expected.clear()
        if self.since is not None:
            gaps.append(self.close(max(elapsed, self.since), None))
        return gaps


def calls_in(rate: float, seconds: float) -> int:
    """How many calls are due in that time, at least one; 0.57/s for 100 s are 57, whatever the floats say."""
    return max(1, math.floor(rate * seconds + 1e-6))


def who_answered(hop: Hop) -> Who | None:
    there = hop.producer_metadata
    if there is None:
        return None
    return Who(
        **{
            name: value if value != LOCAL else None
            for name, value in (("cluster", there.cluster_name), ("zone", there.zone), ("pod", there.pod_name))
        }
    )


def histogram() -> HdrHistogram:
    return HdrHistogram(1, LONGEST_MICROS, 3)


def record(found: HdrHistogram, seconds: float) -> None:
    found.record_value(min(max(int(seconds * 1e6), 1), LONGEST_MICROS))


def latency_of(found: HdrHistogram) -> Latency:
    if not found.get_total_count():
        return Latency(count=0)
    values = found.get_percentile_to_value_dict([50, 90, 99])
    return Latency(
        count=found.get_total_count(),
        p50_millis=values[50] / 1000,
        p90_millis=values[90] / 1000,
        p99_millis=values[99] / 1000,
        max_millis=found.get_max_value() / 1000,
    )


def encoded(found: HdrHistogram) -> str:
    text: bytes = found.encode()
    return text.decode("ascii")


def evenness(pods: dict[str, int]) -> Evenness:
    """A chi-squared test against equal shares of the pods that answered."""
    counts = [count for name, count in pods.items() if name != "unknown"]
    total = sum(counts)
    if not total:
        return Evenness(verdict="nobody answered", pods=0)
    if len(counts) == 1:
        return Evenness(verdict="one pod", pods=1)
    expected = total / len(counts)
    if expected < FEWEST_PER_POD:
        return Evenness(verdict="too few calls", pods=len(counts))
    chi_squared = sum((count - expected) ** 2 / expected for count in counts)
    p_value = chi_squared_tail(chi_squared, len(counts) - 1)
    return Evenness(
        verdict="even" if p_value >= 0.01 else "uneven",
        pods=len(counts),
        chi_squared=round(chi_squared, 3),
        p_value=round(p_value, 6),
    )


def chi_squared_tail(value: float, freedom: int) -> float:
    """P(X > value), by the cube-root approximation of Wilson and Hilferty (1931); good to about 0.01."""
    if value <= 0:
        return 1.0
    variance = 2 / (9 * freedom)
    normal = ((value / freedom) ** (1 / 3) - (1 - variance)) / variance**0.5
    return 0.5 * math.erfc(normal / math.sqrt(2))
