"""The client span of a call. Imported only when traces are enabled.

Created by hand, because instrumentations of HTTP clients end their span with the head of the reply: before the body,
which identifies the producer, and so before there is an outcome.
"""

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from caller.hop.model import Hop
from caller.hop.outcome import Outcome
from caller.hop.phases import PHASES, CallClock
from caller.target import Target
from common.tracing import Tracing


class HopSpans:
    def __init__(self, tracing: Tracing) -> None:
        self.tracer = tracing.tracer

    def started(self, target: Target, clock: CallClock, *, for_request: bool) -> "HopSpan":
        """The span of a call that starts now.

        :param for_request: the span of the inbound request is its parent. Otherwise it is the root of a new trace, with
            a link to the request: a run has more calls than a trace can show.
        """
        current = trace.get_current_span().get_span_context()
        span = self.tracer.start_span(
            f"POST {target.url.path}",
            context=None if for_request else Context(),
            kind=SpanKind.CLIENT,
            # https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client-span
            attributes={
                "http.request.method": "POST",
                "server.address": target.host,
                "server.port": target.port,
                "url.full": str(target.url),
                "url.template": target.url.path,
            },
            links=[Link(current)] if current.is_valid and not for_request else (),
            start_time=nanos(clock.started_at),
        )
        return HopSpan(span, clock)


class HopSpan:
    def __init__(self, span: trace.Span, clock: CallClock) -> None:
        self.span = span
        self.clock = clock

    def inject(self, headers: dict[str, str]) -> None:
        """Put this span into the request headers, as `OTEL_PROPAGATORS` configures; inbound `baggage` stays."""
        propagate.inject(headers, trace.set_span_in_context(self.span, Context()))

    def end(self, hop: Hop) -> None:
        if self.span.is_recording():
            self.span.set_attributes(attributes(hop))
            self.add_phases(hop)
            if hop.outcome is not Outcome.OK:
                self.failed(hop.outcome, hop.error)
        self.finish()

    def cancelled(self) -> None:
        self.span.set_attribute("caller.hop.outcome", Outcome.CANCELLED)
        self.failed(Outcome.CANCELLED, "the client disconnected")
        self.finish()

    def failed(self, outcome: Outcome, text: str | None) -> None:
        self.span.set_attribute("error.type", outcome)
        self.span.set_status(StatusCode.ERROR, text)

    def add_phases(self, hop: Hop) -> None:
        """An event at the end of each phase."""
        ended = self.clock.started_at
        for phase in PHASES:
            millis = getattr(hop.phases, f"{phase}_millis")
            if millis is not None:
                ended += millis / 1000
                self.span.add_event(phase, {"caller.hop.phase.duration": millis / 1000}, nanos(ended))

    def finish(self) -> None:
        self.span.end(nanos(self.clock.started_at + self.clock.seconds()))


def attributes(hop: Hop) -> dict[str, AttributeValue]:
    """Attributes of the hop; `caller.hop.*` have the names of the API and of the metrics."""
    there = hop.producer_metadata
    host, _, port = (hop.connection.peer_address or "").rpartition(":")
    known: dict[str, AttributeValue | None] = {
        "http.response.status_code": hop.reply_status,
        "network.peer.address": host.strip("[]") or None,
        "network.peer.port": int(port) if port else None,
        "network.protocol.version": hop.connection.http_version,
        "caller.hop.outcome": hop.outcome,
        "caller.hop.answered_by": hop.answered_by.who,
        "caller.hop.crossing": hop.crossing.label,
        "caller.hop.cross_cluster": hop.crossing.cluster,
        "caller.hop.peer.cluster": there.cluster_name if there else None,
        "caller.hop.peer.zone": there.zone if there else None,
        "caller.hop.peer.pod": there.pod_name if there else None,
        "caller.hop.connection.reused": hop.connection.reused,
    }
    return {key: value for key, value in known.items() if value is not None}


def nanos(seconds: float) -> int:
    return int(seconds * 1e9)
