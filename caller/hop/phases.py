"""The phases of one call: their order, their durations, and the clock that measures them."""

import time
from typing import Any, Literal, get_args

from pydantic import Field

from common.messages import Wire

Phase = Literal["dns", "connect", "tls", "send", "wait", "body"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order in which they follow one another."""


class Phases(Wire):
    """Duration of each phase, in ms; null: the call did not have it (`dns`, `connect`, `tls` of a reused connection).

    The first six add up to `roundTripTimeMillis`. A phase includes the caller's own work right before it; the phase in
    which a call failed lasts until it failed. The producer's two, by its `Server-Timing`, and `networkMillis` divide
    `waitMillis`; the rest of it is the delay of the caller's event loop.
    """

    dns_millis: float | None = None
    connect_millis: float | None = None
    tls_millis: float | None = None
    send_millis: float | None = None
    wait_millis: float | None = None
    body_millis: float | None = None
    producer_delay_millis: float | None = Field(default=None, description="the injected delay")
    producer_work_millis: float | None = Field(default=None, description="the producer's own work")
    network_millis: float | None = Field(
        default=None, description="waitMillis minus the two of the producer and the delay of the caller's event loop"
    )
    event_loop_delay_millis: float | None = Field(
        default=None,
        description="how late the caller's own event loop was, over all phases: from when the kernel was ready until"
        " the caller went on; null: not measured",
    )
    delayed_phases: list[Phase] = Field(
        default=[], description="phases of which the delay of the event loop is more than 10 %, and more than 1 ms"
    )


EVENT_LOOP_SHARE = 0.1
"""Share of a phase above which the event loop's delay is reported for it."""
EVENT_LOOP_MILLIS = 1.0
"""Delays below this are not reported: the ordinary work of the caller, a few tenths of a ms for a new connection."""


class CallClock:
    """Measures the phases of one call, and keeps what the call shows of its connection.

    The phases follow one another without a gap, so that they add up to the round trip. Times are those of
    `time.perf_counter`.
    """

    __slots__ = (
        "addresses", "connection", "delays", "ended", "last", "millis", "open", "sent_headers", "started", "started_at"
    )  # fmt: skip

    def __init__(self) -> None:
        self.open: Phase = "connect"
        self.millis: dict[str, float] = {}
        self.delays: dict[Phase, float] = {}
        self.addresses: list[str] = []
        self.connection: dict[str, Any] = {}
        self.sent_headers: list[tuple[bytes, bytes]] = []
        self.ended = False
        self.start()

    def start(self) -> None:
        """The call starts now; what was done before it is not a part of a phase."""
        self.started_at = time.time()
        self.started = self.last = time.perf_counter()

    def close(self, phase: Phase, then: Phase, *, at: float | None = None, delay: float = 0.0) -> None:
        """End the phase; `then` is open from now on.

        :param at: when it ended; default: now.
        :param delay: of the event loop in noticing it, in seconds.
        """
        now = time.perf_counter() if at is None else at
        key = f"{phase}_millis"
        self.millis[key] = self.millis.get(key, 0.0) + (now - self.last) * 1000
        self.last = now
        self.open = then
        if delay:
            self.late(phase, delay)

    def late(self, phase: Phase, seconds: float) -> None:
        """The event loop was late by this much with a step of the phase."""
        self.delays[phase] = self.delays.get(phase, 0.0) + seconds * 1000

    def delays_within(self) -> dict[Phase, float]:
        """By phase, in ms, at most its duration: the kernel's receive times are of a clock that can be set."""
        return {phase: min(delay, self.millis.get(f"{phase}_millis", 0.0)) for phase, delay in self.delays.items()}

    def finish(self, at: float | None = None) -> None:
        """End the call in the phase that is open. Only the first end counts."""
        if not self.ended:
            self.ended = True
            self.close(self.open, self.open, at=at)

    def seconds(self) -> float:
        return self.last - self.started

    def phases(self, producer_delay: float | None = None, producer_work: float | None = None) -> Phases:
        """The durations; the two of the producer, in ms, divide `wait`."""
        millis, delays = self.millis, self.delays_within()
        network = None
        if producer_work is not None and "wait_millis" in millis:
            spent = (producer_delay or 0.0) + producer_work + delays.get("wait", 0.0)
            network = round(max(millis["wait_millis"] - spent, 0.0), 3)
        return Phases(
            producer_delay_millis=producer_delay,
            producer_work_millis=producer_work,
            network_millis=network,
            event_loop_delay_millis=round(sum(delays.values()), 3) if delays else None,
            delayed_phases=[
                phase
                for phase, delay in delays.items()
                if delay > EVENT_LOOP_MILLIS and delay > EVENT_LOOP_SHARE * millis.get(f"{phase}_millis", 0.0)
            ],
            **{name: round(duration, 3) for name, duration in millis.items()},
        )
