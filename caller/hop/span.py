"""The client span of a hop. Imported only when settings ask for traces.

Made by hand, because instrumentations of HTTP clients end their span with the head of the reply: before its body, which
says who answered, and so before there is an outcome.
"""

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from caller.hop.outcome import Hop, Outcome
from caller.hop.wire import Trace
from caller.target import Target
from common.tracing import Tracing

PHASES = ("dns", "connect", "tls", "send", "wait", "body")
"""In the order in which they follow one another."""


class HopSpans:
    def __init__(self, tracing: Tracing) -> None:
        self.tracer = tracing.tracer

    def started(self, target: Target, call: Trace, *, for_request: bool) -> "HopSpan":
        """The span of a call that starts now.

        :param for_request: the span of the request is its parent. Else it is the root of a trace of its own, with a
            link to what asked for it: a run has more calls than a trace can show.
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
            start_time=nanos(call.started_at),
        )
        return HopSpan(span, call)


class HopSpan:
    def __init__(self, span: trace.Span, call: Trace) -> None:
        self.span = span
        self.call = call

    def inject(self, headers: dict[str, str]) -> None:
        """Put this span into the headers of the request, as `OTEL_PROPAGATORS` says; `baggage` stays as it came."""
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
        self.failed(Outcome.CANCELLED, "whoever asked for the call went away")
        self.finish()

    def failed(self, outcome: Outcome, text: str | None) -> None:
        self.span.set_attribute("error.type", outcome)
        self.span.set_status(StatusCode.ERROR, text)

    def add_phases(self, hop: Hop) -> None:
        """An event at the end of each phase."""
        ended = self.call.started_at
        for phase in PHASES:
            millis = getattr(hop.phases, f"{phase}_millis")
            if millis is not None:
                ended += millis / 1000
                self.span.add_event(phase, {"caller.hop.phase.duration": millis / 1000}, nanos(ended))

    def finish(self) -> None:
        self.span.end(nanos(self.call.started_at + self.call.seconds()))


def attributes(hop: Hop) -> dict[str, AttributeValue]:
    """What is known of the hop; `caller.hop.*` are the words of the API and of the metrics."""
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
