"""The engine of a run: many calls at a rate.

The loop is open: a call starts at its intended time whether or not earlier ones have completed, and latency counts from
the intended start, so that a slow producer cannot hide its slowness by slowing the caller (coordinated omission). The
scheduling delay is reported. A call that is due while `RUN_MAX_IN_FLIGHT` are in flight is dropped.

A context manager owns the tasks, events go through a bounded stream, and a run ends with an event of its own: this
structure survives a client that disconnects.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from caller.hop.client import ProducerClient
from caller.run.metrics import RunMetrics
from caller.run.model import Done, Event, Failed, Outage, OutageClosed, RunSpec, Started, Tick
from caller.run.stats import Stats
from caller.target import Target
from common.middleware.draining import Lifecycle

TICK_SECONDS = 0.5
LAST_CALLS_SECONDS = 1.0
"""How long a stopped run waits for the calls in flight."""
BUFFERED_EVENTS = 64
"""Events buffered for a slow reader; while it is full, ticks and outages are dropped, the last event waits."""


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
        """Set when a call ends; cleared before waiting for it."""
        self.stop_reason: str | None = None
        self.started = 0.0
        self.stats = Stats([target.name for target in targets])

    def stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason
        self.stopped.set()
        self.room.set()

    async def go(self, events: MemoryObjectSendStream[Event]) -> None:
        """Make all calls and send events; the last event is `done`, or `failed` after an internal error."""
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
                self.send_outages(events, self.stats.end_outages(self.elapsed()))
                self.send_tick(events)
                ended: Literal["complete", "stopped"] = "stopped" if self.stop_reason else "complete"
                summary = self.stats.summary(self.elapsed())
                await events.send(Done(ended=ended, reason=self.stop_reason, summary=summary))
            except Exception as bug:
                await events.send(Failed(reason=f"internal error of the caller: {bug!r}"))
                raise

    async def cut_off(self, open_calls: anyio.CancelScope) -> None:
        """After a stop, cancel the calls that are in flight for longer than `LAST_CALLS_SECONDS`."""
        await self.stopped.wait()
        open_calls.deadline = anyio.current_time() + LAST_CALLS_SECONDS

    def send_outages(self, events: MemoryObjectSendStream[Event], outages: Sequence[Outage]) -> None:
        """Without waiting: a reader that does not keep up misses outages here and finds them in the summary."""
        for outage in outages:
            with suppress(anyio.WouldBlock):
                events.send_nowait(OutageClosed(outage=outage))

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    async def start_calls(self, calls: asyncio.TaskGroup, events: MemoryObjectSendStream[Event]) -> None:
        """Start each call at its intended time; overdue calls immediately, one after the other."""
        number = 0
        while number < self.spec.count:
            intended = number / self.spec.rate
            # A loop, because uvloop's timers fire up to a millisecond early.
            while (wait := intended - self.elapsed()) > 0 and not self.stopped.is_set():
                await self.pause(wait)
            if self.stopped.is_set():
                return
            if self.stats.in_flight >= self.spec.max_in_flight:
                await self.call_ended()
                due = max(number, int(self.elapsed() * self.spec.rate)) + 1
                due = min(due, self.spec.count)
                self.stats.drop(due - number)
                number = due
                continue
            delay = self.elapsed() - intended
            self.stats.start(self.targets[number % len(self.targets)].name, number, delay)
            self.metrics.scheduling_delay.observe(delay)
            calls.create_task(self.call(number, intended, events))
            number += 1
            # Lets the call begin before the next one counts as started, and replies be read while calls are overdue.
            await asyncio.sleep(0)

    async def pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopped.wait()
        except TimeoutError:
            pass

    async def call_ended(self) -> None:
        """Wait for a call to end: waking for each call that becomes due would slow down those in flight.

        At most a fifth of a tick, because ticks report how many calls are dropped.
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
            self.send_outages(events, self.stats.cut_off(target.name, number, intended))
            raise
        finally:
            self.room.set()
        self.send_outages(events, self.stats.end(target.name, number, intended, self.elapsed() - intended, hop))

    async def tick(self, events: MemoryObjectSendStream[Event]) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(max(self.started + number * TICK_SECONDS - time.perf_counter(), 0))
            if self.lifecycle.draining:
                self.stop("the caller is stopping")
            self.send_tick(events)

    def send_tick(self, events: MemoryObjectSendStream[Event]) -> None:
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
    """The events of a run that lasts as long as the context is open: leaving it cancels all calls immediately."""
    sender, receiver = anyio.create_memory_object_stream[Event](BUFFERED_EVENTS)
    with run.metrics.runs_active.track_inprogress():
        async with receiver, anyio.create_task_group() as tasks:
            tasks.start_soon(run.go, sender)
            try:
                yield receiver
            finally:
                tasks.cancel_scope.cancel()


def calls_in(rate: float, seconds: float) -> int:
    """Number of calls due in that time, at least one; 0.57/s for 100 s are 57, in spite of rounding errors."""
    return max(1, math.floor(rate * seconds + 1e-6))
