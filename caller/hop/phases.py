"""The phases of one call: their order, their durations, and the clock that measures them."""

import time
from typing import Any, Literal, get_args

from pydantic import Field

from common.messages import Headers, Wire

Phase = Literal["dns", "connect", "tls", "send", "wait", "body"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order in which they follow one another."""


class Phases(Wire):
    """Duration of each phase, in ms; null: the call did not have it (`dns`, `connect`, `tls` of a reused connection).

    The first six add up to `roundTripTimeMillis`. A phase includes the caller's own work right before it; the phase in
    which a call failed lasts until it failed. The last three divide `waitMillis`, by the producer's `Server-Timing`.
    """

    dns_millis: float | None = None
    connect_millis: float | None = None
    tls_millis: float | None = None
    send_millis: float | None = None
    wait_millis: float | None = None
    body_millis: float | None = None
    producer_delay_millis: float | None = Field(default=None, description="the injected delay")
    producer_work_millis: float | None = Field(default=None, description="the producer's own work")
    network_millis: float | None = Field(default=None, description="waitMillis minus the two of the producer")


class CallClock:
    """Measures the phases of one call, and keeps what the call shows of its connection.

    The phases follow one another without a gap, so that they add up to the round trip.
    """

    __slots__ = ("addresses", "connection", "last", "millis", "open", "sent_headers", "started", "started_at")

    def __init__(self) -> None:
        self.started = self.last = time.perf_counter()
        self.started_at = time.time()
        self.open: Phase = "connect"
        self.millis: dict[str, float] = {}
        self.addresses: list[str] = []
        self.connection: dict[str, Any] = {}
        self.sent_headers: Headers = {}

    def close(self, phase: Phase, then: Phase) -> None:
        """End the phase now; `then` is open from now on."""
        now = time.perf_counter()
        key = f"{phase}_millis"
        self.millis[key] = self.millis.get(key, 0.0) + (now - self.last) * 1000
        self.last = now
        self.open = then

    def finish(self) -> None:
        self.close(self.open, self.open)

    def seconds(self) -> float:
        return self.last - self.started

    def phases(self) -> Phases:
        return Phases.model_validate({name: round(millis, 3) for name, millis in self.millis.items()})
